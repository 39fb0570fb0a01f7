"""The same case measured again and again: do the medians agree, do the intervals hold, and what did they cost?

    python tests/benchmarks/repeat.py [--model squeezenet] [--repetitions 10] [--seconds 10] [--cpus LIST] [--way WAY]

A repetition measures the case on every installed runtime by `deploybench run`'s own defaults, and in a hurry (the
shortest trials in which it can be told how busy the machine was). They are made in two ways, 18 minutes for both on a
quiet machine, up to an hour beside neighbours:

In rounds, as the cases of one run are: every repetition has a trial, then each its second. Whatever the machine does
meanwhile hits all of them alike, and the trials of each are minutes apart. An interval speaks of the processes
of the time in which its trials began, and that is the same time for all: the truth is the median of the processes of
the other repetitions.

One after the other, with one fresh process for --seconds after each. Here a machine that is not quiet shows, and
processes that follow each other closely, which are more alike than those of other minutes. The truth is the median of
all processes but the repetition's own: the long ones, those of the other repetitions, those in a hurry. (Of the ten
long ones alone it would be as uncertain as an interval is wide: processes of ncnn differ by 1.5 to 2.7 %.) The stopping
rules of others are replayed on the long processes: each rule
sees the first samples of one process, as its tool would have taken them after its warm-up, and says its median with the
usual order-statistic interval of independent samples. The tools print no interval for a median; this is the one that
their samples would give. Their time has that process's start, import and load in it, but no warm-up; ours has six of
each.

Targets on a quiet machine, held against both: medians of ten repetitions within 1 % (ort-cpu), 1.5 % (mnn), 4 %
(ncnn), each inside its stated interval; an interval of at most +-1 %, in a hurry, on ort-cpu and mnn in no more time
than 1000 inferences take.
Sources of the rules: pytest-benchmark 5 (five rounds, one second), trtexec 10 (ten iterations, three seconds),
optimum-benchmark 0.6 (ten iterations, ten seconds): their documented defaults.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.cache import Cache
from bench.cli import run
from bench.cli.chosen import Wanted, cases, place
from bench.cli.options import default_cache
from bench.cli.progress import Reporter
from bench.evidence import environment
from bench.interface import Array, Plan
from bench.place import Place
from bench.record import Record
from bench.registry import installed
from bench.runner import Case, Settings, run_cases
from bench.store import new_run

WITHIN = {"ort-cpu": 0.01, "mnn": 0.015, "ncnn": 0.04}
MODULES = {"ort-cpu": "onnxruntime", "mnn": "MNN", "ncnn": "ncnn"}
OURS = {"deploybench run": (), "... --min-time 0.1": ("--min-time", "0.1")}
TARGET = 0.01
FIXED = 1000
# Name, inferences and seconds: each rule ends when both are reached.
RULES = (
    ("1000 inferences", FIXED, 0.0),
    ("pytest-benchmark", 5, 1.0),
    ("trtexec", 10, 3.0),
    ("optimum-benchmark", 10, 10.0),
)


@dataclass(frozen=True, slots=True)
class Answer:
    """A median in nanoseconds with its interval, and the seconds that it took; the medians of its processes."""

    median: float
    interval: tuple[float, float] | None
    seconds: float
    processes: Sequence[float]
    status: str = "ok"

    @property
    def width(self) -> float | None:
        """Half the interval, as a share of the median."""
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2 / self.median

    def covers(self, truth: float) -> bool:
        return self.interval is not None and self.interval[0] <= truth <= self.interval[1]


@dataclass(frozen=True, slots=True)
class Long:
    """A process that was timed for long: the seconds until its model had answered once, and what it showed after."""

    start_s: float
    samples_ns: Array

    @property
    def median(self) -> float:
        return float(np.median(self.samples_ns))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="squeezenet")
    parser.add_argument("--repetitions", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=10.0, help="of the long process")
    parser.add_argument("--cpus", metavar="LIST", help="as of `deploybench run`: those that `selfcheck` says are quiet")
    parser.add_argument("--way", choices=("rounds", "after"), help="one of the two ways only")
    asked = parser.parse_args()
    where = place("local", Cache(default_cache()), lambda message: print(message, file=sys.stderr))
    known = [installed()[name] for name, module in MODULES.items() if importlib.util.find_spec(module)]
    todo = cases([asked.model], known, Wanted(1, "model", None, (), (), asked.cpus), where)
    ours: dict[str, dict[str, list[Answer]]] = {case.backend.name: {label: [] for label in OURS} for case in todo}
    long: dict[str, list[Long]] = {case.backend.name: [] for case in todo}
    together: dict[str, list[Record]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in todo:  # references, artefacts and the machine's peaks are made once
            once(case, where, Path(folder), Settings(1, Plan(1, 0.01, 0.02), max_trials=1))
        for label, words in OURS.items() if asked.way != "after" else ():
            together[label] = measured(list(todo) * asked.repetitions, where, Path(folder), settings(words))
            print(f"{label}: {asked.repetitions} repetitions in rounds are done", file=sys.stderr)
        for number in range(asked.repetitions if asked.way != "rounds" else 0):
            for case in todo if number % 2 == 0 else reversed(todo):
                name = case.backend.name
                for label, words in OURS.items():
                    ours[name][label].append(our_run(case, where, Path(folder), words))
                plan = Plan(FIXED, asked.seconds, max(asked.seconds, 60.0), target=None)
                record, _ = once(case, where, Path(folder), Settings(1, plan, max_trials=1))
                if record.latency is None:
                    sys.exit(f"{name}: {record.status}: {record.why}")
                long[name].append(Long(to_start_s(record), np.array(record.latency.samples_ns, np.int64)))
                said = "; ".join(told(answers[-1]) for answers in ours[name].values())
                print(f"{number + 1}/{asked.repetitions} {name}: {said}", file=sys.stderr)
    for case in todo:
        name = case.backend.name
        if asked.way != "after":
            mine = {label: [r for r in found if r.case.backend == name] for label, found in together.items()}
            show_rounds(name, mine)
        if asked.way != "rounds":
            show(name, ours[name], long[name])
    print(
        f"{asked.model}, one thread; {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"
    )
    return 0


def once(case: Case, where: Place, results: Path, wanted: Settings) -> tuple[Record, float]:
    """The record of one run of one case, and the seconds that it took."""
    begin = time.monotonic()
    (record,) = measured([case], where, results, wanted)
    return record, time.monotonic() - begin


def to_start_s(record: Record) -> float:
    """From the start of a process until its model has answered once."""
    cold = record.cold
    return sum((cold.start_s, cold.import_s, cold.load_s or 0.0, cold.first_run_s or 0.0)) if cold else 0.0


def settings(words: Sequence[str]) -> Settings:
    """How thoroughly `deploybench run` measures with these options."""
    found: Settings = run.thoroughness(run.command.make_context("run", ["model", *words]).params)
    return found


def measured(cases: Sequence[Case], where: Place, results: Path, wanted: Settings) -> list[Record]:
    """The records of these cases, measured as one run."""
    machine, quiet = environment.collect().machine, Reporter(quiet=True)
    return run_cases(cases, where, wanted, results=results, machine=machine, run=new_run(), progress=quiet)


def our_run(case: Case, where: Place, results: Path, words: Sequence[str]) -> Answer:
    """What `deploybench run` would have said with these options."""
    record, seconds = once(case, where, results, settings(words))
    latency = record.latency
    if latency is None:
        sys.exit(f"{case.backend.name}: {record.status}: {record.why}")
    return Answer(latency.p50_ns, latency.p50_ci_ns, seconds, latency.trial_p50_ns, record.status)


def replay(process: Long, count: int, seconds: float) -> Answer:
    """What a rule of so many inferences and seconds would have said of this process."""
    ends = np.cumsum(process.samples_ns) / 1e9
    n = min(max(count, int(np.searchsorted(ends, seconds)) + 1), len(ends))
    taken = np.sort(process.samples_ns[:n])
    took_s = process.start_s + float(ends[n - 1])
    return Answer(float(np.median(taken)), naive_interval(taken), took_s, [process.median])


def naive_interval(ordered: Array) -> tuple[float, float] | None:
    """The 95 % order-statistic interval of a median, were the samples independent."""
    half = 1.96 * np.sqrt(len(ordered)) / 2
    low, high = int(np.floor(len(ordered) / 2 - half)), int(np.ceil(len(ordered) / 2 + half))
    return None if low < 0 or high >= len(ordered) else (float(ordered[low]), float(ordered[high]))


def show_rounds(name: str, found: Mapping[str, Sequence[Record]]) -> None:
    """What the repetitions in rounds say of one runtime."""
    print(f"\n{name}, repetitions in rounds")
    print(f"{'':24} {'half width':>11} {'covers truth':>13} {'medians within':>15} {'trials':>8} {'not published':>14}")
    for label, records in found.items():
        known = [r.latency for r in records if r.latency is not None and r.latency.p50_ci_ns is not None]
        inside = 0
        for own in known:
            truth = statistics.median(ns for other in known if other is not own for ns in other.trial_p50_ns)
            assert own.p50_ci_ns is not None
            inside += own.p50_ci_ns[0] <= truth <= own.p50_ci_ns[1]
        width = statistics.median(one.p50_ci_relative or 0.0 for one in known)
        spread = within([one.p50_ns for one in known])
        trials = statistics.median(len(one.trial_p50_ns) for one in known)
        lost = sum(r.status != "ok" for r in records)
        covered = f"{inside} of {len(known)}"
        print(f"{label:24} {width:11.2%} {covered:>13} {spread:15.2%} {trials:8g} {lost:14}")
        print(f"  {verdict(spread, inside, len(records), name)}")


def show(name: str, ours: Mapping[str, Sequence[Answer]], long: Sequence[Long]) -> None:
    """The table of one runtime's repetitions one after the other."""
    known = [ns for answers in ours.values() for answer in answers for ns in answer.processes]
    known += [process.median for process in long]
    start_s = statistics.median(process.start_s for process in long)
    fixed_s = statistics.median(p.start_s + float(np.sum(p.samples_ns[:FIXED])) / 1e9 for p in long)
    long_ms = statistics.median(process.median for process in long) / 1e6
    said = f"{statistics.median(known) / 1e6:.3f} ms in {len(known)} processes, {long_ms:.3f} in {len(long)} long ones"
    print(f"\n{name}, one after the other: {said}")
    print(f"{'rule':24} {'seconds':>8} {'half width':>11} {'covers truth':>13} {'medians within':>15}")
    for label, answers in ours.items():
        print(row(label, answers, known))
        inside = covering(answers, known)
        print(f"  {verdict(within([a.median for a in answers]), inside, len(answers), name)}")
    for label, count, seconds in RULES:
        print(row(label, [replay(process, count, seconds) for process in long], known))
    print(f"  {FIXED} inferences take {fixed_s:.2f} s, {start_s:.2f} of them to start")
    for label, answers in ours.items():
        narrow = [a for a in answers if a.width is not None and a.width <= TARGET]
        took_s = statistics.median(a.seconds for a in narrow) if narrow else float("inf")
        time_s = f" in {took_s:.2f} s in the median: {took_s / fixed_s:.2f} of that" if narrow else ""
        kept = sum(a.status != "ok" for a in answers)
        print(f"  {label}: {len(narrow)} of {len(answers)} reached +-{TARGET:.0%}{time_s}; {kept} not published")


