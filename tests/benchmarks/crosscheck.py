"""The same artefact and options measured by deploybench, by a bare loop, by LoadGen, and by whoever else is installed.

    python3 make.py crosscheck                            # in a fresh clone: installs what it compares with, too
    python tests/benchmarks/crosscheck.py                 # with what is installed; eight minutes; --quick: one

One table of ratios. A round is a fresh process that loads the artefact three times: for the bare loop, for a second
bare loop (what two loads of the same thing differ by: the A/A column), and for deploybench. LoadGen, pytest-benchmark
and Polygraphy drive the bare loop's own session. All take turns of a few inferences, as many each, so that a busy
moment of the machine hits all alike; in the opposite order in every other round (A B C, C B A). A ratio is taken within
its round, from the medians of the turns' medians. The bare loops call the runtime as its documents say and make the
copies that deploybench's interface promises: feeds unchanged, outputs owned by the caller.
Every round holds the machine's lease, and waits for it.

Target on a quiet machine: the median ratio within 0.5 % or the spread of the A/A column, whichever is more. A model of
a few microseconds has no such target, there the column `added` says what a call of ours costs beside a bare one.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import json
import math
import os
import platform
import queue
import re
import select
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from bench.cache import Cache
from bench.cli.chosen import Wanted, cases, place
from bench.cli.options import default_cache
from bench.interface import Feeds, Options, Plan, Session
from bench.measure import loop, scenarios, server
from bench.measure.streams import RealWorld, ThreadStream
from bench.place import LEASE_FOLDER
from bench.registry import Registered, installed
from bench.worker import wire
from bench.worker.lease import Lease

MODELS = ("squeezenet", "shufflenet", "mobilenet_v2", "tiny_cnn")
BACKENDS = ("ort-cpu", "ncnn", "mnn")
# What loads of the same artefact differ by is more than what turns do, so rounds are many and short; a multiple of six,
# so that each load comes first as often as the others, in both orders of the turns.
ROUNDS, QUICK_ROUNDS = 12, 3
WINDOW_S, QUICK_WINDOW_S = 0.25, 0.2
WARM_UP_S = 0.1
TURNS, QUICK_TURNS = 4, 3
MIN_COUNT = 15
TARGET = 0.005
SHORT_MS = 0.1  # 0.5 % of it is a few hundred nanoseconds: what two calls of Python cost
STREAMS = 2
SERVER_SHARE = 0.5  # of what the streams can do: where queueing shows, and nothing is overloaded
QUERIES, QUICK_QUERIES = 300, 100
SCENARIO_ROUNDS = 3

Run = Callable[[Feeds], Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds, one model less")
    parser.add_argument("--budget", type=float, default=600.0, metavar="SECONDS", help="begin no round after this time")
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
    for name, reason in missing().items():
        print(f"left out: {name}: {reason}")
    whole = [job for job in jobs if job["kind"] == "latency"]
    load = [job for job in jobs if job["kind"] == "load"] if loadgen_is_there() else []
    found = rounds([*whole, *load], asked.quick, begin + asked.budget)
    print_latency([(job, found[job["id"]]) for job in whole])
    print_load([(job, found[job["id"]]) for job in load])
    print(
        f"{time.monotonic() - begin:.0f} s; {platform.machine()}, {os.cpu_count()} cores, "
        f"Python {platform.python_version()}"
    )
    return 0


def missing() -> dict[str, str]:
    """What cannot be compared with, and what would help."""
    found = {}
    if not loadgen_is_there():
        wheels = "" if platform.machine() == "x86_64" else "; it has wheels for x86-64 alone"
        found["LoadGen (and with it the rows under load)"] = f'pip install "deploybench[loadgen]"{wheels}'
    if importlib.util.find_spec("pytest_benchmark") is None:
        found["pytest-benchmark"] = "pip install pytest-benchmark"
    if importlib.util.find_spec("polygraphy") is None:
        found["Polygraphy"] = "pip install polygraphy"
    return found


def loadgen_is_there() -> bool:
    return importlib.util.find_spec("mlperf_loadgen") is not None


def prepared(models: Sequence[str]) -> list[dict[str, Any]]:
    """Every model on every runtime that is installed, converted, as JSON for the process of a round."""
    from bench.artifacts import prepare

    where = place("local", Cache(default_cache()), lambda message: print(message, file=sys.stderr))
    known = [found for name, found in installed().items() if name in BACKENDS and available(found)]
    made = []
    for case in cases(models, known, Wanted(1, "model", None, (), (), None), where) if known else ():
        artifact = prepare(where, case.backend, case.resolved.model, case.options).artifact
        one = {"backend": case.backend.name, "spec": case.backend.spec, "model": case.resolved.model.name}
        one |= {"artifact": wire.plain(artifact), "options": wire.plain(case.options)}
        made.append({**one, "kind": "latency", "id": f"{one['model']} {one['backend']}"})
        if one["model"] == models[0]:
            made.append({**one, "kind": "load", "id": f"{one['model']} {one['backend']} under load"})
    return made


def available(found: Registered) -> bool:
    return importlib.util.find_spec({"ort-cpu": "onnxruntime", "ncnn": "ncnn", "mnn": "MNN"}[found.name]) is not None


def rounds(jobs: Sequence[dict[str, Any]], quick: bool, end: float) -> dict[str, list[dict[str, float]]]:
    """What every way said in every round. Jobs take turns, so that drift hits all alike."""
    found: dict[str, list[dict[str, float]]] = {job["id"]: [] for job in jobs}
    for number in range(QUICK_ROUNDS if quick else ROUNDS):
        for job in jobs if number % 2 == 0 else reversed(jobs):
            if job["kind"] == "load" and number >= SCENARIO_ROUNDS:
                continue
            if time.monotonic() > end:
                print(f"the budget is spent in round {number + 1}")
                return found
            asked = json.dumps({**job, "number": number, "quick": quick})
            argv = [sys.executable, __file__, "--round"]
            done = subprocess.run(argv, input=asked, capture_output=True, text=True, check=False, timeout=300)
            if done.returncode:
                print(f"{job['id']}, round {number + 1} failed: {done.stderr[-600:]}")
                continue
            found[job["id"]].append(json.loads(done.stdout.splitlines()[-1]))
    return found


# --- a round, in a process of its own


def one_round(job: dict[str, Any]) -> dict[str, float]:
    lease = Lease(LEASE_FOLDER, f"deploybench crosscheck (process {os.getpid()})")
    if not lease.held:
        select.select([lease.ready_fd], [], [])
        lease.take()
    with loop.no_garbage_collection():
        return (latency if job["kind"] == "latency" else under_load)(job)


def latency(job: dict[str, Any]) -> dict[str, float]:
    """Nanoseconds of the median inference, by every way."""
    feeds = feeds_of(job)
    window_s, turns = (QUICK_WINDOW_S, QUICK_TURNS) if job["quick"] else (WINDOW_S, TURNS)
    loads: list[Callable[[], Any]] = [lambda: bare_session(job), lambda: bare_session(job), lambda: our_session(job)]
    loaded: dict[int, Any] = {}
    typical_ns = 0.0
    for step in range(3):
        # Who is loaded and runs first has other memory than who comes after: on ncnn 1 to 3 % are between them.
        index = (job["number"] + step) % 3
        loaded[index] = loads[index]()
        typical_ns = max(typical_ns, warmed_up(loaded[index][0] if index < 2 else loaded[index].run, feeds))
    (run, raw), (again, _), session = loaded[0], loaded[1], loaded[2]
    count = max(MIN_COUNT, round(window_s * 1e9 / turns / typical_ns))
    ways: dict[str, Callable[[], float]] = {
        "bare": lambda: bare_loop(run, feeds, count),
        "A/A": lambda: bare_loop(again, feeds, count),
        "deploybench": lambda: ours(session, feeds, count),
    }
    if loadgen_is_there():
        ways["LoadGen"] = lambda: loadgen_single_stream(run, feeds, count)
    if job["backend"] == "ort-cpu":
        if importlib.util.find_spec("pytest_benchmark"):
            ways["pytest-benchmark"] = lambda: pedantic(run, feeds, count)
        if importlib.util.find_spec("polygraphy"):
            ways["Polygraphy"] = lambda: polygraphy(raw, feeds, count)
    return by_turns(ways, turns, job["number"])


def by_turns(ways: dict[str, Callable[[], float]], turns: int, number: int) -> dict[str, float]:
    """The median of each way's turns: A B C, A B C; the other way round in every other round.

    None has two turns in a row: it would find its weights in the CPU's caches, and the others theirs not. All have as
    many inferences in a turn, for the same reason: the first ones of a longer turn would weigh less.
    """
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(turns):
        for name in ways if number % 2 == 0 else reversed(ways):
            taken[name].append(ways[name]())
    return {name: statistics.median(medians) for name, medians in taken.items()}


def feeds_of(job: dict[str, Any]) -> list[Feeds]:
    rng = np.random.default_rng(0)
    inputs = wire.artifact(job["artifact"]).signature.inputs
    return [{spec.name: rng.standard_normal(spec.shape or ()).astype(spec.dtype) for spec in inputs} for _ in range(2)]


def our_session(job: dict[str, Any]) -> Session:
    module, _, name = job["spec"].partition(":")
    options: Options = wire.options(job["options"])
    session: Session = getattr(importlib.import_module(module), name)().load(wire.artifact(job["artifact"]), options)
    return session


def warmed_up(run: Run, feeds: list[Feeds]) -> float:
    """Nanoseconds of an inference, once it has run for a while."""
    end, taken = perf_counter_ns() + WARM_UP_S * 1e9, 0.0
    while perf_counter_ns() < end:
        taken = bare_loop(run, feeds, len(feeds))
    return taken


def ours(session: Session, feeds: list[Feeds], count: int) -> float:
    samples, _ = loop.timed(session.run, feeds, Plan(count, 0.0, math.inf, 1, 0.0, 0.0, target=None))
    return statistics.median(np.asarray(samples.series[0].samples_ns)[:count].tolist())


def bare_loop(run: Run, feeds: list[Feeds], count: int) -> float:
    outputs = run(feeds[-1])  # for no sample, as ours does: whose turn was before has had the CPU's caches
    taken: list[int] = []
    while len(taken) < count:
        for feed in feeds:
            outputs = None  # freed outside the timed span, as ours are: memory may go back to the system with them
            begin = perf_counter_ns()
            outputs = run(feed)
            taken.append(perf_counter_ns() - begin)
    del outputs
    return statistics.median(taken[:count])


# --- the runtimes, as their documents say


def bare_session(job: dict[str, Any]) -> tuple[Run, Any]:
    """How to run the artefact without deploybench, and the runtime's own session."""
    makers = {"ort-cpu": bare_ort, "ncnn": bare_ncnn, "mnn": bare_mnn}
    return makers[job["backend"]](job["artifact"], job["options"])


