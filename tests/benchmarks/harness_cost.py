"""What the harness costs: per timed inference, and from command to answer. Prints ratios measured side by side.

    python tests/benchmarks/harness_cost.py

Every figure is the median over interleaved rounds (A B C, C B A), because these machines are noisy. Targets: at most
0.1 us per inference more than a bare loop; at most 1.0 s from command to first inference more than a bare script.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save_model

from backends.fake import Fake
from bench.cache import Cache
from bench.interface import Feeds, Options, Plan, Session
from bench.measure import loop
from bench.models import resolve
from bench.registry import complete_options

ROUNDS = 15
CALLS = 20_000
COMMANDS = 5

PYTEST_FILE = """
from time import perf_counter_ns

def test_pedantic(benchmark, target):
    run, feeds = target
    begin = perf_counter_ns()
    benchmark.pedantic(run, args=(feeds,), rounds={calls}, iterations=1, warmup_rounds=0)
    print("WALL", (perf_counter_ns() - begin) / {calls}, benchmark.stats.stats.median * 1e9)
"""


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        per_inference(Path(folder))
        per_command(Path(folder))


def per_inference(folder: Path) -> None:
    session, feeds = zero_latency_session(folder)
    plan = Plan(CALLS, 0.0, 60.0, 3, 0.0, 1.0)
    ways: dict[str, Callable[[], tuple[float, float]]] = {
        "bare loop": lambda: bare(session, feeds),
        "deploybench": lambda: ours(session, feeds, plan),
        "pytest-benchmark pedantic": lambda: pedantic(session, feeds),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for number in range(ROUNDS):
        for name in ways if number % 2 == 0 else reversed(ways):
            found[name].append(ways[name]())
    base_wall, base_reported = medians(found["bare loop"])
    print(f"fake backend, zero latency, {ROUNDS} rounds of {CALLS} inferences; nanoseconds per inference, medians")
    print(f"{'':28}{'wall':>8}{'added':>8}{'ratio':>8}{'reported':>10}{'added':>8}")
    for name, values in found.items():
        wall, reported = medians(values)
        print(
            f"{name:28}{wall:8.0f}{wall - base_wall:8.0f}{wall / base_wall:8.3f}"
            f"{reported:10.0f}{reported - base_reported:8.0f}"
        )
    added = medians(found["deploybench"])[0] - base_wall
    print(f"added by deploybench: {added:.0f} ns, target at most 100: {'met' if added <= 100 else 'MISSED'}\n")


def zero_latency_session(folder: Path) -> tuple[Session, list[Feeds]]:
    """A loaded session of the fake backend on a model that does nothing, and two feeds."""
    backend = Fake()
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", info[:1], info[1:])
    opset = helper.make_opsetid("", 17)
    save_model(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "nothing.onnx")
    resolved = resolve(str(folder / "nothing.onnx"), Cache(folder / "cache"), shapes={})
    options = Options(extra=complete_options(backend, {}))
    work = folder / "artefact"
    work.mkdir()
    artifact = backend.prepare(resolved.model, options, work, None)  # type: ignore[arg-type]
    return backend.load(artifact, options), [d.feeds for d in resolved.data_sets]


def bare(session: Session, feeds: list[Feeds]) -> tuple[float, float]:
    """The least that times each call: two clock reads, one append."""
    run, clock, kept = session.run, time.perf_counter_ns, []
    rotation = [feeds[i % len(feeds)] for i in range(CALLS)]
    start = clock()
    for feed in rotation:
        begin = clock()
        run(feed)
        end = clock()
        kept.append(end - begin)
    return (clock() - start) / CALLS, statistics.median(kept)


def ours(session: Session, feeds: list[Feeds], plan: Plan) -> tuple[float, float]:
    samples, bracket_ns = loop.timed(session.run, feeds, plan)
    taken = samples.series[0].samples_ns
    return bracket_ns / len(taken), float(np.median(taken))


def pedantic(session: Session, feeds: list[Feeds]) -> tuple[float, float]:
    """pytest-benchmark in this process, on the same session."""
    import contextlib
    import io

    import pytest

    class Target:
        @pytest.fixture
        def target(self) -> tuple[object, Feeds]:
            return session.run, feeds[0]

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"test_cost_{time.monotonic_ns()}.py"
        path.write_text(PYTEST_FILE.format(calls=CALLS))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            flags = ["-q", "-s", "-p", "no:randomly", "-p", "no:cacheprovider", "--rootdir", folder, "-c", os.devnull]
            pytest.main([*flags, str(path)], plugins=[Target()])
    line = next(line for line in printed.getvalue().splitlines() if "WALL" in line)
    wall, reported = line.split("WALL")[1].split()
    return float(wall), float(reported)


def medians(values: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(v[0] for v in values), statistics.median(v[1] for v in values)


def per_command(folder: Path) -> None:
    """Whole commands: ours stops after its first timed inferences, so its wall time is an upper bound."""
    cache = str(folder / "cache")
    env = {**os.environ, "DEPLOYBENCH_CACHE": cache}
    command = [str(Path(sys.executable).parent / "deploybench"), "run", "squeezenet", "--quiet", "--trials", "1"]
    command += [
        "--min-time",
        "0.001",
        "--min-count",
        "1",
        "--max-foreign-cpu",
        "1",
        "--results",
        str(folder / "results"),
    ]
    print(
        f"from command to answer, squeezenet, 1 thread, medians of {COMMANDS}; seconds "
        "(ours is the whole command, warm-up included)"
    )
    for name in ("ort-cpu", "ncnn", "mnn"):
        subprocess.run([*command, "-b", name], env=env, check=False, capture_output=True)
        record = json.loads(
            subprocess.run([*command, "-b", name, "--json"], env=env, check=True, capture_output=True).stdout
        )
        if record["status"] not in ("ok", "noisy"):
            print(f"{name:12} {record['status']}: {record['why']}")
            continue
        out = folder / f"artefact-{name}"
        export = [command[0], "export", "squeezenet", "-b", name, "--output", str(out)]
        subprocess.run(export, env=env, check=True, capture_output=True)
        ours_s, bare_s = [], []
        for _ in range(COMMANDS):
            ours_s.append(seconds([*command, "-b", name], env))
            bare_s.append(seconds([sys.executable, "-c", BARE[name], str(out)], env))
        a, b = statistics.median(ours_s), statistics.median(bare_s)
        verdict = "met" if a - b <= 1.0 else "MISSED"
        print(f"{name:12} bare {b:.2f}  deploybench {a:.2f}  added {a - b:.2f}, target at most 1.0: {verdict}")


def seconds(argv: list[str], env: dict[str, str]) -> float:
    begin = time.perf_counter()
    subprocess.run(argv, env=env, check=True, capture_output=True)
    return time.perf_counter() - begin


BARE = {
    "ort-cpu": """
