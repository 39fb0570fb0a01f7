"""What the pytest plugin costs: per test beyond its measurement, and inside the timed loop. Prints both side by side.

    python tests/benchmarks/plugin_cost.py

Per test: the same model, by onnxruntime in pytest's own process under pytest-benchmark, and by the plugin in a worker;
seconds of the test less those of its loop (for the plugin, warm-up included). Both load the model. Target: the plugin
adds at most 1.0 s, with artefact and reference outputs in the cache, on a quiet machine. Inside: nanoseconds per
inference of a model that does nothing, in a test and by `deploybench run`, interleaved. Target: the same, within the
spread of the processes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from onnx import TensorProto, helper, save_model

from bench.record import CaseLine, TrialLine
from bench.store import read_lines, run_files

MODELS = ("squeezenet", "resnet50")
TESTS = 5
ROUNDS = 7
CONFTEST = """
import collections, json, os
spent = collections.Counter()

def pytest_runtest_logreport(report):
    spent[report.nodeid] += report.duration

def pytest_sessionfinish():
    with open(os.environ["SPENT"], "w") as file:
        json.dump(list(spent.values()), file)
"""
PLUGIN = """
import pytest

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.deploybench({model!r}, backends={backend!r}, target=None, max_foreign_cpu=1, min_time={seconds})
def test_plugin(deploybench, benchmark, number):
    deploybench.measure(benchmark)
"""
PLAIN = """
import json, os
import numpy as np
import onnxruntime
import pytest

@pytest.mark.parametrize("number", range({tests}))
def test_plain(benchmark, number):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
    feeds = {{i.name: np.random.rand(*i.shape).astype("f4") for i in session.get_inputs()}}
    benchmark.pedantic(session.run, (None, feeds), rounds={rounds}, iterations=1, warmup_rounds=3)
    with open(os.environ["LOOPS"], "a") as file:
        file.write(json.dumps(sum(benchmark.stats.stats.data)) + "\\n")
"""


def main() -> None:
    """Print both tables."""
    with tempfile.TemporaryDirectory() as folder:
        print(f"seconds per test beyond its loop, medians of {TESTS - 1} tests; onnxruntime, 1 thread")
        print(f"{'':16}{'plain':>8}{'plugin':>8}{'added':>8}{'first test':>12}")
        for model in MODELS:
            per_test(Path(folder) / model, model)
        print()
        inside(Path(folder) / "inside")


def per_test(folder: Path, model: str) -> None:
    folder.mkdir()
    command = Path(sys.executable).parent / "deploybench"
    subprocess.run([command, "export", model, "-b", "ort-cpu", "--output", folder / "artefact"], check=True, **SILENT)
    text = PLUGIN.format(tests=TESTS, model=model, backend="ort-cpu", seconds=0.5)
    pytest(folder / "warm", PLUGIN.format(tests=1, model=model, backend="ort-cpu", seconds=0.1))
    spent = pytest(folder / "plugin", text)
    loops = [line.load.wall_s for line in trials(folder / "plugin") if line.load]
    first, *plugin = (test - loop for test, loop in zip(spent, loops, strict=True))
    path = str(next((folder / "artefact").rglob("*.onnx")))
    spent = pytest(folder / "plain", PLAIN.format(tests=TESTS, path=path, rounds=32))
    lines = (folder / "plain" / "loops").read_text().splitlines()
    _, *plain = (test - json.loads(loop) for test, loop in zip(spent, lines, strict=True))
    ours, theirs = statistics.median(plugin), statistics.median(plain)
    verdict = "met" if ours - theirs <= 1.0 else "MISSED"
    print(f"{model:16}{theirs:8.2f}{ours:8.2f}{ours - theirs:8.2f}{first:12.2f}   added, at most 1.0: {verdict}")


def inside(folder: Path) -> None:
    folder.mkdir()
    model = folder / "nothing.onnx"
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "nothing", info[:1], info[1:])
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), model)
    command = [str(Path(sys.executable).parent / "deploybench"), "run", str(model), "-b", "fake", "--trials", "1"]
    command += ["--target", "none", "--max-foreign-cpu", "1", "--quiet"]
    found: dict[str, list[tuple[float, float, float]]] = {"deploybench run": [], "in a test": []}
    for number in range(ROUNDS):
        for way in found if number % 2 == 0 else reversed(found):
            place = folder / f"{way.replace(' ', '-')}-{number}"
            if way == "in a test":
                pytest(place, PLUGIN.format(tests=1, model=str(model), backend="fake", seconds=0.5))
            else:
                subprocess.run([*command, "--results", place / "results"], check=True, **SILENT)
            found[way] += [figures(line) for line in trials(place)]
    print(f"inside the loop, nothing on fake, {ROUNDS} processes each; nanoseconds per inference, medians (and range)")
    print(f"{'':20}{'wall':>8}{'p50':>8}{'':18}{'CPU used by others':>20}")
    for way, values in found.items():
        wall, p50, others = zip(*values, strict=True)
        spread = f"({min(p50):.0f}-{max(p50):.0f})"
        median = statistics.median
        print(f"{way:20}{median(wall):8.0f}{median(p50):8.0f}  {spread:16}{median(others):20.1%}")
    ratio = statistics.median(v[1] for v in found["in a test"]) / statistics.median(
        v[1] for v in found["deploybench run"]
    )
    print(f"p50 in a test / by the command: {ratio:.3f}")


def figures(line: TrialLine) -> tuple[float, float, float]:
    """Wall time and median per inference in nanoseconds, and the share of the CPU that others used."""
    samples = line.series[0].samples_ns
    assert line.load is not None
    return (line.bracket_ns or 0) / len(samples), statistics.median(samples), line.load.foreign_cpu or 0.0


def pytest(folder: Path, text: str) -> list[float]:
    """The seconds that each test of a file took, setup and teardown included."""
    folder.mkdir()
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(text)
    environment = {**os.environ, "SPENT": str(folder / "spent"), "LOOPS": str(folder / "loops")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:randomly", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    spent: list[float] = json.loads((folder / "spent").read_text())
    return spent


def trials(folder: Path) -> list[TrialLine]:
    """The trials that were recorded below a folder, in the order of their cases."""
    lines = [line for path in run_files([folder / "results"]) for line in read_lines(path)]
    order = [line.id for line in lines if isinstance(line, CaseLine)]
    return sorted((line for line in lines if isinstance(line, TrialLine)), key=lambda line: order.index(line.id))


SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

if __name__ == "__main__":
    main()