def bare_ort(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import onnxruntime as ort

    asked = ort.SessionOptions()
    asked.intra_op_num_threads, asked.inter_op_num_threads = options["threads"], 1
    asked.log_severity_level = 3
    path = str(Path(artifact["root"], artifact["files"][0]))
    session = ort.InferenceSession(path, asked, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed), session


def bare_ncnn(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = options["threads"]
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = False
    net.opt.use_bf16_storage = False
    for name, of_ours in (
        ("use_winograd_convolution", "winograd"),
        ("use_sgemm_convolution", "sgemm"),
        ("use_packing_layout", "packing_layout"),
        ("lightmode", "light_mode"),
        ("openmp_blocktime", "openmp_blocktime"),
    ):
        setattr(net.opt, name, options["extra"][of_ours])
    param, weights = (str(Path(artifact["root"], name)) for name in artifact["files"])
    assert net.load_param(param) == 0
    assert net.load_model(weights) == 0
    ((taken, given),) = [(artifact["meta"]["inputs"][0], artifact["meta"]["outputs"][0])]

    def run(feed: Feeds) -> Any:
        extractor = net.create_extractor()
        mat = ncnn.Mat(feed[taken["name"]], batch_index=taken["batch_index"])
        extractor.input(taken["blob"], mat if taken["batch_index"] != 233 else mat.clone())
        _, out = extractor.extract(given["blob"])
        view = out.numpy(batch_index=given["batch_index"])
        return view if view.flags.owndata else np.array(view)

    return run, net


def bare_mnn(artifact: dict[str, Any], options: dict[str, Any]) -> tuple[Run, Any]:
    import MNN

    interpreter = MNN.Interpreter(str(Path(artifact["root"], artifact["files"][0])))
    interpreter.setSessionHint(3, int(options["extra"]["winograd"]))
    names = {"memory": options["extra"]["memory"], "power": options["extra"]["power"]}
    session = interpreter.createSession(
        {"backend": "CPU", "numThread": options["threads"], "precision": "high", **names}
    )
    ((name, taken),) = interpreter.getSessionInputAll(session).items()
    (given,) = interpreter.getSessionOutputAll(session).values()

    def host(tensor: Any) -> tuple[Any, Any]:
        empty = np.zeros(tensor.getShape(), np.float32)
        made = MNN.Tensor(empty.shape, MNN.Halide_Type_Float, empty, MNN.Tensor_DimensionType_Caffe)
        return made, made.getNumpyData()

    (inside, into), (outside, out_of) = host(taken), host(given)

    def run(feed: Feeds) -> Any:
        np.copyto(into, feed[name])
        taken.copyFrom(inside)
        assert interpreter.runSession(session) == 0
        given.copyToHostTensor(outside)
        return out_of.copy()

    return run, (interpreter, session)


# --- the other harnesses


def loadgen_settings(scenario: str, count: int) -> Any:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    settings.scenario = getattr(lg.TestScenario, scenario)
    settings.mode = lg.TestMode.PerformanceOnly
    settings.min_query_count = count
    settings.min_duration_ms = 0
    return settings


def loadgen(settings: Any, issue: Callable[[Any], None]) -> str:
    """The summary of a test."""
    import mlperf_loadgen as lg

    with tempfile.TemporaryDirectory() as folder:
        log = lg.LogSettings()
        log.log_output.outdir = folder
        log.enable_trace = False
        sut = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(2, 2, lambda samples: None, lambda samples: None)
        lg.StartTestWithLogSettings(sut, library, settings, log)
        lg.DestroyQSL(library)
        lg.DestroySUT(sut)
        return Path(folder, "mlperf_log_summary.txt").read_text()


def figure(summary: str, name: str) -> float:
    found = re.search(rf"^{re.escape(name)}\s*:\s*([\d.]+)", summary, re.MULTILINE)
    if found is None:
        raise ValueError(f"LoadGen's summary has no {name!r}:\n{summary[:800]}")
    return float(found[1])


def loadgen_single_stream(run: Run, feeds: list[Feeds], count: int) -> float:
    import mlperf_loadgen as lg

    def issue(samples: Any) -> None:
        for sample in samples:
            run(feeds[sample.index])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])

    settings = loadgen_settings("SingleStream", count)
    settings.max_query_count = count
    settings.single_stream_expected_latency_ns = 1_000_000
    run(feeds[-1])
    return figure(loadgen(settings, issue), "50.00 percentile latency (ns)")


