"""`deploybench reference`: what it writes can be judged by, says who made it, and nothing half-made is left."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.report import words
from tests.test_models import data_set

ORT = importlib.util.find_spec("onnxruntime") is not None
pytestmark = pytest.mark.skipif(not ORT, reason='run: pip install "deploybench[cpu]"')
FAST = ("--trials", "1", "--max-trials", "1", "--min-time", "0.05", "--max-time", "0.3", "--min-count", "8")
ANY = (*FAST, "--max-foreign-cpu", "1", "--quiet")
X = np.linspace(-1, 1, 16, dtype=np.float32).reshape(1, 16)


def model(folder, nodes, outputs, *, name="net.onnx", shape=(1, 16), weights=(), dtype=TensorProto.FLOAT):
    """A model that takes `x`, written into a folder of its own."""
    folder.mkdir(exist_ok=True)
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", dtype, shape)], outputs, list(weights))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / name)
    return folder / name


def out(name, kind=TensorProto.FLOAT, shape=None):
    return helper.make_tensor_value_info(name, kind, shape)


@pytest.fixture
def refused(cli):
    """Run it, and hold it to one clear line, nothing written, and no traceback."""

    def call(*argv, code=2):
        done = cli("reference", *argv)
        assert done.code == code, done.stderr
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
        return done.stderr.strip().splitlines()[-1]

    return call


def test_what_is_written_judges_a_run(cli, mlp_path, tmp_path):
    made = cli("reference", mlp_path, "--batch", "1", "--inputs", "3", "--seed", "9", "--output", "made", "--json")
    assert made.code == 0, made.stderr
    facts = json.loads(made.stdout)
    assert (facts["producer"], facts["precision"], facts["seed"]) == ("onnxruntime", "float32", 9)
    assert len(facts["data_sets"]) == 3
    assert facts["noise"][0]["float64"] is not None
    said = json.loads((tmp_path / "made" / "provenance.json").read_text())
    assert set(said["files"]) == {f"test_data_set_{n}/{f}.pb" for n in range(3) for f in ("input_0", "output_0")}
    run = cli("run", "made", "-b", "fake", *ANY, "--json")
    (record,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert record["status"] == "ok", run.stderr
    parity = record["parity"]
    assert parity["reference"]["producer"] == "onnxruntime"
    assert parity["reference"]["seed"] == 9
    assert parity["reference"]["noise"][0]["float64"] is not None
    assert parity["reached"] == "fp32"
    assert parity["outputs"][0]["snr_db"] is None or parity["outputs"][0]["snr_db"] > 120
    assert 0 <= parity["required"][0] <= 1e-3


@pytest.mark.slow
def test_the_same_command_writes_the_same_bytes(cli, mlp_path, tmp_path):
    for name in ("a", "b"):
        assert cli("reference", mlp_path, "--batch", "2", "--output", name).code == 0
    for path in sorted((tmp_path / "a").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


@pytest.mark.slow
def test_float64_is_nearer_to_the_truth_than_float32(cli, tmp_path):
    """A sum that float32 gets wrong: 1e4 + 1e-4 - 1e4, sixteen times."""
    w = np.concatenate([np.full((16, 1), 1e4), np.full((16, 1), 1e-4), np.full((16, 1), -1e4)], 1).T.reshape(1, 48)
    path = model(
        tmp_path / "m",
        [
            helper.make_node("Concat", ["x", "x", "x"], ["c"], axis=1),
            helper.make_node("Mul", ["c", "w"], ["p"]),
            helper.make_node("ReduceSum", ["p", "axes"], ["y"], keepdims=1),
        ],
        [out("y")],
        weights=[
            numpy_helper.from_array(w.astype(np.float32), "w"),
            numpy_helper.from_array(np.array([1], np.int64), "axes"),
        ],
    )
    np.save(tmp_path / "x.npy", np.abs(X) + np.float32(0.3))
    found = {}
    for producer in ("ort", "float64"):
        done = cli("reference", path, "--data", "x.npy", "--producer", producer, "--output", producer, "--json")
        assert done.code == 0, done.stderr
        data = (tmp_path / producer / "test_data_set_0" / "output_0.pb").read_bytes()
        found[producer] = numpy_helper.to_array(onnx.TensorProto.FromString(data)).item()
        assert json.loads(done.stdout)["precision"] == {"ort": "float32", "float64": "float64"}[producer]
    x = (np.abs(X) + np.float32(0.3)).astype(np.float64)[0]
    truth = (np.concatenate([x, x, x]) * w.astype(np.float32).astype(np.float64)[0]).sum()
    assert abs(found["float64"] - truth) < 1e-6 * abs(truth)
    assert abs(found["ort"] - truth) > abs(found["float64"] - truth)
    assert json.loads(done.stdout)["noise"][0]["float64"] > 1e-2


def test_every_output_kind_goes_through(cli, tmp_path):
    """int64, bool, strings, a sequence, an empty tensor, and a shape that the data decide."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["index"], axis=1),
        helper.make_node("Greater", ["x", "zero"], ["above"]),
        helper.make_node("NonZero", ["above"], ["where"]),
        helper.make_node("SplitToSequence", ["x", "four"], ["parts"], axis=1),
        helper.make_node("Slice", ["x", "none", "none", "axis"], ["empty"]),
        helper.make_node("Cast", ["index"], ["text"], to=TensorProto.STRING),
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["x"], ["brain"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["x"], ["double"], to=TensorProto.DOUBLE),
    ]
    weights = [
        numpy_helper.from_array(np.float32(0), "zero"),
        numpy_helper.from_array(np.array(4, np.int64), "four"),
        numpy_helper.from_array(np.array([0], np.int64), "none"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
    ]
    kinds = {"index": "INT64", "above": "BOOL", "where": "INT64", "empty": "FLOAT", "text": "STRING"}
    kinds |= {"half": "FLOAT16", "double": "DOUBLE"}
    outputs = [out(name, getattr(TensorProto, kind)) for name, kind in kinds.items()]
    sequence = helper.make_tensor_sequence_value_info("parts", TensorProto.FLOAT, None)
    path = model(tmp_path / "m", nodes, [*outputs, sequence], weights=weights)
    assert cli("reference", path, "--output", "made").code == 0
    run = cli("run", "made", "-b", "ort-cpu", "-b", "reference", *ANY, "--json")
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [r["status"] for r in records] == ["ok", "ok"], [r["why"] for r in records]
    assert {o["name"] for o in records[1]["parity"]["outputs"]} == {*kinds, "parts"}
    assert any("nothing to judge: the reference output empty" in note for note in records[0]["notes"])
    assert records[0]["parity"]["independent"] is False
    assert records[1]["parity"]["independent"] is True


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_a_model_that_says_the_same_to_every_input_is_not_published(cli, tmp_path, factor):
    nodes = [helper.make_node("Mul", ["x", "factor"], ["y"])]
    weights = [numpy_helper.from_array(np.float32(factor), "factor")]
    path = model(tmp_path / "m", nodes, [out("y", shape=(1, 16))], weights=weights)
    run = cli("run", path, "-b", "reference", *ANY, "--json")
    (record,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert record["status"] == ("ok" if factor else "implausible"), record["why"]
    assert record["parity"]["reference"]["constant"] is (factor == 0)
    assert run.code == (0 if factor else 1)


def test_a_label_may_be_the_same_by_chance(cli, tmp_path):
    nodes = [
        helper.make_node("Mul", ["x", "scale"], ["scores"]),
        helper.make_node("ArgMax", ["scores"], ["y"], axis=1, keepdims=0),
    ]
    weights = [numpy_helper.from_array(np.zeros((1, 16), np.float32), "scale")]
    path = model(tmp_path / "m", nodes, [out("y", TensorProto.INT64, (1,))], weights=weights)
    run = cli("run", path, "-b", "ort-cpu", *ANY, "--json")
    (record,) = [json.loads(line) for line in run.stdout.splitlines()]
    assert (record["status"], record["parity"]["reference"]["constant"]) == ("ok", False), record["why"]
    assert any(note.startswith("input-blind") for note in record["notes"])


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--producer", "framework"), "only models of the catalogue"),
        (("--data", "nowhere.npz"), "there is no file or folder"),
        (("--preprocess", "imagenet"), "--preprocess is for images"),
        (("--data", ".", "--seed", "3"), "--seed is for inputs that are drawn"),
        (("--inputs", "0"), "0 is not in the range"),
        (("--producer", "tensorflow"), "'tensorflow' is not one of"),
    ],
)
def test_contradictions_are_refused(refused, tmp_path, argv, words):
    path = model(tmp_path / "m", [helper.make_node("Neg", ["x"], ["y"])], [out("y")])
    assert words in refused(path, *argv, "--output", "made")
    assert not (tmp_path / "made").exists()


