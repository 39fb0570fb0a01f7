"""A real library of custom operators as an option: it is used, hashed into the case, and the judge needs it too."""

from __future__ import annotations

import json
import shutil

import onnx
import pytest
from onnx import TensorProto, helper

FAST = ("--trials", "1", "--min-time", "0.05", "--max-time", "0.3", "--min-count", "8", "--max-foreign-cpu", "1")


@pytest.fixture(scope="module")
def library():
    extensions = pytest.importorskip(
        "onnxruntime_extensions", reason='needs onnxruntime-extensions: pip install "deploybench[dev]"'
    )
    return extensions.get_library_path()


@pytest.fixture
def model(tmp_path):
    """float32[3, 3] to its inverse, by an operator that ONNX does not have."""
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 3]) for name in ("x", "y")]
    graph = helper.make_graph(
        [helper.make_node("Inverse", ["x"], ["y"], domain="ai.onnx.contrib")], "g", info[:1], info[1:]
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.contrib", 1)]
    path = tmp_path / "inverse.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def run(cli, model, tmp_path, *options):
    result = cli("run", str(model), "-b", "ort-cpu", *FAST, *options, "--results", str(tmp_path / "results"), "--json")
    return result, [json.loads(line) for line in result.stdout.splitlines()]


def test_without_the_library_the_operator_is_named(cli, model, tmp_path):
    _, (record,) = run(cli, model, tmp_path)
    assert record["status"] in ("unsupported", "failed")
    assert "Inverse" in record["why"] + record["error"]["log_tail"]


def test_with_the_library_it_runs(cli, model, tmp_path, library):
    result, (record,) = run(cli, model, tmp_path, "-o", f"custom_ops={library}")
    assert result.code == 0, result.stderr + record["why"]
    told = record["case"]["options"]["extra"]["custom_ops"]
    assert "sha256:" in told
    assert "/" not in told


def test_another_library_is_another_cell(cli, model, tmp_path, library):
    other = tmp_path / "other.so"
    shutil.copy(library, other)
    _, (first,) = run(cli, model, tmp_path, "-o", f"custom_ops={library}")
    with other.open("ab") as file:
        file.write(b"\0")
    _, (second,) = run(cli, model, tmp_path, "-o", f"custom_ops={other}")
    assert first["cell"] != second["cell"]


def test_a_library_that_is_not_there(cli, model, tmp_path):
    result, _ = run(cli, model, tmp_path, "-o", "custom_ops=/nowhere/ops.so")
    assert result.code == 2
    assert "there is no file" in result.stderr