def pedantic(run: Run, feeds: list[Feeds], count: int) -> float:
    """pytest-benchmark in this process, on the same session."""
    import pytest

    medians = []

    class Target:
        @pytest.fixture
        def target(self) -> tuple[Run, Feeds, int, list[float]]:
            return run, feeds[0], count, medians

    text = (
        "def test_it(benchmark, target):\n"
        "    run, feed, count, medians = target\n"
        "    benchmark.pedantic(run, args=(feed,), rounds=count, iterations=1, warmup_rounds=1)\n"
        "    medians.append(benchmark.stats.stats.median * 1e9)\n"
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder, f"test_crosscheck_{time.monotonic_ns()}.py")
        path.write_text(text)
        flags = ["-q", "-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull]
        pytest.main([*flags, str(path)], plugins=[Target()])
    return float(medians[0])


def polygraphy(session: Any, feeds: list[Feeds], count: int) -> float:
    """The time that Polygraphy's own runner reports, on the same session."""
    from polygraphy.backend.onnxrt import OnnxrtRunner

    taken: list[float] = []
    with contextlib.redirect_stdout(io.StringIO()), OnnxrtRunner(session) as runner:
        runner.infer(feeds[-1])
        while len(taken) < count:
            runner.infer(feeds[len(taken) % len(feeds)])
            taken.append(runner.last_inference_time() * 1e9)
    return statistics.median(taken)


# --- under load


def under_load(job: dict[str, Any]) -> dict[str, float]:
    """`offline` and `server`, ours and LoadGen's, on the very same sessions."""
    feeds = feeds_of(job)
    window_s = 2 * (QUICK_WINDOW_S if job["quick"] else WINDOW_S)
    sessions = [our_session(job) for _ in range(STREAMS)]
    streams = [ThreadStream(session, feeds, number) for number, session in enumerate(sessions)]
    world = RealWorld()
    most, _ = scenarios.saturate(streams, MIN_COUNT, window_s / 2, 60.0, world)  # warms up, too
    rate = SERVER_SHARE * most.per_s
    count = QUICK_QUERIES if job["quick"] else QUERIES

    def our_server() -> dict[str, float]:
        due_ns = server.arrivals(rate, count, (job["number"],))
        served = server.serve(streams, due_ns, rate, 1.0, world)
        return {"server p50 ours": float(np.median(served.latencies_ns))}

    def its_server() -> dict[str, float]:
        settings = loadgen_settings("Server", count)
        settings.server_target_qps = rate
        settings.server_target_latency_ns = 10**10
        settings.schedule_rng_seed = job["number"] + 1
        return {
            "server p50 LoadGen": figure(through_threads(settings, sessions, feeds), "50.00 percentile latency (ns)")
        }

    def our_offline() -> dict[str, float]:
        each = math.ceil(samples / STREAMS)
        return {"offline per s ours": scenarios.saturate(streams, each, 0.0, 60.0, world)[0].per_s}

    def its_offline() -> dict[str, float]:
        settings = loadgen_settings("Offline", 1)
        settings.offline_expected_qps = samples  # of one second: so many samples are in the query
        settings.min_duration_ms = 1000
        return {"offline per s LoadGen": figure(through_threads(settings, sessions, feeds), "Samples per second")}

    samples = max(STREAMS * MIN_COUNT, int(most.per_s * window_s))
    ways = [our_offline, its_offline, our_server, its_server]
    found: dict[str, float] = {"server rate": rate}
    for way in ways if job["number"] % 2 == 0 else reversed(ways):
        found |= way()
    return found


def through_threads(settings: Any, sessions: Sequence[Session], feeds: list[Feeds]) -> str:
    """LoadGen's summary with a system of one queue and a thread per session, as its own examples have it."""
    import mlperf_loadgen as lg

    waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def work(session: Session) -> None:
        while (sample := waiting.get()) is not None:
            session.run(feeds[sample[1]])
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample[0], 0, 0)])

    def issue(samples: Any) -> None:
        for sample in samples:
            waiting.put((sample.id, sample.index))

    threads = [threading.Thread(target=work, args=(session,), daemon=True) for session in sessions]
    for thread in threads:
        thread.start()
    summary = loadgen(settings, issue)
    for _ in threads:
        waiting.put(None)
    for thread in threads:
        thread.join()
    return summary


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
    return f"{statistics.median(values):.4f} ±{spread(values):.4f}" if values else "-"