def verdict(spread: float, inside: int, repetitions: int, name: str) -> str:
    """The target of repetitions, and whether they met both halves of it."""
    agree, covered = ("met" if ok else "MISSED" for ok in (spread <= WITHIN[name], inside == repetitions))
    return f"medians within {WITHIN[name]:.1%}: {agree}; the truth inside each interval: {covered}"


def within(medians: Sequence[float]) -> float:
    """The farthest median from their middle, as a share of it."""
    middle = statistics.median(medians)
    return max(abs(m / middle - 1) for m in medians)


def covering(answers: Sequence[Answer], known: Sequence[float]) -> int:
    """How many intervals hold the median of the processes that are not their own."""
    own = [Counter(answer.processes) for answer in answers]
    others = [statistics.median((Counter(known) - mine).elements()) for mine in own]
    return sum(answer.covers(truth) for answer, truth in zip(answers, others, strict=True))


def row(label: str, answers: Sequence[Answer], known: Sequence[float]) -> str:
    seconds = statistics.median(a.seconds for a in answers)
    widths = [a.width for a in answers if a.width is not None]
    width = f"{statistics.median(widths):.2%}" if widths else "-"
    covered = f"{covering(answers, known)} of {len(answers)}"
    return f"{label:24} {seconds:8.1f} {width:>11} {covered:>13} {within([a.median for a in answers]):15.2%}"


def told(answer: Answer) -> str:
    width = "no interval" if answer.width is None else f"+-{answer.width:.2%}"
    return f"{answer.median / 1e6:.3f} ms {width} in {answer.seconds:.1f} s, {answer.status}"


if __name__ == "__main__":
    sys.exit(main())