def test_a_reference_that_is_not_finite_is_not_written(refused, tmp_path):
    path = model(tmp_path / "m", [helper.make_node("Log", ["x"], ["y"])], [out("y")])
    assert "holds NaN or infinity" in refused(path, "--output", "made", code=1)
    assert not (tmp_path / "made").exists()


def test_a_model_that_fails_in_the_reference_itself(refused, tmp_path):
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"])]
    weights = [numpy_helper.from_array(np.array([5, 5], np.int64), "shape")]
    path = model(tmp_path / "m", nodes, [out("y")], weights=weights)
    assert "the reference itself fails on this model" in refused(path, "--output", "made", code=1)


def test_operators_that_float64_cannot_do_are_named(refused, tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z")]
    path = model(tmp_path / "m", nodes, [out("y")], weights=weights)
    line = refused(path, "--producer", "float64", "--output", "made", code=1)
    assert "DequantizeLinear, QuantizeLinear cannot compute in it" in line


def test_what_is_there_is_not_overwritten(refused, mlp_path, tmp_path):
    (tmp_path / "made" / "test_data_set_0").mkdir(parents=True)
    assert "holds test_data_set_0 already" in refused(mlp_path, "--batch", "1", "--output", "made")
    other = model(tmp_path / "m", [helper.make_node("Neg", ["x"], ["y"])], [out("y")])
    assert "holds another model" in refused(mlp_path, "--batch", "1", "--output", other.parent)
    (tmp_path / "file").write_text("mine")
    assert "is a file" in refused(mlp_path, "--batch", "1", "--output", "file")


def test_beside_the_model_itself(cli, tmp_path):
    path = model(tmp_path / "m", [helper.make_node("Neg", ["x"], ["y"])], [out("y")])
    done = cli("reference", path, "--output", path.parent)
    assert done.code == 0, done.stderr
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "net.onnx",
        "provenance.json",
        "test_data_set_0",
        "test_data_set_1",
    ]