def print_latency(found: Sequence[tuple[dict[str, Any], list[dict[str, float]]]]) -> None:
    others = ["LoadGen", "pytest-benchmark", "Polygraphy"]
    print("\nMedian latency as a ratio to the bare loop: median over rounds, ± half the distance of its quartiles")
    print(
        f"{'':24}{'rounds':>7}{'bare ms':>9}{'A/A':>18}{'deploybench':>18}{'added':>10}{'target':>16}"
        + "".join(f"{o:>18}" for o in others)
    )
    for job, values in found:
        if not values:
            continue
        ms = statistics.median(v["bare"] for v in values) / 1e6
        same, we = ratios(values, "A/A", "bare"), ratios(values, "deploybench", "bare")
        allowed = max(TARGET, abs(statistics.median(same) - 1) + spread(same)) if len(same) > 1 else TARGET
        off = abs(statistics.median(we) - 1)
        verdict = "-" if ms < SHORT_MS else f"{'met' if off <= allowed else 'MISSED'} ({allowed:.2%})"
        added = f"{statistics.median(v['deploybench'] - v['bare'] for v in values) / 1e3:.2f} us"
        rest = "".join(f"{told(ratios(values, other, 'bare')):>18}" for other in others)
        print(f"{job['id']:24}{len(values):>7}{ms:>9.3f}{told(same):>18}{told(we):>18}{added:>10}{verdict:>16}{rest}")


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
