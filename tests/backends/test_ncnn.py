"""ncnn, through pnnx: what pnnx does not convert and does not say, what ncnn cannot hold, and lower precisions."""

from __future__ import annotations

import numpy as np
import pytest

from bench.errors import Crashed, LoadError, PrepareError, RunError, UnsupportedModel, UsageError
from bench.interface import Finished


@pytest.fixture
def kit(kit_of):
    return kit_of("ncnn")


def test_the_options_are_taken(kit):
    kit.agrees("conv", winograd=False, sgemm=False, packing_layout=False, light_mode=False, openmp_blocktime=0)


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 1e-2), ("bf16", 5e-2)])
def test_a_lower_precision_is_really_lower(kit, precision, bound):
    feeds = kit.feeds("conv")
    with kit.load("conv") as exact, kit.load("conv", precision=precision) as rounded:
        expected, got = exact.run(feeds)["y"], rounded.run(feeds)["y"]
        assert rounded.placement().precision == precision
    error = np.abs(got - expected).max() / np.abs(expected).max()
    assert 1e-5 < error < bound


def test_an_unknown_precision(kit):
    with pytest.raises(UsageError, match="model, fp16, bf16"):
        kit.load("mlp", precision="int4")


def test_an_operator_of_another_domain(kit):
    """pnnx dies on it."""
    with pytest.raises(UnsupportedModel, match=r"acme:Frobnicate.*frob_7"):
        kit.load("unknown")


def test_a_loop_left_in_the_param_file(kit):
    """pnnx ends with code 0."""
    with pytest.raises(UnsupportedModel, match=r"Loop.*loop_3"):
        kit.load("loop")


def test_an_operator_that_pnnx_passes_through(kit):
    """Its kind has a name in ncnn's list, and no implementation."""
    text = "(float[2,6] x) => (float[2] y) { [pick] a = ArgMax <axis = 1, keepdims = 0> (x) y = Cast <to = 1> (a) }"
    with pytest.raises(UnsupportedModel, match=r"ArgMax.*pick"):
        kit.load(kit.parse(text))


def test_a_lost_output(kit):
    with pytest.raises(UnsupportedModel, match="1 of 2 outputs"):
        kit.load("constant output")


def test_a_crash_of_the_converter_stays_a_crash(kit):
    """pnnx 20261020 dies where Identity is all there is. Why is in what it printed."""
    with pytest.raises(Crashed) as raised:
        kit.load(kit.parse("(float[1,3] x) => (float[1,3] y) { y = Identity (x) }"))
    assert "the runtime inside pnnx had failed: " in raised.value.hint
    assert "OrtValue indexes should have been populated" in raised.value.hint


def test_a_file_newer_than_the_converter(kit):
    """The runtime inside pnnx 20261020 refuses IR versions above 13, whatever the model has of them."""
    kit.agrees(kit.parse("(float[2,6] x) => (float[2,6] y) { a = Relu (x) y = Mul (a, a) }", ir=14))


class Liar:
    """A converter that ends as it is told, with or without files."""

    def __init__(self, finished, write):
        self.finished, self.write = finished, write

    def path(self, name):
        return name

    def run(self, argv, *, cwd):
        if self.write:
            (cwd / "model.ncnn.param").write_text("7767517\n1 1\nInput in0 0 1 in0\n")
            (cwd / "model.ncnn.bin").write_bytes(b"")
        return self.finished


@pytest.mark.parametrize(
    ("finished", "write", "words"),
    [
        (Finished(255, "no memory"), False, "no memory"),
        (Finished(0, "fine"), False, "fine"),
        (Finished(0, "FATAL ERROR no external data"), True, "lost a part"),
    ],
)
def test_a_converter_that_fails_or_lies(kit, finished, write, words):
    workdir = kit.folder / "work"
    workdir.mkdir()
    with pytest.raises(PrepareError, match=words):
        kit.backend.prepare(kit.model("mlp"), kit.options(), workdir, Liar(finished, write))


@pytest.mark.parametrize("kind", ["float16", "double", "uint8", "bool"])
def test_other_input_types(kit, kind):
    with pytest.raises(UnsupportedModel, match="float32"):
        kit.load(kit.parse(f"({kind}[2] x) => (float[2] y) {{ y = Cast <to = 1> (x) }}"))


def test_other_output_types(kit):
    with pytest.raises(UnsupportedModel, match="'y' is int64"):
        kit.load("argmax")


def test_integers_that_are_no_indices(kit):
    text = "(int64[4] i) => (float[4,6] y) { d = Add (i, i) y = Gather (e, d) }"
    with pytest.raises(UnsupportedModel, match="indices of an embedding"):
        kit.load(kit.parse(text, {"e": (20, 6)}))


@pytest.mark.parametrize("index", [-1, 10, 2**40])
def test_indices_out_of_range(kit, index):
    with kit.load("gather") as session, pytest.raises(RunError, match="0 to 9"):
        session.run({"i": np.array([0, 1, index, 2])})


def test_more_than_four_dimensions(kit):
    with pytest.raises(UnsupportedModel, match="1 to 4 dimensions"):
        kit.load("five dimensions")


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-9]])
def test_a_damaged_file(kit, index, damage):
    artifact = kit.prepare(kit.model("conv"))
    path = artifact.root / artifact.files[index]
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LoadError, match=r"model\.ncnn"):
        kit.backend.load(artifact, kit.options())


def test_a_layer_that_the_device_lacks(kit):
    artifact = kit.prepare(kit.model("mlp"))
    artifact.path.write_text(artifact.path.read_text().replace("TanH ", "Tanz "))
    with pytest.raises(UnsupportedModel, match="Tanz"):
        kit.backend.load(artifact, kit.options())


def test_a_wrong_shape_is_an_error(kit):
    """An artefact whose signature is another model's."""
    artifact, other = kit.prepare(kit.model("mlp batch 3")), kit.model("mlp").signature
    wrong = type(artifact)(artifact.root, artifact.files, other, artifact.meta)
    with kit.backend.load(wrong, kit.options()) as session, pytest.raises(RunError, match="the model says"):
        session.run(kit.feeds("mlp batch 3"))
