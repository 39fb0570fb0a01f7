"""The same artefact and options measured by deploybench, by a bare loop, by LoadGen, and by whoever else is installed.

    python3 make.py crosscheck                            # in a fresh clone: installs what it compares with, too
    python tests/benchmarks/crosscheck.py                 # with what is installed; 8 to 30 minutes; --quick: one

One table of ratios. A round is a fresh process that loads the artefact three times: for the bare loop, for a second
bare loop (what two loads of the same thing differ by: the A/A column), and for deploybench. LoadGen, pytest-benchmark
and Polygraphy drive the bare loop's own session. All take turns of a few inferences, as many each, so that a busy
moment of the machine hits all alike; who follows whom is drawn by lot, for what one leaves behind slows the next.
Turns beside a neighbour on the core of a virtual machine are void for all ways, and taken again; a round in which he
stayed for longer than that is waited for is none, as a trial would be `noisy`, and is made up for within the budget
(`bench/evidence/yardstick.py`). A ratio is taken within its round, from the medians of the turns' medians. The bare
loops call the runtime as its documents say and make the copies that deploybench's interface promises: feeds unchanged,
outputs owned by the caller. Every round holds the machine's lease, and waits for it.

Target on a quiet machine: the median ratio of at least seven rounds, to the bare loop and to LoadGen, within 0.5 % or
the spread of the A/A column, whichever is more. A model of a few microseconds has no such target, there the column
`added` says what a call of ours costs beside a bare one.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import random
import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from time import perf_counter_ns
from typing import Any

import bare
import harnesses
import numpy as np

from bench.cache import Cache
from bench.cli.chosen import Wanted, cases, place
from bench.cli.options import default_cache
from bench.evidence import environment
from bench.evidence.yardstick import Alone, Yardstick, fastest_ns
from bench.fold.core import MOST_LOST, longer
from bench.interface import Feeds, Options, Plan, Session
from bench.measure import loop, scenarios, server
from bench.measure.streams import RealWorld, ThreadStream
from bench.pace import ALONE_WAIT_S
from bench.place import LEASE_FOLDER
from bench.plausible.peaks import Peaks
from bench.record import MAX_FOREIGN_CPU
from bench.registry import Registered, installed
from bench.worker import wire
from bench.worker.lease import Lease

MODELS = ("squeezenet", "shufflenet", "mobilenet_v2", "tiny_cnn")
BACKENDS = ("ort-cpu", "ncnn", "mnn")
# What loads of the same artefact differ by is more than what turns do, so rounds are many and short; a multiple of
# three, so that each load comes first as often as the others.
ROUNDS, QUICK_ROUNDS, FEWEST_ROUNDS = 12, 3, 7
WINDOW_S, QUICK_WINDOW_S = 0.25, 0.2
WARM_UP_S = 0.1
TURNS, QUICK_TURNS = 4, 3
MIN_COUNT = 15
TARGET = 0.005
SHORT_MS = 0.1  # 0.5 % of it is a few hundred nanoseconds: what two calls of Python cost
STREAMS = 2
LOAD_WINDOW_S, QUICK_LOAD_WINDOW_S = 1.0, 0.4
SERVER_SHARE = 0.5  # of what the streams can do: where queueing shows, and nothing is overloaded
QUERIES, QUICK_QUERIES = 300, 100
SCENARIO_ROUNDS = 3


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, one model less")
    parser.add_argument("--budget", type=float, default=1800.0, metavar="SECONDS", help="begin no round after it")
    parser.add_argument("--round", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.round:
        print("\n" + json.dumps(one_round(json.load(sys.stdin))))
        return 0
    begin = time.monotonic()
    jobs = prepared((MODELS[0], MODELS[-1]) if asked.quick else MODELS)
    if not jobs:
        print('no runtime is installed: pip install "deploybench[cpu,ncnn,mnn]"')
        return 3
    for name, reason in harnesses.missing().items():
        print(f"left out: {name}: {reason}")
    whole = [job for job in jobs if job["kind"] == "latency"]
    load = [job for job in jobs if job["kind"] == "load"] if harnesses.loadgen_is_there() else []
    found = rounds([*whole, *load], asked.quick, begin + asked.budget)
    print_latency([(job, found[job["id"]]) for job in whole])
    print_load([(job, found[job["id"]]) for job in load])
    print(
        f"{time.monotonic() - begin:.0f} s; {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    return 0


def prepared(models: Sequence[str]) -> list[dict[str, Any]]:
    """Every model on every runtime that is installed, converted, as JSON for the process of a round."""
    from bench.artifacts import prepare

    where = place("local", Cache(default_cache()), lambda message: print(message, file=sys.stderr))
    peaks = Peaks(where, environment.collect().machine)
    known = [found for name, found in installed().items() if name in BACKENDS and available(found)]
    made = []
    for case in cases(models, known, Wanted(1, "model", None, (), (), None), where) if known else ():
        artifact = prepare(where, case.backend, case.resolved.model, case.options).artifact
        one = {"backend": case.backend.name, "spec": case.backend.spec, "model": case.resolved.model.name}
        one |= {"artifact": wire.plain(artifact), "options": wire.plain(case.options)}
        most = peaks.of(case.backend, case.options)
        one["fastest_ns"] = most["core_ns"] if most["virtual"] else math.inf
        made.append({**one, "kind": "latency", "id": f"{one['model']} {one['backend']}"})
        if one["model"] == models[0]:
            made.append({**one, "kind": "load", "id": f"{one['model']} {one['backend']} under load"})
    return made


def available(found: Registered) -> bool:
    return importlib.util.find_spec({"ort-cpu": "onnxruntime", "ncnn": "ncnn", "mnn": "MNN"}[found.name]) is not None


def rounds(jobs: Sequence[dict[str, Any]], quick: bool, end: float) -> dict[str, list[dict[str, float]]]:
    """What every way said in every round that was quiet. Jobs take turns, so that drift hits all alike."""
    found: dict[str, list[dict[str, float]]] = {job["id"]: [] for job in jobs}
    noisy = number = 0
    fastest = min(job["fastest_ns"] for job in jobs)
    while todo := [job for job in jobs if len(found[job["id"]]) < wanted(job, quick)]:
        if fastest < math.inf:
            fastest = min(fastest, fastest_ns())
        for job in todo if number % 2 == 0 else reversed(todo):
            if time.monotonic() > end:
                print(f"the budget is spent in round {number + 1}, {noisy} of a case beside a neighbour")
                return found
            asked = json.dumps({**job, "number": number, "quick": quick, "fastest_ns": fastest})
            argv = [sys.executable, __file__, "--round"]
            done = subprocess.run(argv, input=asked, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                sys.exit(f"{job['id']}, round {number + 1} failed: {done.stderr[-600:]}")
            said = json.loads(done.stdout.splitlines()[-1])
            if said is None:
                noisy += 1
            else:
                found[job["id"]].append(said)
        number += 1
    print(f"{number} rounds, {noisy} of a case beside a neighbour")
    return found


def wanted(job: dict[str, Any], quick: bool) -> int:
    return QUICK_ROUNDS if quick else SCENARIO_ROUNDS if job["kind"] == "load" else ROUNDS


# --- a round, in a process of its own


def one_round(job: dict[str, Any]) -> dict[str, float] | None:
    """None: beside a neighbour who did not leave."""
    lease = Lease(LEASE_FOLDER, f"deploybench crosscheck (process {os.getpid()})")
    if not lease.held:
        select.select([lease.ready_fd], [], [])
        lease.take()
    with loop.no_garbage_collection():
        return (latency if job["kind"] == "latency" else under_load)(job)


def latency(job: dict[str, Any]) -> dict[str, float] | None:
    """Nanoseconds of the median inference, by every way."""
    feeds = feeds_of(job)
    window_s, turns = (QUICK_WINDOW_S, QUICK_TURNS) if job["quick"] else (WINDOW_S, TURNS)
    loads = (bare.session, bare.session, our_session)
    loaded: dict[int, Any] = {}
    typical_ns = 0.0
    for step in range(3):
        # Who is loaded and runs first has other memory than who comes after: on ncnn 1 to 3 % are between them.
        index = (job["number"] + step) % 3
        made = loads[index](job)
        loaded[index] = made
        typical_ns = max(typical_ns, warmed_up(made.run if isinstance(made, Session) else made[0], feeds))
    (run, raw), (again, _), session = loaded[0], loaded[1], loaded[2]
    count = max(MIN_COUNT, round(window_s * 1e9 / turns / typical_ns))
    ways: dict[str, Callable[[], float]] = {
        "bare": lambda: bare.loop(run, feeds, count),
        "A/A": lambda: bare.loop(again, feeds, count),
        "deploybench": lambda: ours(session, feeds, count),
    }
    if harnesses.loadgen_is_there():
        ways["LoadGen"] = lambda: harnesses.loadgen_single_stream(run, feeds, count)
    if job["backend"] == "ort-cpu":
        if importlib.util.find_spec("pytest_benchmark"):
            ways["pytest-benchmark"] = lambda: harnesses.pedantic(run, feeds, count)
        if importlib.util.find_spec("polygraphy"):
            ways["Polygraphy"] = lambda: harnesses.polygraphy(raw, feeds, count)
    alone = Alone(job["fastest_ns"], MAX_FOREIGN_CPU, ALONE_WAIT_S)
    look = Yardstick(1, alone)
    begin = time.monotonic()
    found = by_turns(ways, turns, job["number"], look)
    crowded = look.void_s > MOST_LOST * (time.monotonic() - begin)
    slowed = longer(statistics.fmean(look.readings_ns), alone.fastest_ns) if look.readings_ns else None
    return None if crowded or (slowed or 0.0) > alone.slack else found


def by_turns(ways: dict[str, Callable[[], float]], turns: int, number: int, look: Yardstick) -> dict[str, float]:
    """The median of each way's turns, in an order that is drawn anew for each.

    In a fixed order each would follow the same other one: after a turn of pytest-benchmark the next one's inferences
    take 0.3 % longer (shufflenet on ONNX Runtime, 180 turns each, x86-64, 2026-11). None has two turns in a row: it
    would find its weights in the CPU's caches, and the others theirs not. All have as many inferences in a turn, for
    the same reason: the first ones of a longer turn would weigh less.
    """
    lot = random.Random(number)
    names = list(ways)
    taken: list[dict[str, float]] = []
    look.begin()
    while len(taken) < turns:
        last = names[-1]
        lot.shuffle(names)
        if names[0] == last:
            names.reverse()
        turn, void = {}, False
        for name in names:
            turn[name] = ways[name]()
            void |= look.between()
        if not void:  # which it never is when all the time for waiting is used up
            taken.append(turn)
    return {name: statistics.median(turn[name] for turn in taken) for name in ways}


def feeds_of(job: dict[str, Any]) -> list[Feeds]:
    rng = np.random.default_rng(0)
    inputs = wire.artifact(job["artifact"]).signature.inputs
    return [{spec.name: rng.standard_normal(spec.shape or ()).astype(spec.dtype) for spec in inputs} for _ in range(2)]


def our_session(job: dict[str, Any]) -> Session:
    module, _, name = job["spec"].partition(":")
    options: Options = wire.options(job["options"])
    session: Session = getattr(importlib.import_module(module), name)().load(wire.artifact(job["artifact"]), options)
    return session


def warmed_up(run: bare.Run, feeds: list[Feeds]) -> float:
    """Nanoseconds of an inference, once it has run for a while."""
    end, taken = perf_counter_ns() + WARM_UP_S * 1e9, 0.0
    while perf_counter_ns() < end:
        taken = bare.loop(run, feeds, len(feeds))
    return taken


def ours(session: Session, feeds: list[Feeds], count: int) -> float:
    plan = Plan(count, 0.0, math.inf, 1, 0.0, 0.0, target=None)
    bare.ahead(session.run, feeds)
    samples, _ = loop.timed(session.run, feeds, plan, Yardstick().between)  # as a trial looks at the machine
    return statistics.median(np.asarray(samples.series[0].samples_ns)[:count].tolist())


# --- under load


def under_load(job: dict[str, Any]) -> dict[str, float]:
    """`offline` and `server`, ours and LoadGen's, on the very same sessions."""
    feeds = feeds_of(job)
    window_s = QUICK_LOAD_WINDOW_S if job["quick"] else LOAD_WINDOW_S
    sessions = [our_session(job) for _ in range(STREAMS)]
    streams = [ThreadStream(session, feeds, number) for number, session in enumerate(sessions)]
    world = RealWorld()
    most, _ = scenarios.saturate(streams, MIN_COUNT, window_s / 2, 60.0, world)  # warms up, too
    rate = SERVER_SHARE * most.per_s
    count = QUICK_QUERIES if job["quick"] else QUERIES

    def its(settings: Any, name: str) -> float:
        return harnesses.figure(harnesses.through_threads(settings, sessions, feeds), name)

    def our_server() -> dict[str, float]:
        due_ns = server.arrivals(rate, count, (job["number"],))
        served = server.serve(streams, due_ns, rate, 1.0, world)
        return {"server p50 ours": float(np.median(served.latencies_ns))}

    def its_server() -> dict[str, float]:
        settings = harnesses.loadgen_settings("Server", count)
        settings.server_target_qps = rate
        settings.server_target_latency_ns = 10**10
        settings.schedule_rng_seed = job["number"] + 1
        return {"server p50 LoadGen": its(settings, "50.00 percentile latency (ns)")}

    def our_offline() -> dict[str, float]:
        each = math.ceil(samples / STREAMS)
        return {"offline per s ours": scenarios.saturate(streams, each, 0.0, 60.0, world)[0].per_s}

    def its_offline() -> dict[str, float]:
        settings = harnesses.loadgen_settings("Offline", 1)
        settings.offline_expected_qps = samples  # of one second: so many samples are in the query
        settings.min_duration_ms = 1000
        return {"offline per s LoadGen": its(settings, "Samples per second")}

    samples = max(STREAMS * MIN_COUNT, int(most.per_s * window_s))
    ways = [our_offline, its_offline, our_server, its_server]
    found: dict[str, float] = {"server rate": rate}
    for way in ways if job["number"] % 2 == 0 else reversed(ways):
        found |= way()
    return found