import sys, numpy as np, onnxruntime as ort
o = ort.SessionOptions(); o.intra_op_num_threads = 1
s = ort.InferenceSession(sys.argv[1] + '/model.onnx', o, providers=['CPUExecutionProvider'])
s.run(None, {s.get_inputs()[0].name: np.random.rand(1, 3, 224, 224).astype('f4')})
""",
    "ncnn": """
import glob, sys, numpy as np, ncnn
n = ncnn.Net(); n.opt.num_threads = 1
n.load_param(glob.glob(sys.argv[1] + '/*.param')[0]); n.load_model(glob.glob(sys.argv[1] + '/*.bin')[0])
e = n.create_extractor(); e.input('in0', ncnn.Mat(np.random.rand(3, 224, 224).astype('f4')).clone())
np.array(e.extract('out0')[1])
""",
    "mnn": """
import glob, sys, numpy as np, MNN
i = MNN.Interpreter(glob.glob(sys.argv[1] + '/*.mnn')[0]); s = i.createSession({'numThread': 1})
t = i.getSessionInput(s)
x = np.random.rand(1, 3, 224, 224).astype('f4')
t.copyFrom(MNN.Tensor(x.shape, MNN.Halide_Type_Float, x, MNN.Tensor_DimensionType_Caffe))
i.runSession(s); i.getSessionOutput(s).getNumpyData()
""",
}

if __name__ == "__main__":
    main()
