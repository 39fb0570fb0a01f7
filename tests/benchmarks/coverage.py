"""How often stated 95 % intervals cover the truth, simulated where it is known, and the time that each rule takes.

    python tests/benchmarks/coverage.py [repetitions, default 2000] [a part of a shape's name]

The whole procedure is simulated by the code that measures: warm-up, the loop's stop rule, six fresh processes, the
look at the interval over them, and, where it is too wide, four more, and another four. Only clock and durations are
made up. Beside it the stopping rules of other tools, on processes of the same kind, with the interval that one would
naively take from the one process that they run. Each interval is held against its own truth: one for a median against
the median, over all processes, of a process's long-run median; one for a mean against the mean of all.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import NormalDist
from unittest import mock

import numpy as np

from bench.cli.run import MAX_TRIALS
from bench.interface import Feeds, Outputs, Plan
from bench.measure import loop, stats

INFERENCE_NS = 6_500_000.0
LOOKS, TARGET = stats.worth_a_look(stats.MIN_TRIALS, MAX_TRIALS), 0.01
BLOCK = 128
HEAVY_MEDIAN, HEAVY_MEAN = math.sqrt(2 / 3), math.sqrt(2)  # of |t| with two degrees of freedom
NORMAL = NormalDist()

Random = np.random.Generator
Within = Callable[[Random], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Shape:
    """A population of processes: how levels vary between them, and blocks of durations within one, all relative."""

    name: str
    level: Callable[[Random], float]
    within: Within
    median: float
    mean: float


def normal_level(sd: float) -> Callable[[Random], float]:
    return lambda rng: 1 + sd * rng.standard_normal()


def two_levels(rng: Random) -> float:
    return (1.05 if rng.random() < 0.3 else 1.0) + 0.002 * rng.standard_normal()


def autoregressive(*parts: tuple[float, float]) -> Within:
    """One plus sums of first-order autoregressive noise, each with its correlation and standard deviation."""

    def blocks(rng: Random) -> Iterator[np.ndarray]:
        states = [sd * rng.standard_normal() for _, sd in parts]
        while True:
            total = np.ones(BLOCK)
            for index, (rho, sd) in enumerate(parts):
                shocks = (sd * math.sqrt(1 - rho * rho) * rng.standard_normal(BLOCK)).tolist()
                state, values = states[index], []
                for shock in shocks:
                    state = rho * state + shock
                    values.append(state)
                states[index] = state
                total += values
            yield total

    return blocks


def heavy(rng: Random) -> Iterator[np.ndarray]:
    while True:
        yield 1 + 0.01 * np.abs(rng.standard_t(2, BLOCK))


def two_modes(rng: Random) -> Iterator[np.ndarray]:
    while True:
        yield np.where(rng.random(BLOCK) < 0.35, 1.2, 1.0) + 0.005 * rng.standard_normal(BLOCK)


def mode_median(share: float, sd: float) -> float:
    """The median of a mixture whose lower mode is at 1 and has that share; the upper is out of reach."""
    return 1 + sd * NORMAL.inv_cdf(0.5 / share)


WHITE = autoregressive((0.0, 0.01))
SHAPES = (
    Shape("independent", normal_level(0.002), WHITE, 1, 1),
    Shape("AR(1) 0.2", normal_level(0.002), autoregressive((0.2, 0.01)), 1, 1),
    Shape("AR(1) 0.9", normal_level(0.002), autoregressive((0.9, 0.01)), 1, 1),
    Shape("slow drift", normal_level(0.002), autoregressive((0.18, 0.01), (0.999, 0.005)), 1, 1),
    Shape("heavy tail", normal_level(0.002), heavy, 1 + 0.01 * HEAVY_MEDIAN, 1 + 0.01 * HEAVY_MEAN),
    Shape("bimodal within", normal_level(0.002), two_modes, mode_median(0.65, 0.005), 1.07),
    Shape("bimodal between", two_levels, WHITE, mode_median(0.7, 0.002), 1.015),
    Shape("between > within", normal_level(0.03), WHITE, 1, 1),
    Shape("between 0.9 %", normal_level(0.009), WHITE, 1, 1),
)


@dataclass
class Process:
    """A fresh process of a population, with the clock that its inferences move."""

    shape: Shape
    rng: Random
    now_ns: int = 0

    def __post_init__(self) -> None:
        level = self.shape.level(self.rng) * INFERENCE_NS
        self._durations = (int(d) for block in self.shape.within(self.rng) for d in np.maximum(1, level * block))

    def clock(self) -> int:
        return self.now_ns

    def run(self, feeds: Feeds) -> Outputs:
        self.now_ns += next(self._durations)
        return {}

    def take(self, count: int, seconds: float) -> list[int]:
        """At least so many inferences, and for so long."""
        begin, taken = self.now_ns, []
        while len(taken) < count or self.now_ns - begin < seconds * 1e9:
            before = self.now_ns
            self.run({})
            taken.append(self.now_ns - before)
        return taken


@dataclass(frozen=True)
class Outcome:
    """One repetition: whether the interval covers, its half width as a share, its trials and the seconds it took."""

    covered: bool
    width: float
    trials: int
    seconds: float


def trial(process: Process) -> np.ndarray:
    """The samples of one trial, by the real loop on the process's clock."""
    with mock.patch.object(loop, "perf_counter_ns", new=process.clock):
        samples, _ = loop.timed(process.run, [{}], Plan(target=TARGET))
    return samples.series[0].samples_ns


