"""The `reference` backend: values of every kind come back owned, and the evaluator's exceptions as ours."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.reference import Reference
from bench.errors import LoadError, RunError, UnsupportedModel, UsageError
from bench.interface import Artifact, Options, Packed, Signature, ValueSpec


def session_of(folder, nodes, feeds, outputs, *, weights=(), opset=17, domains=("ai.onnx.ml",), external=False):
    """A session on a model whose outputs are given as ONNX value infos."""
    inputs = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(weights))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=9)
    where = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0} if external else {}
    onnx.save_model(model, folder / "model.onnx", **where)
    signature = Signature(
        tuple(ValueSpec(name, str(value.dtype), value.shape) for name, value in feeds.items()),
        tuple(ValueSpec(info.name, "", None) for info in outputs),
    )
    files = ("model.onnx", "weights.bin") if external else ("model.onnx",)
    return Reference().load(Artifact(folder, files, signature), Options())


X = np.array([[1.5, -2.0, 3.0]], np.float32)
FLOATS = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]


def test_identity_is_a_copy(tmp_path):
    session = session_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {"x": X}, FLOATS)
    got = session.run({"x": X})["y"]
    assert not np.may_share_memory(got, X)
    np.testing.assert_array_equal(got, X)


def test_weights_are_not_handed_out(tmp_path):
    weight = numpy_helper.from_array(X, "w")
    session = session_of(tmp_path, [helper.make_node("Identity", ["w"], ["y"])], {"x": X}, FLOATS, weights=[weight])
    session.run({"x": X})["y"].fill(0)
    np.testing.assert_array_equal(session.run({"x": X})["y"], X)


def test_external_data_is_read(tmp_path):
    weight = numpy_helper.from_array(X, "w")
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    session = session_of(tmp_path, nodes, {"x": X}, FLOATS, weights=[weight], external=True)
    np.testing.assert_array_equal(session.run({"x": X})["y"], 2 * X)


def test_sequences_are_lists_of_owned_arrays(tmp_path):
    split = helper.make_node("SplitToSequence", ["x"], ["y"], axis=1)
    info = helper.make_tensor_sequence_value_info("y", TensorProto.FLOAT, None)
    session = session_of(tmp_path, [split], {"x": X}, [info])
    got = session.run({"x": X})["y"]
    assert [part.tolist() for part in got] == [[[1.5]], [[-2.0]], [[3.0]]]

    assert not any(np.may_share_memory(part, X) for part in got)


def test_maps_are_beyond_the_evaluator(tmp_path):
    zipped = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[5, 6, 7])
    info = helper.make_value_info("y", helper.make_sequence_type_proto(_map_type()))
    with pytest.raises(UnsupportedModel, match="ZipMap"):
        session_of(tmp_path, [zipped], {"x": X}, [info])


def _map_type():
    made = onnx.TypeProto()
    made.map_type.key_type = TensorProto.INT64
    made.map_type.value_type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    return made


def test_types_that_numpy_lacks_come_as_bits(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.BFLOAT16)]
    info = [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, None)]
    got = session_of(tmp_path, nodes, {"x": X}, info).run({"x": X})["y"]
    assert isinstance(got, Packed)
    assert (got.dtype, got.bits.dtype, got.bits.tolist()) == ("bfloat16", np.uint16, [[0x3FC0, 0xC000, 0x4040]])


def test_a_feed_whose_byte_order_was_spelt_out_is_still_numpy_s(tmp_path):
    # As a tensor comes off a wire: equal to float32, and yet not the object that numpy calls built in.
    feed = X.astype(np.dtype("float32").newbyteorder("<"))
    got = session_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], {"x": X}, FLOATS).run({"x": feed})["y"]
    assert isinstance(got, np.ndarray)
    assert got.dtype == np.float32


def test_strings_are_objects(tmp_path):
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.STRING)]
    info = [helper.make_tensor_value_info("y", TensorProto.STRING, None)]
    got = session_of(tmp_path, nodes, {"x": X}, info).run({"x": X})["y"]
    assert (got.dtype, type(got[0, 0])) == (object, str)


def test_scalars_are_arrays(tmp_path):
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    got = session_of(tmp_path, nodes, {"x": X}, FLOATS).run({"x": X})["y"]
    assert isinstance(got, np.ndarray)
    assert (got.shape, got.dtype) == ((), np.float32)


@pytest.mark.parametrize("domain", ["", "org.example"])
def test_unknown_operators_are_unsupported(tmp_path, domain):
    nodes = [helper.make_node("Frobnicate", ["x"], ["y"], domain=domain)]
    with pytest.raises(UnsupportedModel, match="Frobnicate") as caught:
        session_of(tmp_path, nodes, {"x": X}, FLOATS, domains=("org.example",))
    assert len(str(caught.value)) < 600


def test_shapes_that_do_not_fit_are_run_errors(tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "x"], ["y"])]
    session = session_of(tmp_path, nodes, {"x": X}, FLOATS)
    with pytest.raises(RunError, match=r"a run of model\.onnx"):
        session.run({"x": X})


@pytest.mark.parametrize("content", [b"", b"\xff" * 40])
def test_files_that_are_no_model_do_not_load(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    artifact = Artifact(tmp_path, ("model.onnx",), Signature((), (ValueSpec("y", "float32", (1,)),)))
    with pytest.raises(LoadError, match=r"model\.onnx"):
        Reference().load(artifact, Options())


def test_other_precisions_are_refused(tmp_path):
    artifact = Artifact(tmp_path, ("model.onnx",), Signature((), ()))
    with pytest.raises(UsageError, match="fp16"):
        Reference().load(artifact, Options(precision="fp16"))


def test_declares_that_it_may_judge_here_only():
    assert Reference.reference == {}
    assert Reference.local_only
    assert Reference.prepares == "nothing"


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shape", [(1, 4, 3, 2), (3, 4, 2, 2), (2, 1, 2, 2), (2, 6, 5)])
def test_lrn_is_the_specification_s(tmp_path, size, shape):
    """onnx's own takes its windows along the batch: right only where there are as many images as channels."""
    x = np.random.default_rng(size).standard_normal(shape)
    node = helper.make_node("LRN", ["x"], ["y"], alpha=0.5, beta=0.7, bias=1.5, size=size)
    wanted = np.empty_like(x)
    channels = shape[1]
    for c in range(channels):
        first, last = max(0, c - (size - 1) // 2), min(channels - 1, c + -(-(size - 1) // 2))
        total = (x[:, first : last + 1] ** 2).sum(1)
        wanted[:, c] = x[:, c] / (1.5 + 0.5 / size * total) ** 0.7
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    session = session_of(tmp_path, [node], {"x": x}, outputs)
    got = session.run({"x": x})["y"]
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, wanted, rtol=1e-6)  # attributes are float32


def test_lrn_inside_a_branch(tmp_path):
    x = np.ones((1, 2, 1, 1))
    y = helper.make_tensor_value_info("b", TensorProto.DOUBLE, None)
    branch = helper.make_graph([helper.make_node("LRN", ["x"], ["b"], size=3, alpha=3.0, beta=1.0)], "then", [], [y])
    held = numpy_helper.from_array(np.array(True), "yes")
    node = helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=branch)
    outputs = [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)]
    session = session_of(tmp_path, [node], {"x": x}, outputs, weights=[held])
    np.testing.assert_allclose(session.run({"x": x})["y"].ravel(), [1 / 3, 1 / 3])
