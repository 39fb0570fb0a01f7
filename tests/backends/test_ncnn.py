"""ncnn, through pnnx."""

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper

from backends.ncnn import Ncnn
from bench.errors import Crashed, LoadError, PrepareError, RunError, UnsupportedModel, UsageError
from bench.interface import Finished

pytest.importorskip("ncnn", reason='needs ncnn: pip install "deploybench[ncnn]"')


@pytest.fixture
def kit(kit_of, pnnx_binary):
    if pnnx_binary is None:
        pytest.skip("needs pnnx, which pip could not download: run once with a network")
    return kit_of(Ncnn(), pnnx_binary)


def test_it_computes_what_the_model_says(kit, tiny):
    with kit.load(tiny) as session:
        for seed in range(2):
            kit.agrees(session, tiny, kit.feeds(tiny, seed))


def test_outputs_are_owned(kit, build):
    for proto in (build["two"](), build["feature_map"]()):
        kit.owns_its_outputs(proto)


def test_two_sessions(kit):
    kit.two_sessions_at_once()


def test_close_twice(kit):
    kit.closes_twice()


def test_read_only_feeds(kit):
    kit.reads_read_only_feeds()


def test_threads_are_honoured(kit):
    assert kit.threads_of(3) - kit.threads_of(1) == 2


def test_the_options_are_taken(kit, build):
    proto = build["conv"]()
    off = {"winograd": False, "sgemm": False, "packing_layout": False, "light_mode": False, "openmp_blocktime": 0}
    with kit.load(proto, **off) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_external_data(kit, build):
    proto = build["conv"]()
    feeds = kit.feeds(proto)
    with kit.load(proto, external=True) as session:
        kit.agrees(session, build["conv"](), feeds)


def test_dynamic_dimensions(kit, build):
    proto, bound = build["dynamic"](), {"x": (2, 3, 8, 6)}
    with kit.load(proto, bound=bound) as session:
        kit.agrees(session, proto, kit.feeds(proto, bound=bound))


def test_squeezenet(kit, squeezenet):
    with kit.load(squeezenet) as session:
        out = session.run(kit.feeds(squeezenet))["softmaxout_1"]
    assert out.shape == (1, 1000, 1, 1)


@pytest.mark.xfail(
    raises=AssertionError,
    strict=True,
    reason="pnnx 20261020 takes a Softmax without axis before opset 13 for axis=-1; ONNX says axis=1",
)
def test_softmax_before_opset_13(kit, build):
    """What squeezenet ends with: every class comes out with probability 1."""
    node = helper.make_node("Softmax", ["x"], ["y"])
    shape = [1, 8, 1, 1]
    proto = build["graph"]([node], [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], opset=9)
    with kit.load(proto) as session:
        assert session.run(kit.feeds(proto))["y"].sum() == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_a_lower_precision_is_really_lower(kit, build, precision, bound):
    proto = build["conv"]()
    feeds = kit.feeds(proto)
    with kit.load(proto) as exact, kit.load(proto, precision=precision) as rounded:
        expected, got = exact.run(feeds)["y"], rounded.run(feeds)["y"]
        assert rounded.placement().precision == precision
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < bound


def test_an_unknown_precision(kit, build):
    with pytest.raises(UsageError, match="model, fp16, bf16"):
        kit.load(build["mlp"](), precision="int4")


def test_an_operator_of_another_domain(kit, build):
    """pnnx dies on it."""
    with pytest.raises(UnsupportedModel, match=r"acme:Frobnicate.*frob_7"):
        kit.load(build["custom"]())


def test_a_loop_left_in_the_param_file(kit, build):
    """pnnx ends with code 0."""
    with pytest.raises(UnsupportedModel, match=r"Loop.*loop_3"):
        kit.load(build["loop"]())


def test_an_operator_that_pnnx_passes_through(kit, build):
    """Its kind has a name in ncnn's list, and no implementation."""
    nodes = [
        helper.make_node("ArgMax", ["x"], ["a"], axis=1, keepdims=0, name="pick"),
        helper.make_node("Cast", ["a"], ["y"], to=T.FLOAT),
    ]
    proto = build["graph"](nodes, [("x", T.FLOAT, [2, 6])], [("y", T.FLOAT, [2])])
    with pytest.raises(UnsupportedModel, match=r"ArgMax.*pick"):
        kit.load(proto)


