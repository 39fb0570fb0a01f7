"""ONNX Runtime on the CPU."""

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper

from backends.ort import MEANING, OrtCpu, translate
from bench.errors import LoadError, RunError, UnsupportedModel, UsageError
from bench.interface import Packed

pytest.importorskip("onnxruntime", reason='needs onnxruntime: pip install "deploybench[cpu]"')


@pytest.fixture
def kit(kit_of):
    return kit_of(OrtCpu())


def test_it_computes_what_the_model_says(kit, tiny):
    with kit.load(tiny) as session:
        for seed in range(2):
            kit.agrees(session, tiny, kit.feeds(tiny, seed))


@pytest.mark.parametrize("level", ["all", "extended", "basic", "off"])
def test_every_optimisation_level(kit, build, level):
    proto = build["conv"]()
    with kit.load(proto, optimization=level) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_the_other_options_are_taken(kit, build):
    proto = build["two"]()
    with kit.load(proto, execution="parallel", inter_op=2, spinning=False, arena=False) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_outputs_are_owned(kit, build):
    for proto in (build["two"](), build["constant_output"]()):
        kit.owns_its_outputs(proto)


def test_two_sessions(kit):
    kit.two_sessions_at_once()


def test_close_twice(kit):
    kit.closes_twice()


def test_read_only_feeds(kit):
    kit.reads_read_only_feeds()


def test_threads_are_honoured(kit):
    assert kit.threads_of(3) - kit.threads_of(1) == 2


def test_external_data(kit, build):
    proto = build["conv"]()
    feeds = kit.feeds(proto)
    with kit.load(proto, external=True) as session:
        kit.agrees(session, build["conv"](), feeds)


def test_int64_outputs(kit, build):
    proto = build["argmax"]()
    with kit.load(proto) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_dynamic_dimensions(kit, build):
    proto, bound = build["dynamic"](), {"x": (2, 3, 8, 6)}
    with kit.load(proto, bound=bound) as session:
        kit.agrees(session, proto, kit.feeds(proto, bound=bound))


def test_a_loop_runs(kit, build):
    proto = build["loop"]()
    with kit.load(proto) as session:
        x = np.ones((1, 3), np.float32)
        np.testing.assert_array_equal(session.run({"x": x, "n": np.asarray(3)})["y"], 8 * x)


def test_squeezenet(kit, squeezenet):
    with kit.load(squeezenet) as session:
        out = session.run(kit.feeds(squeezenet))["softmaxout_1"]
    assert out.shape == (1, 1000, 1, 1)
    assert out.sum() == pytest.approx(1, abs=1e-3)


def test_strings_pass(kit, build):
    node = helper.make_node("Identity", ["x"], ["y"])
    proto = build["graph"]([node], [("x", T.STRING, [2])], [("y", T.STRING, [2])])
    words = np.array(["a", "ü"], dtype=object)
    with kit.load(proto) as session:
        assert session.run({"x": words})["y"].tolist() == ["a", "ü"]


def test_sequences_pass(kit, build):
    node = helper.make_node("SplitToSequence", ["x"], ["y"], axis=0, keepdims=0)
    proto = build["graph"]([node], [("x", T.FLOAT, [2, 3])], [("y", T.FLOAT, [3])])
    proto.graph.output[0].CopyFrom(helper.make_tensor_sequence_value_info("y", T.FLOAT, [3]))
    feeds = kit.feeds(proto)
    with kit.load(proto) as session:
        out = session.run(feeds)["y"]
    assert isinstance(out, list)
    np.testing.assert_array_equal(np.stack(out), feeds["x"])


def test_maps_pass(kit, build):
    """What scikit-learn's classifiers end with."""
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[4, 5])]
    proto = build["graph"](nodes, [("x", T.FLOAT, [1, 2])], [("y", T.FLOAT, [1])], domain="ai.onnx.ml")
    kind = helper.make_map_type_proto(T.INT64, helper.make_tensor_type_proto(T.FLOAT, []))
    proto.graph.output[0].CopyFrom(helper.make_value_info("y", helper.make_sequence_type_proto(kind)))
    with kit.load(proto) as session:
        assert session.run({"x": np.array([[0.25, 0.75]], np.float32)})["y"] == [{4: 0.25, 5: 0.75}]


