"""ONNX Runtime on the CPU: its options, the values that numpy lacks, and its errors as ours."""

from __future__ import annotations

import numpy as np
import pytest

from backends.ort import MEANING, translate
from bench.errors import LoadError, RunError, UnsupportedModel
from bench.interface import Packed


@pytest.fixture
def kit(kit_of):
    return kit_of("ort-cpu")


@pytest.mark.parametrize("level", ["all", "extended", "basic", "off"])
def test_every_optimisation_level(kit, level):
    kit.agrees("conv", optimization=level)


def test_the_other_options_are_taken(kit):
    kit.agrees("two of each", execution="parallel", inter_op=2, spinning=False, arena=False)


@pytest.mark.parametrize("name", ["argmax", "five dimensions"])
def test_what_other_runtimes_refuse(kit, name):
    kit.agrees(name)


def test_a_loop_runs(kit):
    with kit.load("loop") as session:
        x = np.ones((1, 3), np.float32)
        np.testing.assert_array_equal(session.run({"x": x, "n": np.asarray(3)})["y"], 8 * x)


def test_squeezenet_gives_probabilities(kit, squeezenet):
    with kit.load(squeezenet) as session:
        assert session.run(kit.feeds(squeezenet))["softmaxout_1"].sum() == pytest.approx(1, abs=1e-3)


def test_strings_pass(kit):
    words = np.array(["a", "ü"], dtype=object)
    with kit.load(kit.parse("(string[2] x) => (string[2] y) { y = Identity (x) }")) as session:
        assert session.run({"x": words})["y"].tolist() == ["a", "ü"]


def test_sequences_pass(kit):
    proto = kit.parse("(float[2,3] x) => (seq(float[3]) y) { y = SplitToSequence <axis = 0, keepdims = 0> (x) }")
    feeds = kit.feeds(proto)
    with kit.load(proto) as session:
        out = session.run(feeds)["y"]
    assert isinstance(out, list)
    np.testing.assert_array_equal(np.stack(out), feeds["x"])


def test_maps_pass(kit):
    """What scikit-learn's classifiers end with."""
    text = "(float[1,2] x) => (seq(map(int64, float)) y) { y = ai.onnx.ml.ZipMap <classlabels_int64s = [4, 5]> (x) }"
    with kit.load(kit.parse(text, domain="ai.onnx.ml")) as session:
        assert session.run({"x": np.array([[0.25, 0.75]], np.float32)})["y"] == [{4: 0.25, 5: 0.75}]


def test_types_that_numpy_lacks_come_as_bits(kit):
    text = """(float[2] x) => (bfloat16[2] brain, float8e4m3fn[2] eighth, float16[2] half) {
        brain = Cast <to = 16> (x)
        eighth = Cast <to = 17> (x)
        half = Cast <to = 10> (x)
    }"""
    with kit.load(kit.parse(text, opset=19, ir=9)) as session:
        first = session.run({"x": np.array([1.0, -2.0], np.float32)})
        session.run({"x": np.array([5.0, 6.0], np.float32)})
    assert isinstance(first["brain"], Packed)
    assert first["brain"].dtype == "bfloat16"
    assert first["brain"].bits.tolist() == [0x3F80, 0xC000]
    assert first["eighth"].bits.dtype == np.uint8
    assert first["eighth"].bits.tolist() == [0x38, 0xC0]
    assert first["half"].tolist() == [1, -2]


def test_placement_counts_nodes(kit):
    with kit.load("conv", optimization="off") as session:
        assert session.placement().nodes == {"CPUExecutionProvider": 5}


def test_an_unknown_operator_is_unsupported(kit):
    with pytest.raises(UnsupportedModel, match="Frobnicate") as raised:
        kit.load("unknown")
    assert "custom_ops" in raised.value.hint
    assert str(kit.folder) not in str(raised.value)


def test_an_operator_without_that_type_is_unsupported(kit):
    with pytest.raises(UnsupportedModel, match="selu_1"):
        kit.load(kit.parse("(double[2] x) => (double[2] y) { [selu_1] y = Selu (x) }"))


def test_a_future_opset_is_unsupported(kit):
    with pytest.raises(UnsupportedModel, match="99"):
        kit.load(kit.parse("(float[2] x) => (float[2] y) { y = Relu (x) }", opset=99))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no protobuf" * 9])
def test_a_damaged_file(kit, damage):
    artifact = kit.prepare(kit.model("conv"))
    artifact.path.write_bytes(damage(artifact.path.read_bytes()))
    with pytest.raises(LoadError, match=r"tiny\.onnx"):
        kit.backend.load(artifact, kit.options())


def test_a_missing_library(kit):
    with pytest.raises(LoadError, match=r"none\.so"):
        kit.load("mlp", custom_ops=str(kit.folder / "none.so"))


def test_a_failed_run(kit):
    with kit.load("gather") as session, pytest.raises(RunError, match="out of data bounds"):
        session.run({"i": np.array([99, 0, 0, 0])})


def test_every_exception_of_the_runtime_is_mapped(kit):
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = {n for n, v in vars(state).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert found
    assert found <= set(MEANING), f"unmapped: {found - set(MEANING)}"
    for name in found:
        assert isinstance(translate(vars(state)[name]("text"), RunError, "try"), (RunError, UnsupportedModel))


def test_it_has_the_file_s_own_precision_only(kit):
    assert kit.backend.probe().precisions == ("model",)
