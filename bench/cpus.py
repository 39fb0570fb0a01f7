"""Whether this machine's CPUs are alike: the same case, bound to one after the other, in fresh processes, in rounds.

Of a virtual machine's CPUs one may share its core with others more than the rest: no load, no steal, and yet an
inference takes up to 15 % longer there, for seconds or minutes, while the CPU beside it is as fast as ever. Source:
squeezenet on two CPUs of one such machine, 24 processes on each in turns, twice: standard deviations 0.6 and 3.3 %,
then 0.3 and 2.1 % (x86-64, 2026-11). What neighbours do to the core alone, bench/evidence/yardstick.py tells.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from bench.evidence.yardstick import fastest_of, sampled
from bench.fold import noisy
from bench.place import Place
from bench.record import MAX_FOREIGN_CPU
from bench.trial import TrialPlan, run_trial

# A machine with many is sampled: so many of them, evenly.
MOST_CPUS = 4
FEWEST_TRIALS, MOST_TRIALS = 6, 12
# A CPU is told of only if it is this much slower than the best one, and by two standard errors; or if its processes
# differ by more than half of that, and by so many times as much as the best one's. Source of the second: the F
# distribution's 1 % point for six trials of each is 11, for twelve 4.5; its roots are 3.3 and 2.1.
SLOWER = 0.01
UNSTEADY = 3.3


@dataclass(frozen=True, slots=True)
class Cpu:
    """One CPU: the medians of its trials, in nanoseconds.

    `shared`: the share of the yardstick's readings that show somebody else on its core. None where there are none.
    """

    cpu: int
    p50_ns: tuple[float, ...]
    shared: float | None = None

    @property
    def mean_ns(self) -> float:
        """Of the medians: bursts count."""
        return statistics.mean(self.p50_ns)

    @property
    def spread(self) -> float:
        """The standard deviation of its trials, as a share."""
        return statistics.stdev(self.p50_ns) / self.mean_ns


@dataclass(frozen=True, slots=True)
class Alike:
    """What was seen of each CPU, the numbers of those to keep away from, and why not where nothing was."""

    cpus: tuple[Cpu, ...] = ()
    worse: tuple[int, ...] = ()
    problem: str = ""

    @property
    def best(self) -> Cpu:
        """The one whose trials are short and alike, which others are held against; there must be some."""
        return min(self.cpus, key=lambda c: c.mean_ns * (1 + c.spread))


def alike(plan: TrialPlan, usable: Sequence[int], place: Place, seconds: float, say: Callable[[str], None]) -> Alike:
    """Measure the plan on each of the CPUs for about so long, six times at least."""
    if len(usable) < 2:
        return Alike(problem="there is one CPU only")
    chosen = sampled(sorted(usable), MOST_CPUS)
    found: dict[int, list[float]] = {cpu: [] for cpu in chosen}
    quiet: dict[int, list[float]] = {cpu: [] for cpu in chosen}
    readings: dict[int, list[int]] = {cpu: [] for cpu in chosen}
    end, number, lasted = time.monotonic() + seconds, 0, 0.0
    while number < FEWEST_TRIALS or (number < MOST_TRIALS and time.monotonic() + lasted < end):
        begin = time.monotonic()
        say(f"CPUs {', '.join(map(str, chosen))}: round {number + 1}")
        for cpu in chosen if number % 2 == 0 else reversed(chosen):
            line = run_trial(place, replace(plan, options=replace(plan.options, cpus=(cpu,))), number)
            if line.error:
                return Alike(problem=f"{line.error.phase}: {line.error.message}")
            taken = statistics.median(line.series[0].samples_ns)
            found[cpu].append(taken)
            readings[cpu] += line.core.readings_ns if line.core else []
            if not noisy(line, MAX_FOREIGN_CPU):
                quiet[cpu].append(taken)
        number += 1
        lasted = time.monotonic() - begin
    return judged(quiet if min(map(len, quiet.values())) >= FEWEST_TRIALS else found, readings)


def judged(medians: Mapping[int, Sequence[float]], readings_ns: Mapping[int, Sequence[int]] | None = None) -> Alike:
    """Which CPUs are slower or less steady than the best one. `readings_ns`: of the yardstick, on each."""
    shares = _shared(readings_ns or {})
    seen = Alike(tuple(Cpu(cpu, tuple(taken), shares.get(cpu)) for cpu, taken in sorted(medians.items())))
    return replace(seen, worse=tuple(c.cpu for c in seen.cpus if c is not seen.best and _worse(c, seen.best)))


def _shared(readings_ns: Mapping[int, Sequence[int]]) -> dict[int, float]:
    """Of each CPU's readings the share that is longer than the fastest of all by more than is accepted."""
    together = [ns for taken in readings_ns.values() for ns in taken]
    if not together:
        return {}
    longest_ns = fastest_of(together) * (1 + MAX_FOREIGN_CPU)
    return {cpu: sum(ns > longest_ns for ns in taken) / len(taken) for cpu, taken in readings_ns.items() if taken}


def _worse(cpu: Cpu, good: Cpu) -> bool:
    slower = cpu.mean_ns / good.mean_ns - 1
    error = math.hypot(cpu.spread / math.sqrt(len(cpu.p50_ns)), good.spread / math.sqrt(len(good.p50_ns)))
    return slower > max(SLOWER, 2 * error) or cpu.spread > max(SLOWER / 2, UNSTEADY * good.spread)