def test_inputs_are_drawn_like_the_model_s_own(cli, tmp_path):
    """Indices beyond the table would be no inputs: the file does not show how long it is."""
    nodes = [helper.make_node("Gather", ["x", "ids"], ["y"], axis=1)]
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, (2,))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3))
    opsets = [helper.make_opsetid("", 17)]
    made = helper.make_model(helper.make_graph(nodes, "g", [x, ids], [out("y")]), opset_imports=opsets, ir_version=8)
    (tmp_path / "model").mkdir()
    onnx.save(made, tmp_path / "model" / "model.onnx")
    data_set(tmp_path / "model", input_0=X[:, :3], input_1=np.array([0, 2]), output_0=X[:, [0, 2]])
    done = cli("reference", "model", "--inputs", "4", "--output", "made")
    assert done.code == 0, done.stderr
    assert json.loads((tmp_path / "made" / "provenance.json").read_text())["inputs"].startswith("drawn like")
    for path in (tmp_path / "made").glob("test_data_set_*/input_1.pb"):
        found = numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))
        assert sorted(found.tolist()) == [0, 2]


def test_one_output_that_was_supplied_and_one_that_was_not(cli, tmp_path):
    """A folder as in ONNX's own tests: for its one input it has the output, for the other it must be computed."""
    path = model(tmp_path / "model", [helper.make_node("Relu", ["x"], ["y"])], [out("y")], name="model.onnx")
    data_set(path.parent, input_0=X, output_0=np.maximum(X, 0))
    done = cli("run", "model", "-b", "fake", *ANY, "--json")
    (record,) = [json.loads(line) for line in done.stdout.splitlines()]
    assert record["status"] == "ok", done.stdout
    said = record["parity"]["reference"]
    assert said["producer"] == "as supplied and onnxruntime"
    assert said["version"].startswith("1.")
    assert (said["precision"], said["settings"] != "") == ("float32", True)
    table = cli("report").stdout
    assert f"| as supplied and onnxruntime {said['version']} |" in table
    assert words.MARKS["ᵉ"] in table


def test_one_supplied_output_is_too_few_where_nobody_can_make_another(cli, tmp_path):
    mine = helper.make_node("Mine", ["x"], ["y"], domain="org.example")
    path = model(tmp_path / "model", [mine], [out("y")], name="model.onnx")
    for hint in ("put test_data_set_0 beside the model", "put test_data_set_1 beside the model: stale"):
        (record,) = [json.loads(line) for line in cli("run", "model", "-b", "fake", *ANY, "--json").stdout.splitlines()]
        assert hint in record["error"]["hint"], record["error"]
        data_set(path.parent, input_0=X, output_0=X)


def test_a_reference_of_another_model_is_refused(cli, tmp_path):
    path = model(tmp_path / "m", [helper.make_node("Neg", ["x"], ["y"])], [out("y")])
    (path.parent / "provenance.json").write_text('{"producer": "x", "version": "1", "model_sha256": "0123"}')
    done = cli("run", path, "-b", "fake", *ANY)
    assert done.code == 2
    assert "are of another model: provenance.json says 0123" in done.stderr


# Runs the command in a process that is killed where it would do so for the second time.
KILLED = """
import os, pathlib, signal
from bench.reference import written
def killed(*args, calls=[], real={real}):
    calls.append(1)
    if len(calls) == {call}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
{real} = killed
from bench.cli import main
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("real", "call", "there"),
    [("written._write_set", 2, False), ("pathlib.Path.rename", 1, True), ("written._copy_model", 1, False)],
)
def test_a_killed_command_leaves_nothing_half_written(cli, mlp_path, tmp_path, real, call, there):
    """The folder is whole or not there, whether it was there before or not; the next command writes it."""
    argv = ["reference", str(mlp_path), "--batch", "1", "--inputs", "2", "--output", "made"]
    assert cli(*argv[:-1], "other").code == 0  # what is made once is in the cache
    if there:
        (tmp_path / "made").mkdir()
    code = KILLED.format(real=real, call=call)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *argv], cwd=tmp_path, env=cli.environment, capture_output=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list(tmp_path.glob("made/*"))
    again = cli(*argv)
    assert again.code == 0, again.stderr
    for path in sorted((tmp_path / "other").rglob("*.*")):
        assert path.read_bytes() == (tmp_path / "made" / path.relative_to(tmp_path / "other")).read_bytes()
    assert not list(tmp_path.glob(".made*"))
