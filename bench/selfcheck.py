"""How well this machine measures: its clock, its sleep, our loop's cost, its neighbours, its A/A noise floor, its CPUs.

A/A: the same artefact is measured as A and as B in interleaved fresh processes, by the very worker that `run` uses.
Whatever the two differ by is noise, and no difference smaller than that can be seen here.
"""

from __future__ import annotations

import ctypes
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import NormalDist
from time import perf_counter_ns

from bench.artifacts import prepare
from bench.cpus import Alike, alike
from bench.errors import BenchError
from bench.evidence import clocks, load
from bench.evidence.cores import clusters
from bench.fold import noisy
from bench.interface import Array, Feeds, Options, Plan
from bench.measure import loop
from bench.models import resolve
from bench.parity.compare import TOLERANCES
from bench.place import Place
from bench.record import MAX_FOREIGN_CPU, TrialLine
from bench.registry import complete_options, find
from bench.trial import TrialPlan, run_trial

PR_GET_TIMERSLACK = 30
LOOK_S = 1.0
# What a comparison by `run` has of each side: the trials that give an interval over processes.
TRIALS = 6
GOAL = 0.01
FEWEST_PAIRS, MOST_PAIRS = 3, 40
# Long enough for the foreign share of /proc/stat's ticks to be told, short enough for a dozen pairs in half a minute.
A_A_PLAN = Plan(min_count=11, min_s=0.45, max_s=0.6, warmup_min_s=0.1, warmup_max_s=0.3, target=None)


@dataclass(frozen=True, slots=True)
class ClockFacts:
    """The clock of the timed loop: its smallest step, and what one reading costs."""

    resolution_ns: int
    cost_ns: float


@dataclass(frozen=True, slots=True)
class SleepFacts:
    """By how much a sleep of a millisecond is too long, and what the kernel may add to it for its own comfort."""

    overshoot_us: float
    worst_us: float
    timer_slack_us: float | None


@dataclass(frozen=True, slots=True)
class LoopFacts:
    """Nanoseconds per inference of a no-op: in a bare loop that takes the time of each call, and in ours."""

    bare_ns: float
    ours_ns: float

    @property
    def added_ns(self) -> float:
        """What ours costs more."""
        return self.ours_ns - self.bare_ns


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """Who else uses the machine now, and what moves its clocks. None where it cannot be told."""

    foreign_cpu: float | None
    steal: float | None
    busiest: tuple[tuple[str, float], ...]
    cores: int
    governor: str | None
    turbo: bool | None
    smt: bool | None
    frequency_mhz: tuple[int, int] | None
    temperature_c: float | None
    isolated: str
    virtual: bool


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """A/A of one workload: ratios A to B of the medians, pair by pair, and the share others used at worst.

    Pairs of which a trial was noisy are left out, as `run` repeats it, where enough others are left.
    `smallest`: the difference that stands out of this noise with 95 % confidence, `TRIALS` trials on either side.
    """

    workload: str
    p50_ns: int | None = None
    ratios: tuple[float, ...] = ()
    smallest: float | None = None
    foreign_cpu: float | None = None
    left_out: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """What is measured against itself."""

    backend: str
    model: str
    extra: tuple[tuple[str, str], ...] = ()


# A spin shows the machine alone; a real model shows what caches, memory and a runtime's threads add.
SPIN = Workload("fake", "tiny_mlp", (("latency_us", "990"),))
REAL = Workload("ort-cpu", "squeezenet")


def clock(count: int = 20_000) -> ClockFacts:
    """The clock, read many times in a row."""
    begin = perf_counter_ns()
    readings = [perf_counter_ns() for _ in range(count)]
    cost_ns = (perf_counter_ns() - begin) / count
    steps = [b - a for a, b in pairwise(readings) if b > a]
    return ClockFacts(min(steps, default=0), cost_ns)


def sleep(count: int = 50) -> SleepFacts:
    """Sleeps of a millisecond each."""
    over = []
    for _ in range(count):
        begin = perf_counter_ns()
        time.sleep(0.001)
        over.append((perf_counter_ns() - begin - 1_000_000) / 1000)
    return SleepFacts(statistics.median(over), max(over), _timer_slack_us())


def _timer_slack_us() -> float | None:
    try:
        slack = ctypes.CDLL(None).prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)
    except (OSError, AttributeError):
        return None
    return slack / 1000 if slack >= 0 else None


def loop_cost(rounds: int = 9, calls: int = 50_000) -> LoopFacts:
    """Our loop beside a bare one on a call that does nothing, interleaved; medians."""
    outputs: dict[str, Array] = {}
    feeds: list[Feeds] = [{}, {}]

    def run(feed: Feeds) -> dict[str, Array]:
        return outputs

    plan = Plan(min_count=calls, min_s=0.0, max_s=60.0, warmup_min_s=0.0, warmup_max_s=0.01, target=None)

    def ours() -> float:
        samples, bracket_ns = loop.timed(run, feeds, plan)  # type: ignore[arg-type]
        return bracket_ns / len(samples.series[0].samples_ns)

    def bare() -> float:
        return _bare(run, feeds, calls)

    found: dict[Callable[[], float], list[float]] = {bare: [], ours: []}
    for number in range(rounds):
        for way in (bare, ours) if number % 2 == 0 else (ours, bare):
            found[way].append(way())
    return LoopFacts(statistics.median(found[bare]), statistics.median(found[ours]))