def test_types_that_numpy_lacks_come_as_bits(kit, build):
    kinds = {"bfloat16": T.BFLOAT16, "float8e4m3fn": T.FLOAT8E4M3FN, "float16": T.FLOAT16}
    nodes = [helper.make_node("Cast", ["x"], [name], to=kind) for name, kind in kinds.items()]
    outputs = [(name, kind, [2]) for name, kind in kinds.items()]
    proto = build["graph"](nodes, [("x", T.FLOAT, [2])], outputs, opset=19, ir=9)
    with kit.load(proto) as session:
        first = session.run({"x": np.array([1.0, -2.0], np.float32)})
        session.run({"x": np.array([5.0, 6.0], np.float32)})
    assert isinstance(first["bfloat16"], Packed)
    assert first["bfloat16"].dtype == "bfloat16"
    assert first["bfloat16"].bits.tolist() == [0x3F80, 0xC000]
    assert first["float8e4m3fn"].bits.dtype == np.uint8
    assert first["float8e4m3fn"].bits.tolist() == [0x38, 0xC0]
    assert first["float16"].tolist() == [1, -2]


def test_placement_counts_nodes(kit, build):
    with kit.load(build["conv"](), optimization="off") as session:
        assert session.placement().nodes == {"CPUExecutionProvider": 5}


def test_an_unknown_operator_is_unsupported(kit, build):
    with pytest.raises(UnsupportedModel, match="Frobnicate") as raised:
        kit.load(build["custom"]())
    assert "custom_ops" in raised.value.hint
    assert str(kit.folder) not in str(raised.value)


def test_an_operator_without_that_type_is_unsupported(kit, build):
    node = helper.make_node("Selu", ["x"], ["y"], name="selu_1")
    proto = build["graph"]([node], [("x", T.DOUBLE, [2])], [("y", T.DOUBLE, [2])])
    with pytest.raises(UnsupportedModel, match="selu_1"):
        kit.load(proto)


def test_a_future_opset_is_unsupported(kit, build):
    node = helper.make_node("Relu", ["x"], ["y"])
    with pytest.raises(UnsupportedModel, match="99"):
        kit.load(build["graph"]([node], [("x", T.FLOAT, [2])], [("y", T.FLOAT, [2])], opset=99))


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b"no protobuf" * 9])
def test_a_damaged_file(kit, build, damage):
    artifact = kit.prepare(kit.model(build["conv"]()))
    artifact.path.write_bytes(damage(artifact.path.read_bytes()))
    with pytest.raises(LoadError, match=r"tiny\.onnx"):
        kit.backend.load(artifact, kit.options())


def test_a_missing_library(kit, build):
    with pytest.raises(LoadError, match=r"none\.so"):
        kit.load(build["mlp"](), custom_ops=str(kit.folder / "none.so"))


def test_a_failed_run(kit, build):
    with kit.load(build["gather"]()) as session, pytest.raises(RunError, match="out of data bounds"):
        session.run({"i": np.array([99, 0, 0, 0])})


def test_an_unknown_precision(kit, build):
    with pytest.raises(UsageError, match="model"):
        kit.load(build["mlp"](), precision="int4")


def test_every_exception_of_the_runtime_is_mapped():
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found = {n for n, v in vars(state).items() if isinstance(v, type) and issubclass(v, Exception)}
    assert found
    assert found <= set(MEANING), f"unmapped: {found - set(MEANING)}"
    for name in found:
        assert isinstance(translate(vars(state)[name]("text"), RunError, "try"), (RunError, UnsupportedModel))


def test_the_probe():
    probe = OrtCpu().probe()
    assert probe.available
    assert probe.precisions == ("model",)
    assert probe.runtimes == {"onnxruntime": probe.version}
