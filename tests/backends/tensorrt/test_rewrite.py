"""ONNX files in lower precision, computed by ONNX Runtime and onnx's evaluator; dimensions opened for a profile."""

from __future__ import annotations

import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from backends.tensorrt import rewrite
from bench.errors import BackendUnavailable, PrepareError, UnsupportedModel

FINE = ["conv", "mlp", "rank 3", "two of each", "to a scalar", "old IR", "constant output", "loop"]
LAYER_NORM = """(float[2,64] x) => (float[2,64] y) {
    m = ReduceMean <axes = [1]> (x)
    d = Sub (x, m)
    p = Pow (d, two)
    v = ReduceMean <axes = [1]> (p)
    e = Add (v, eps)
    q = Sqrt (e)
    y = Div (d, q)
}"""
MASK = "(float[1,4] x) => (float[1,4] y) { a = Add (x, k) y = Softmax (a) }"


@pytest.fixture
def kit(kit_of):
    return kit_of("ort-cpu")


def lowered(proto, precision):
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    return rewrite.lower(made, precision)


def through_ort(proto, feeds):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_of(kit, proto):
    feeds = kit.feeds(proto, 1)
    return {
        name: np.asarray(3) if value.shape == () and value.dtype.kind == "i" else value for name, value in feeds.items()
    }


@pytest.mark.parametrize("name", FINE)
def test_fp16_keeps_inputs_outputs_and_answers(kit, name):
    proto = kit.proto(name)
    made = lowered(proto, "fp16")
    onnx.checker.check_model(made, full_check=True)
    assert [v.type.tensor_type.elem_type for v in made.graph.output] == [
        v.type.tensor_type.elem_type for v in proto.graph.output
    ]
    feeds = feeds_of(kit, proto)
    for got, wanted in zip(through_ort(made, feeds), through_ort(proto, feeds), strict=True):
        scale = float(np.abs(wanted).max()) or 1.0
        assert got.dtype == wanted.dtype
        assert np.abs(got - wanted).max() <= 1e-2 * scale


def test_fp16_computes_in_fp16(kit):
    """Not a pair of casts around float32: the weights are float16, and the error is theirs."""
    proto = kit.proto("mlp")
    made = lowered(proto, "fp16")
    assert {t.data_type for t in made.graph.initializer} == {TensorProto.FLOAT16}
    assert [n.op_type for n in made.graph.node].count("Cast") == 2
    feeds = kit.feeds(proto, 1)
    error = np.abs(through_ort(made, feeds)[0] - through_ort(proto, feeds)[0]).max()
    assert error > 1e-6


@pytest.mark.parametrize("name", ["mlp", "rank 3", "two shapes"])
def test_bf16_is_right_within_its_eight_bits(kit, name):
    pytest.importorskip("ml_dtypes")
    proto = kit.proto(name)
    made = lowered(proto, "bf16")
    assert all(t.data_type == TensorProto.BFLOAT16 for t in made.graph.initializer)
    feeds = kit.feeds(proto, 1)
    for got, wanted in zip(ReferenceEvaluator(made).run(None, feeds), through_ort(proto, feeds), strict=True):
        assert np.abs(np.asarray(got, np.float32) - wanted).max() <= 5e-2 * np.abs(wanted).max()


def test_bits_of_bfloat16_are_rounded_to_the_nearest():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    values = np.random.default_rng(0).standard_normal(4096).astype(np.float32)
    values = np.concatenate([values, np.array([0, -0.0, np.inf, -np.inf, 1e-40, 3e38, 1.00390625], np.float32)])
    np.testing.assert_array_equal(rewrite._bfloat16(values), values.astype(ml_dtypes.bfloat16).view(np.uint16))
    assert np.isnan(rewrite._bfloat16(np.array([np.nan], np.float32)).view(ml_dtypes.bfloat16).astype(np.float32))