def _bare(run: Callable[[Feeds], object], feeds: Sequence[Feeds], calls: int) -> float:
    """The least that times each call: two readings, one append."""
    now, kept = perf_counter_ns, []
    rotation = [feeds[i % len(feeds)] for i in range(calls)]
    start = now()
    for feed in rotation:
        begin = now()
        run(feed)
        end = now()
        kept.append(end - begin)
    return (now() - start) / calls


def machine(look_s: float = LOOK_S, root: str = "/") -> MachineFacts:
    """Look for a moment at who else works, and at what moves the clocks."""
    cpus = sorted(os.sched_getaffinity(0))
    before, users = load.snapshot(), _cpu_seconds()
    time.sleep(look_s)
    now = load.between(before, load.snapshot())
    capacity = now.wall_s * (os.cpu_count() or 1)
    used: dict[str, float] = {}
    for pid, (name, seconds) in _cpu_seconds().items():
        spent = seconds - users.get(pid, (name, 0.0))[1]
        if spent > 0 and pid != os.getpid():
            used[name] = used.get(name, 0.0) + spent / capacity
    mhz, heat = clocks.megahertz(cpus, root), clocks.hottest(clocks.thermometers(root))
    return MachineFacts(
        foreign_cpu=now.foreign_cpu,
        steal=now.steal,
        busiest=tuple(sorted(used.items(), key=lambda item: -item[1])[:3]),
        cores=os.cpu_count() or 1,
        governor=clocks.governor(cpus, root),
        turbo=clocks.turbo(root),
        smt=clocks.smt(root),
        frequency_mhz=(round(min(mhz)), round(max(mhz))) if mhz else None,
        temperature_c=heat[0] if heat else None,
        isolated=clocks.read(f"{root}/{clocks.CPU}/isolated") or "",
        virtual=clocks.virtual(root),
    )


def _cpu_seconds() -> dict[int, tuple[str, float]]:
    """Name and CPU seconds of every process so far; empty without /proc. A kernel's worker changes its name."""
    found = {}
    tick = os.sysconf("SC_CLK_TCK")
    for folder in Path("/proc").glob("[0-9]*"):
        head, _, rest = (clocks.read(folder / "stat") or "").rpartition(")")
        fields = rest.split()
        if len(fields) > 12:  # utime and stime are fields 14 and 15 (proc(5))
            name = head.partition("(")[2].partition(":")[0]
            found[int(folder.name)] = name, (int(fields[11]) + int(fields[12])) / tick
    return found


def noise_floor(workload: Workload, place: Place, seconds: float, say: Callable[[str], None]) -> NoiseFloor:
    """Measure the workload against itself for about so long. What goes wrong is in `problem`."""
    name = f"{workload.model} on {workload.backend}"
    try:
        plan = _plan(workload, place)
    except BenchError as error:
        return NoiseFloor(name, problem=error.message)
    end = time.monotonic() + seconds
    pairs: list[tuple[TrialLine, TrialLine]] = []
    lasted = 0.0
    while len(pairs) < FEWEST_PAIRS or (len(pairs) < MOST_PAIRS and time.monotonic() + lasted < end):
        begin = time.monotonic()
        say(f"A/A of {name}: pair {len(pairs) + 1}")
        first, second = run_trial(place, plan, 0), run_trial(place, plan, 1)
        for trial in (first, second):
            if trial.error:
                return NoiseFloor(name, problem=f"{trial.error.phase}: {trial.error.message}")
        pairs.append((first, second) if len(pairs) % 2 == 0 else (second, first))
        lasted = time.monotonic() - begin
    return summary(name, pairs)


def cpus_alike(place: Place, seconds: float, say: Callable[[str], None]) -> Alike:
    """Whether the fastest kind of this machine's CPUs are alike, by the real workload."""
    usable = os.sched_getaffinity(0)
    kinds = clusters()
    try:
        plan = _plan(REAL, place)
    except BenchError as error:
        return Alike(problem=error.message)
    return alike(plan, sorted(usable & set(kinds[-1].cpus) if kinds else usable), place, seconds, say)


def _plan(workload: Workload, place: Place) -> TrialPlan:
    """How a trial of it is run. Raises BenchError where it cannot be prepared."""
    registered = find(workload.backend)
    resolved = resolve(workload.model, place.cache, shapes={}, say=place.say)
    options = Options(extra=complete_options(registered.create(), dict(workload.extra)))
    prepared = prepare(place, registered, resolved.model, options)
    return TrialPlan(
        case_id="selfcheck",
        backend=registered,
        artifact=prepared.artifact,
        artifact_key=prepared.key,
        options=options,
        data_sets=resolved.data_sets,
        tolerance=TOLERANCES["fp32"],
        plan=A_A_PLAN,
    )