# --- tables


def ratios(values: Sequence[dict[str, float]], name: str, base: str) -> list[float]:
    return sorted(round_[name] / round_[base] for round_ in values if name in round_ and base in round_)


def spread(values: Sequence[float]) -> float:
    """Half the distance between the lower and the upper quarter."""
    if len(values) < 2:
        return math.nan
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return (high - low) / 2


def told(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.4f}" if values else "-"
    return f"{statistics.median(values):.4f} ±{spread(values):.4f}"


def print_latency(found: Sequence[tuple[dict[str, Any], list[dict[str, float]]]]) -> None:
    others = ["LoadGen", "pytest-benchmark", "Polygraphy"]
    print("\nMedian latency as a ratio to the bare loop: median over rounds, ± half the distance of its quartiles")
    head = ["rounds", "bare ms", "A/A", "deploybench", "added", "target", "ours/LoadGen", "target", *others]
    widths = [7, 9, 18, 18, 10, 16, 18, 16, *[18] * len(others)]
    print(" " * 24 + "".join(f"{name:>{width}}" for name, width in zip(head, widths, strict=True)))
    for job, values in found:
        if not values:
            continue
        ms = statistics.median(v["bare"] for v in values) / 1e6
        same, we = ratios(values, "A/A", "bare"), ratios(values, "deploybench", "bare")
        its = ratios(values, "deploybench", "LoadGen")
        allowed = max(TARGET, abs(statistics.median(same) - 1) + spread(same)) if len(same) > 1 else TARGET
        judged = ms >= SHORT_MS and len(values) >= FEWEST_ROUNDS
        met, its_met = (verdict(ratio, allowed) if judged else "-" for ratio in (we, its))
        added = f"{statistics.median(v['deploybench'] - v['bare'] for v in values) / 1e3:.2f} us"
        row = [len(values), f"{ms:.3f}", told(same), told(we), added, met, told(its), its_met]
        row += [told(ratios(values, other, "bare")) for other in others]
        print(f"{job['id']:24}" + "".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)))


