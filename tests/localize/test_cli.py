"""`deploybench localize` through the front door: what it names, writes and refuses, and how it goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bench.cache import Cache

GONE = "not reproduced: this version gives the expected answer"


def saved(folder, text, held=None, opset=17):
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> tiny {text}')
    for name, value in (held or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = folder / "tiny.onnx"
    onnx.save(proto, path)
    return path


@pytest.fixture
def small(tmp_path):
    """float32[1, 6] to float32[1, 6]: five nodes, three of them with weights."""
    rng = np.random.default_rng(4)
    held = {name: rng.standard_normal((6, 6)).astype(np.float32) / 3 for name in ("w1", "w2", "w3")}
    text = """(float[1,6] x) => (float[1,6] y) {
        [one] a = MatMul (x, w1)  b = Tanh (a)  [two] c = MatMul (b, w2)  d = Add (c, b)
        [three] y = MatMul (d, w3) }"""
    return saved(tmp_path, text, held)


def reproduced(folder, *limit):
    argv = [sys.executable, "-I", "reproduce.py", *limit]
    done = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stderr + done.stdout


def test_a_plant_is_named_and_a_reproducer_written(cli, small, saboteur, tmp_path):
    argv = ("localize", small, "-b", "saboteur", "-o", "plants=weight@c", "--output", "out")
    result = cli(*argv, "--json", env=saboteur)
    assert result.code == 1, result.stderr
    found = json.loads(result.stdout)
    assert found["verdict"] == "located"
    (finding,) = found["findings"]
    assert (finding["kind"], [node["name"] for node in finding["nodes"]]) == ("local", ["two"])
    assert "running the whole model on saboteur" in result.stderr
    assert {p["how"] for p in found["points"]} == {"measured", "own", "inherited"}
    report = (tmp_path / "out" / "REPORT.md").read_text()
    assert "[MatMul 'two'](culprit-1/REPORT.md)" in report
    assert "**culprit 1**" in report
    assert str(tmp_path) not in report
    part = onnx.load(tmp_path / "out" / "culprit-1" / "part.onnx")
    onnx.checker.check_model(part, full_check=True)
    assert [node.name for node in part.graph.node] == ["two"]
    # The saboteur is ONNX Runtime with a fault of ours: by itself, ONNX Runtime gives the expected answer.
    code, said = reproduced(tmp_path / "out" / "culprit-1")
    assert (code, said.splitlines()[-1]) == (0, GONE)
    known = kept(cli)
    again = cli(*argv, "--quiet", env=saboteur)
    assert "culprit 1: MatMul 'two'" in again.stdout
    assert again.stderr == ""
    assert kept(cli) == known


def kept(cli):
    return {e.key for e in Cache(Path(cli.environment["DEPLOYBENCH_CACHE"])).list() if e.kind == "probes"}


def test_nothing_is_named_where_it_agrees(cli, saboteur, small, tmp_path):
    result = cli("localize", small, "-b", "saboteur", "--output", "out", env=saboteur)
    assert result.code == 0
    assert result.stdout.splitlines() == [
        "tiny on saboteur (local): it agrees with the reference within fp32; nothing is named"
    ]
    assert not (tmp_path / "out").exists()


def test_a_reference_that_holds_nan_accuses_nobody(cli, saboteur, tmp_path):
    path = saved(tmp_path, "(float[1,6] x) => (float[1,6] y) { a = Log (x)  y = Neg (a) }")
    result = cli("localize", path, "-b", "saboteur", "-o", "plants=nan@a", env=saboteur)
    assert result.code == 3
    assert "the reference's output y holds NaN or infinity: no node is accused" in result.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("-b", "ncnm"), "there is no backend 'ncnm'; did you mean ncnn"),
        (("-b", "fake", "--output", "full"), "full holds other files"),
        (("-b", "fake", "--output", "full/file"), "is a file"),
        (("-b", "fake", "--tolerance", "tight"), "--tolerance 'tight' cannot be read"),
        (("-b", "fake", "--shape", "x=2,6"), "input 'x' is fixed to [1, 6]"),
        (("-b", "fake", "--shape", "z=2,6"), "the model has no input 'z'"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_runs(cli, small, tmp_path, argv, says):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    result = cli("localize", small, *argv)
    assert result.code == 2
    assert says in result.stderr
    assert (tmp_path / "full" / "file").read_text() == "mine"


def test_a_tensor_made_twice_is_refused(cli, tmp_path):
    path = saved(tmp_path, "(float[2] x) => (float[2] y) { a = Relu (x)  a = Neg (x)  y = Exp (a) }")
    result = cli("localize", path, "-b", "fake")
    assert result.code == 2
    assert "'a' is made by two nodes" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_node_that_nothing_reads_is_left_out(cli, saboteur, tmp_path):
    """It is said, and it is not accused where it fails: no output depends on it."""
    text = "(float[1,6] x) => (float[1,6] y) { [idle] u = Exp (x)  [live] a = Tanh (x)  y = Neg (a) }"
    path = saved(tmp_path, text)
    result = cli("localize", path, "-b", "saboteur", "-o", "plants=activation@a", env=saboteur)
    assert result.code == 1, result.stderr
    assert "culprit 1: Tanh 'live'" in result.stdout
    assert "culprit 2" not in result.stdout
    assert "1 nodes are read by nothing, and were left out: Exp 'idle'" in result.stdout


@pytest.mark.slow
def test_what_fails_only_with_a_node_that_nothing_reads(cli, saboteur, tmp_path):
    text = "(float[1,6] x) => (float[1,6] y) { [idle] u = Exp (x)  [live] a = Tanh (x)  y = Neg (a) }"
    path = saved(tmp_path, text)
    result = cli("localize", path, "-b", "saboteur", "-o", "plants=unsupported@u", env=saboteur)
    assert result.code == 1, result.stderr
    assert "it fails only with the nodes that no output needs" in result.stdout
    assert "culprit" not in result.stdout


@pytest.mark.parametrize("nodes", ["y = acme.Foo (a)", "y = Reshape (a, five)"])
def test_a_model_that_the_reference_cannot_run_accuses_nobody(cli, saboteur, tmp_path, nodes):
    path = saved(tmp_path, f"(float[1,6] x) => (float[5] y) {{ a = Relu (x)  {nodes} }}", {"five": np.array([5])})
    proto = onnx.load(path)
    proto.opset_import.append(onnx.helper.make_opsetid("acme", 1))
    onnx.save(proto, path)
    result = cli("localize", path, "-b", "saboteur", "-o", "plants=weight@y", env=saboteur)
    assert result.code == 3
    assert "the reference fails on this model itself" in result.stdout
    assert "no node is accused" in result.stdout
    assert "Traceback" not in result.stderr


def test_a_data_set_of_another_shape_is_left_out(cli, small, saboteur, tmp_path):
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    for name, tensor, size in (("input_0", "x", (1, 5)), ("output_0", "y", (1, 6))):
        values = numpy_helper.from_array(np.ones(size, np.float32), tensor)
        (folder / f"{name}.pb").write_bytes(values.SerializeToString())
    result = cli("localize", small, "-b", "saboteur", env=saboteur)
    assert result.code == 0, result.stderr
    assert "nothing is named" in result.stdout
    assert "test_data_set_0 is not used: its 'x' is float32[1, 5], the model takes float32[1, 6]" in result.stdout


@pytest.fixture
def little_disk(tmp_path):
    """A folder on a disk of four kilobytes."""
    full = tmp_path / "disk"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(full)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"needs leave to mount a small disk (run as root): {mounted.stderr.strip()}")
    yield full
    subprocess.run(["umount", str(full)], check=True)


@pytest.mark.slow
def test_no_space_for_the_parts(cli, saboteur, little_disk, tmp_path):
    weights = np.ones((40, 40), np.float32)
    path = saved(tmp_path, "(float[1,40] x) => (float[1,40] y) { [only] y = MatMul (x, w) }", {"w": weights})
    env = {**saboteur, "TMPDIR": str(little_disk)}
    result = cli("localize", path, "-b", "saboteur", "-o", "plants=weight@y", env=env)
    assert result.code == 1
    assert f"no space left for the parts of the model in {little_disk}" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.slow
def test_no_space_for_the_reproducer(cli, small, saboteur, little_disk, tmp_path):
    """What was found is kept: another folder gets it without a search."""
    argv = ("localize", small, "-b", "saboteur", "-o", "plants=weight@c")
    result = cli(*argv, "--output", little_disk / "out", env=saboteur)
    assert result.code == 1
    assert f"no space left for the reproducer in {little_disk}" in result.stderr
    assert "choose another folder with --output" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(little_disk.iterdir()) == []
    known = kept(cli)
    again = cli(*argv, "--output", tmp_path / "out", env=saboteur)
    assert "culprit 1: MatMul 'two'" in again.stdout
    assert kept(cli) == known


def test_a_circle_is_refused(cli, tmp_path):
    path = saved(tmp_path, "(float[2] x) => (float[2] y) { a = Add (x, b)  b = Neg (a)  y = Relu (b) }")
    result = cli("localize", path, "-b", "fake")
    assert result.code == 2
    assert "has a circle" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("plant", "says", "shown"),
    [
        ("crash", "load: the worker process died of SIGSEGV", "it crashed with SIGSEGV"),
        ("unsupported", "load: the saboteur has no MatMul", ""),
        ("raise", "first_run: the saboteur does not run this", "RuntimeError: the saboteur does not run this"),
        ("hang", "first_run: the phase first_run took longer than its limit of 3 s", "it hung for 3 s"),
        ("nan", "is nan, not", ""),
        ("fused", "right apart, wrong together", ""),
    ],
)
def test_every_kind_of_trouble(cli, small, saboteur, tmp_path, plant, says, shown):
    """`shown`: what the reproducer says, for the faults that the saboteur has by itself."""
    argv = ("localize", small, "-b", "saboteur", "-o", f"plants={plant}@c", "--limit", "first_run=3", "--output", "out")
    result = cli(*argv, env=saboteur)
    assert result.code == 1
    assert "culprit 1: MatMul 'two'" in result.stdout
    assert "culprit 2" not in result.stdout
    assert says in result.stdout
    code, said = reproduced(tmp_path / "out" / "culprit-1")
    assert f"seen: {says}" in said or not shown
    last = f"REPRODUCED: the runtime fails: {shown}" if shown else GONE
    assert (code, said.splitlines()[-1]) == (1 if shown else 0, last)


@pytest.mark.slow
def test_a_reproducer_that_cannot_be_tried_accuses_nobody(cli, small, saboteur, tmp_path):
    """Another machine may lack the runtime, or be too slow for the limit."""
    cli("localize", small, "-b", "saboteur", "-o", "plants=raise@c", "--output", "out", env=saboteur)
    script = tmp_path / "out" / "culprit-1" / "reproduce.py"
    text = script.read_text()
    script.write_text(text.replace("import onnxruntime as ort", "import onnxruntime_is_not_here as ort"))
    code, said = reproduced(script.parent)
    assert (code, said.splitlines()[-1][:31]) == (2, "not tried: ModuleNotFoundError:")
    script.write_text(text.replace("raise@", "hang@"))
    code, said = reproduced(script.parent, "2")
    assert code == 2
    assert "not tried: no answer within 2 s; to give it longer: python reproduce.py SECONDS" in said


@pytest.mark.slow
def test_a_backend_whose_runs_differ(cli, small, saboteur):
    result = cli("localize", small, "-b", "saboteur", "-o", "plants=random@c", env=saboteur)
    assert result.code == 1
    assert "it is not deterministic: two runs with the same inputs differ by" in result.stdout
    assert "no node is accused" in result.stdout
    assert "culprit" not in result.stdout


@pytest.mark.slow
def test_a_contradicting_data_set_accuses_nobody(cli, small, saboteur, tmp_path):
    folder = tmp_path / "test_data_set_0"
    folder.mkdir()
    for name, tensor in (("input_0", "x"), ("output_0", "y")):
        values = np.ones((1, 6), np.float32)
        (folder / f"{name}.pb").write_bytes(numpy_helper.from_array(values, tensor).SerializeToString())
    result = cli("localize", small, "-b", "saboteur", "-o", "plants=weight@c", env=saboteur)
    assert result.code == 3
    assert "contradict each other" in result.stdout
    assert "no node is accused" in result.stdout


@pytest.mark.slow
def test_a_killed_search_goes_on_where_it_was(cli, small, saboteur):
    argv = [*cli.command, "localize", str(small), "-b", "saboteur", "-o", "plants=weight@y", "--output", "out"]
    process = subprocess.Popen(
        argv, env={**cli.environment, **saboteur}, cwd=cli.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    before, end = kept(cli), time.monotonic() + 100
    while not kept(cli) - before and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = kept(cli)
    assert first - before
    result = cli("localize", small, "-b", "saboteur", "-o", "plants=weight@y", "--output", "out", env=saboteur)
    assert "culprit 1: MatMul 'three'" in result.stdout
    assert first <= kept(cli)


@pytest.mark.slow
def test_mnn_s_softmax_of_old_opsets(cli, tmp_path):
    """Before opset 13 a Softmax without an axis is over axis 1; MNN takes the last one. The script shows it alone."""
    pytest.importorskip("MNN", reason='needs MNN: pip install "deploybench[mnn]"')
    pytest.importorskip("onnxruntime", reason='needs onnxruntime: pip install "deploybench[cpu]"')
    path = saved(
        tmp_path, "(float[2,3,4] x) => (float[2,3,4] y) { a = Tanh (x)  s = Softmax (a)  y = Neg (s) }", opset=9
    )
    result = cli("localize", path, "-b", "mnn", "--output", "out")
    assert result.code == 1
    assert "culprit 1: Softmax" in result.stdout
    code, said = reproduced(tmp_path / "out" / "culprit-1")
    assert code == 1, said
    assert "REPRODUCED" in said.splitlines()


@pytest.mark.slow
def test_what_ncnn_cannot_convert(cli, pnnx, tmp_path):
    pytest.importorskip("ncnn", reason='needs ncnn: pip install "deploybench[ncnn]"')
    text = """(float[1,3,6,6] x) => (float[1,3,5,5] y) {
        a = Relu (x)  p = AveragePool <kernel_shape = [3, 3], pads = [0, 0, 1, 1]> (a)  y = Sigmoid (p) }"""
    result = cli("localize", saved(tmp_path, text, opset=9), "-b", "ncnn", "--output", "out")
    assert result.code == 1
    assert "culprit 1: AveragePool" in result.stdout
    done = subprocess.run(
        [sys.executable, "-I", "reproduce.py"], cwd=tmp_path / "out" / "culprit-1", capture_output=True, text=True,
        env={**os.environ, "PNNX": str(pnnx)}, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "REPRODUCED: the runtime fails" in done.stdout