def deploybench(shape: Shape, rng: Random) -> Outcome:
    """The default procedure of `deploybench run`, from the first process to the interval."""
    taken: list[np.ndarray] = []
    seconds = 0.0
    for look in LOOKS:
        while len(taken) < look:
            process = Process(shape, rng)
            taken.append(trial(process))
            seconds += process.now_ns / 1e9
        summary = stats.summarise(taken, LOOKS)
        if (summary.p50_ci_relative or 0) <= TARGET:
            break
    assert summary.p50_ci_ns is not None
    return outcome(summary.p50_ci_ns, shape.median, seconds, len(taken))


def outcome(interval: tuple[float, float], truth: float, seconds: float, trials: int = 1) -> Outcome:
    low, high = (end / INFERENCE_NS for end in interval)
    # Durations are whole nanoseconds, cut off: a part in six million.
    return Outcome(low - 1e-6 <= truth <= high + 1e-6, (high - low) / 2 / truth, trials, seconds)


def one_trial(shape: Shape, rng: Random) -> Outcome:
    """A trial of ours alone, with the interval within its process held against the truth over processes."""
    process = Process(shape, rng)
    interval = stats.within_process(trial(process))
    return outcome(interval or (0, math.inf), shape.median, process.now_ns / 1e9)


def naive_median(shape: Shape, process: Process, taken: list[int]) -> Outcome:
    ordered = sorted(taken)
    low, high = stats.order_bounds(len(ordered), 0.5)
    interval = (0.0, math.inf) if low is None or high is None else (ordered[low], ordered[high])
    return outcome(interval, shape.median, process.now_ns / 1e9)


def naive_mean(shape: Shape, process: Process, taken: list[int]) -> Outcome:
    mean, error = np.mean(taken), 1.96 * np.std(taken, ddof=1) / math.sqrt(len(taken))
    return outcome((mean - error, mean + error), shape.mean, process.now_ns / 1e9)


def pytest_benchmark(shape: Shape, rng: Random) -> Outcome:
    """At least five rounds and a second, no warm-up on CPython; the median."""
    process = Process(shape, rng)
    return naive_median(shape, process, process.take(5, 1.0))


def trtexec(shape: Shape, rng: Random) -> Outcome:
    """0.2 s of warm-up, then at least ten iterations and three seconds; the mean."""
    process = Process(shape, rng)
    process.take(1, 0.2)
    return naive_mean(shape, process, process.take(10, 3.0))


def optimum_benchmark(shape: Shape, rng: Random) -> Outcome:
    """Ten warm-ups, then at least ten iterations and ten seconds; the mean."""
    process = Process(shape, rng)
    process.take(10, 0.0)
    return naive_mean(shape, process, process.take(10, 10.0))


def thousand(shape: Shape, rng: Random) -> Outcome:
    """A thousand iterations after ten; the median."""
    process = Process(shape, rng)
    process.take(10, 0.0)
    return naive_median(shape, process, process.take(1000, 0.0))


RULES: dict[str, Callable[[Shape, Random], Outcome]] = {
    "deploybench": deploybench,
    "one trial, within process": one_trial,
    "1000 iterations": thousand,
    "pytest-benchmark": pytest_benchmark,
    "trtexec": trtexec,
    "optimum-benchmark": optimum_benchmark,
}


def simulate(rule: Callable[[Shape, Random], Outcome], shape: Shape, repetitions: int, seed: int) -> list[Outcome]:
    rng = np.random.default_rng(seed)
    return [rule(shape, rng) for _ in range(repetitions)]


def coverage(outcomes: list[Outcome]) -> float:
    return sum(o.covered for o in outcomes) / len(outcomes)


def main() -> None:
    repetitions = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    part = sys.argv[2] if len(sys.argv) > 2 else ""
    print(
        f"{repetitions} repetitions; inferences of {INFERENCE_NS / 1e6} ms; seconds are of the loops alone, without "
        "starting and loading\n"
    )
    print("| shape | rule | covers | half width, median | trials, mean | seconds, mean |")
    print("| --- | --- | --- | --- | --- | --- |")
    for number, shape in enumerate(s for s in SHAPES if part in s.name):
        for name, rule in RULES.items():
            found = simulate(rule, shape, repetitions, seed=number)
            width = np.median([o.width for o in found])
            trials, seconds = (np.mean([getattr(o, f) for o in found]) for f in ("trials", "seconds"))
            print(
                f"| {shape.name} | {name} | {coverage(found):.1%} | {width:.2%} | {trials:.1f} | {seconds:.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