def verdict(found: Sequence[float], allowed: float) -> str:
    """Whether the middle of these ratios is as near to one as is allowed."""
    if not found:
        return "-"
    return f"{'met' if abs(statistics.median(found) - 1) <= allowed else 'MISSED'} ({allowed:.2%})"


def print_load(found: Sequence[tuple[dict[str, Any], list[dict[str, float]]]]) -> None:
    if not found:
        return
    print(f"\nUnder load, {STREAMS} sessions of the same artefact; ours as a ratio to LoadGen's own scenario")
    print(f"{'':34}{'rounds':>7}{'offline per s':>15}{'ratio':>18}{'server at':>11}{'p50 ms':>9}{'ratio':>18}")
    for job, values in found:
        if not values:
            continue
        per_s = statistics.median(v["offline per s LoadGen"] for v in values)
        rate = statistics.median(v["server rate"] for v in values)
        p50 = statistics.median(v["server p50 LoadGen"] for v in values) / 1e6
        offline = ratios(values, "offline per s ours", "offline per s LoadGen")
        server = ratios(values, "server p50 ours", "server p50 LoadGen")
        print(
            f"{job['id']:34}{len(values):>7}{per_s:>15.1f}{told(offline):>18}{rate:>9.1f}/s{p50:>9.3f}{told(server):>18}"
        )


if __name__ == "__main__":
    sys.exit(main())