def test_a_lost_output(kit, build):
    with pytest.raises(UnsupportedModel, match="1 of 2 outputs"):
        kit.load(build["constant_output"]())


def test_a_crash_of_the_converter_stays_a_crash(kit, build):
    """pnnx 20261020 dies where Identity is all there is."""
    node = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(Crashed):
        kit.load(build["graph"]([node], [("x", T.FLOAT, [1, 3])], [("y", T.FLOAT, [1, 3])]))


def test_a_converter_that_fails_or_lies(kit, build):
    model = kit.model(build["mlp"]())

    class Liar:
        def __init__(self, finished, write):
            self.finished, self.write = finished, write

        def path(self, name):
            return name

        def run(self, argv, *, cwd):
            if self.write:
                (cwd / "model.ncnn.param").write_text("7767517\n1 1\nInput in0 0 1 in0\n")
                (cwd / "model.ncnn.bin").write_bytes(b"")
            return self.finished

    for finished, write, words in (
        (Finished(255, "no memory"), False, "no memory"),
        (Finished(0, "fine"), False, "fine"),
        (Finished(0, "FATAL ERROR no external data"), True, "lost a part"),
    ):
        workdir = kit.folder / words.replace(" ", "")
        workdir.mkdir()
        with pytest.raises(PrepareError, match=words):
            kit.backend.prepare(model, kit.options(), workdir, Liar(finished, write))


@pytest.mark.parametrize("kind", [T.FLOAT16, T.DOUBLE, T.UINT8, T.BOOL])
def test_other_input_types(kit, build, kind):
    node = helper.make_node("Cast", ["x"], ["y"], to=T.FLOAT)
    with pytest.raises(UnsupportedModel, match="float32"):
        kit.load(build["graph"]([node], [("x", kind, [2])], [("y", T.FLOAT, [2])]))


def test_other_output_types(kit, build):
    with pytest.raises(UnsupportedModel, match="'y' is int64"):
        kit.load(build["argmax"]())


def test_integers_that_are_no_indices(kit, build):
    nodes = [helper.make_node("Add", ["i", "i"], ["d"]), helper.make_node("Gather", ["e", "d"], ["y"])]
    held = {"e": build["weights"](20, 6)}
    with pytest.raises(UnsupportedModel, match="indices of an embedding"):
        kit.load(build["graph"](nodes, [("i", T.INT64, [4])], [("y", T.FLOAT, [4, 6])], held))


@pytest.mark.parametrize("index", [-1, 10, 2**40])
def test_indices_out_of_range(kit, build, index):
    with kit.load(build["gather"]()) as session, pytest.raises(RunError, match="0 to 9"):
        session.run({"i": np.array([0, 1, index, 2])})


def test_more_than_four_dimensions(kit, build):
    with pytest.raises(UnsupportedModel, match="1 to 4 dimensions"):
        kit.load(build["elementwise"]([1, 2, 3, 4, 5]))


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9]])
def test_a_damaged_file(kit, build, index, damage):
    artifact = kit.prepare(kit.model(build["conv"]()))
    path = artifact.root / artifact.files[index]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LoadError, match=r"model\.ncnn"):
        kit.backend.load(artifact, kit.options())


def test_a_layer_that_the_device_lacks(kit, build):
    artifact = kit.prepare(kit.model(build["mlp"]()))
    artifact.path.write_text(artifact.path.read_text().replace("TanH ", "Tanz "))
    with pytest.raises(UnsupportedModel, match="Tanz"):
        kit.backend.load(artifact, kit.options())


def test_a_wrong_shape_is_an_error(kit, build):
    """An artefact whose signature is another model's."""
    artifact = kit.prepare(kit.model(build["mlp"](3)))
    other = kit.model(build["mlp"](2)).signature
    wrong = type(artifact)(artifact.root, artifact.files, other, artifact.meta)
    with kit.backend.load(wrong, kit.options()) as session, pytest.raises(RunError, match="the model says"):
        session.run(kit.feeds(build["mlp"](3)))


def test_the_probe():
    probe = Ncnn().probe()
    assert probe.available
    assert probe.runtimes == {"ncnn": probe.version}