def test_sums_and_powers_stay_in_float32_and_neighbours_of_them_meet_without_a_cast(kit):
    """A variance of large values overflows float16 at 256: not here."""
    proto = kit.parse(LAYER_NORM, {"two": np.float32(2), "eps": np.float32(1e-5)})
    made = lowered(proto, "fp16")
    x = 300 * np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32)
    (got,), (wanted,) = through_ort(made, {"x": x}), through_ort(proto, {"x": x})
    assert np.abs(x).max() > 256
    makers = {name: n.op_type for n in made.graph.node for name in n.output}
    read = [(n.op_type, makers.get(n.input[0])) for n in made.graph.node]
    assert {("ReduceMean", "Pow"), ("Add", "ReduceMean"), ("Sqrt", "Add")} <= set(read)
    np.testing.assert_allclose(got, wanted, atol=1e-2 * np.abs(wanted).max())


def test_a_mask_of_the_lowest_float_stays_finite(kit):
    proto = kit.parse(MASK, {"k": np.array([[0, -3.4e38, 0, -3.4e38]], np.float32)})
    (got,) = through_ort(lowered(proto, "fp16"), {"x": np.ones((1, 4), np.float32)})
    np.testing.assert_allclose(got, [[0.5, 0, 0.5, 0]], atol=1e-3)


def test_attributes_and_scales_that_are_float32_by_their_nature(kit):
    text = """(float[1,2,4,4] x) => (float[1,2,8,8] y, float[3] z) {
        r = Resize <mode = "nearest"> (x, , scales)
        c = Constant <value_float = 2.0> ()
        y = Mul (r, c)
        i = Constant <value_ints = [3]> ()
        z = ConstantOfShape (i)
    }"""
    proto = kit.parse(text, {"scales": np.array([1, 1, 2, 2], np.float32)})
    made = lowered(proto, "fp16")
    onnx.checker.check_model(made, full_check=True)
    resize = next(n for n in made.graph.node if n.op_type == "Resize")
    assert next(t for t in made.graph.initializer if t.name == resize.input[2]).data_type == TensorProto.FLOAT
    feeds = kit.feeds(proto, 1)
    for got, wanted in zip(through_ort(made, feeds), through_ort(proto, feeds), strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-2)


def test_a_subgraph_takes_what_it_captures_in_float32(kit):
    text = """(float[1,3] x, bool b) => (float[1,3] y) {
        h = Relu (x)
        y = If (b) <then_branch = t () => (float[1,3] p) { p = Add (h, h) },
                    else_branch = e () => (float[1,3] q) { q = Neg (h) }>
    }"""
    proto = kit.parse(text)
    made = lowered(proto, "fp16")
    onnx.checker.check_model(made, full_check=True)
    feeds = {"x": np.array([[1.5, -2, 3]], np.float32), "b": np.array(True)}
    np.testing.assert_array_equal(through_ort(made, feeds)[0], [[3, 0, 6]])


def test_a_quantized_model_is_not_lowered(kit):
    text = "(float[4] x) => (float[4] y) { q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z) }"
    proto = kit.parse(text, {"s": np.float32(0.1), "z": np.int8(0)})
    with pytest.raises(UnsupportedModel, match="quantized already"):
        rewrite.lower(proto, "fp16")


def test_a_real_architecture(kit, squeezenet):
    made = lowered(squeezenet, "fp16")
    feeds = kit.feeds(squeezenet)
    (got,), (wanted,) = through_ort(made, feeds), through_ort(squeezenet, feeds)
    assert np.abs(got - wanted).max() <= 1e-2 * np.abs(wanted).max()


def test_opened_dimensions_take_other_sizes(kit, tmp_path):
    model = kit.model("feature map")
    path = rewrite.write(model.path, tmp_path, "model", {"x": (-1, 3, 5, -1)})
    session_feeds = {"x": np.ones((4, 3, 5, 9), np.float32)}
    assert through_ort(onnx.load(str(path)), session_feeds)[0].shape == (4, 7, 5, 9)


def test_what_cannot_be_read_or_needs_onnx_says_so(tmp_path, kit, monkeypatch):
    with pytest.raises(PrepareError, match="could not be rewritten"):
        rewrite.write(tmp_path / "none.onnx", tmp_path, "fp16", {})
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendUnavailable, match="takes the package onnx"):
        rewrite.write(tmp_path / "none.onnx", tmp_path, "fp16", {})