def summary(name: str, pairs: Sequence[tuple[TrialLine, TrialLine]]) -> NoiseFloor:
    """The noise floor that these pairs show."""
    quiet = [pair for pair in pairs if not any(noisy(trial, MAX_FOREIGN_CPU) for trial in pair)]
    left_out = len(pairs) - len(quiet) if len(quiet) >= FEWEST_PAIRS else 0
    pairs = quiet if left_out else pairs
    medians = [tuple(statistics.median(t.series[0].samples_ns) for t in pair) for pair in pairs]
    foreign = [t.load.foreign_cpu for pair in pairs for t in pair if t.load and t.load.foreign_cpu is not None]
    ratios = tuple(a / b for a, b in medians)
    return NoiseFloor(
        name,
        p50_ns=round(statistics.median(m for pair in medians for m in pair)),
        ratios=ratios,
        smallest=smallest_difference(ratios),
        foreign_cpu=max(foreign, default=None),
        left_out=left_out,
    )


def smallest_difference(ratios: Sequence[float], trials: int = TRIALS) -> float:
    """The share by which two cases must differ to stand out, given ratios of pairs that do not differ.

    The spread of the logarithms is that of one trial against one; of means of so many it is the root smaller. Student's
    t, because the spread itself is known from a few pairs only.
    """
    spread = statistics.stdev(math.log(r) for r in ratios)
    return math.expm1(student_t(len(ratios) - 1) * spread / math.sqrt(trials))


def student_t(degrees: int, q: float = 0.975) -> float:
    """A quantile of Student's distribution. Source: Abramowitz and Stegun, 26.7.5; within 2 % from 2 degrees on."""
    z, n = NormalDist().inv_cdf(q), degrees
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * n**4)
    )


def advice(facts: MachineFacts, floors: Sequence[NoiseFloor] = (), cpus: Alike | None = None) -> list[str]:
    """What would quiet this machine, only what applies."""
    found = []
    if cpus and cpus.worse:
        good = [c.cpu for c in cpus.cpus if c.cpu not in cpus.worse]
        named = ", ".join(map(str, cpus.worse))
        found.append(
            f"somebody whom this kernel does not see slows CPU {named}, not CPU {cpus.best.cpu}: look again in a few "
            f"minutes, and measure with --cpus {','.join(map(str, good))} while it lasts"
        )
    if facts.foreign_cpu is not None and facts.foreign_cpu > MAX_FOREIGN_CPU:
        names = [f"{name} ({share:.0%})" for name, share in facts.busiest if share >= 0.005]
        if sum(share for _, share in facts.busiest) < facts.foreign_cpu / 2:
            names.append("processes that come and go")
        found.append(f"stop what else is running; it uses {facts.foreign_cpu:.0%} of the CPU: {', '.join(names)}")
    if facts.steal is not None and facts.steal > 0.01:
        found.append("the hypervisor gives this machine's time to others: use a host with dedicated cores")
    if facts.governor and facts.governor != "performance":
        found.append(f"the governor is {facts.governor}: sudo cpupower frequency-set -g performance")
    if facts.turbo:
        found.append(
            "the clock may rise above its nominal value and falls with heat: for steady figures "
            "echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo "
            "(or: echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost)"
        )
    if facts.smt:
        found.append(
            "two hardware threads share a core: bind to one of each core with --cpus (lscpu -e shows them), or "
            "echo off | sudo tee /sys/devices/system/cpu/smt/control"
        )
    coarse = any(f.smallest is not None and f.smallest > GOAL for f in floors)
    if facts.isolated:
        found.append(f"CPUs {facts.isolated} are isolated from others: measure there with --cpus {facts.isolated}")
    elif coarse and facts.cores >= 4:
        free = f"{facts.cores - 2},{facts.cores - 1}"
        found.append(f"keep others off two CPUs: boot with isolcpus={free} nohz_full={free}, then use --cpus {free}")
    if coarse and facts.virtual:
        found.append("this is a virtual machine, with neighbours and without a clock of its own: a real one is quieter")
    return found


def verdict(floors: Sequence[NoiseFloor]) -> str:
    """Whether 1 % can be seen here, in words; empty where nothing could be measured."""
    known = [f for f in floors if f.smallest is not None]
    if not known:
        return ""
    worst = max(f.smallest or 0.0 for f in known)
    can = "can" if worst <= GOAL else "cannot"
    each = ", ".join(f"{f.workload} {percent(f.smallest or 0.0)}" for f in known)
    busy = any(f.foreign_cpu is None or f.foreign_cpu > MAX_FOREIGN_CPU for f in known)
    return (
        f"differences of {GOAL:.0%} {can} be seen here{', busy as it is' if busy else ''}. "
        f"The smallest that can, with {TRIALS} trials of each: {each}"
    )


def percent(share: float) -> str:
    """Two significant digits."""
    return f"{100 * share:.2g} %"
