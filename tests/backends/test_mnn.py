"""MNN, through its native converter: its types, its precisions, what it refuses late, and a converter kept indoors."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from backends.mnn import converter
from bench.errors import Crashed, LoadError, PrepareError, RunError, UnsupportedModel, UsageError


@pytest.fixture
def kit(kit_of):
    return kit_of("mnn")


GREATER = "(float[2,3] x) => (bool[2,3] y) { y = Greater (x, z) }"


def test_other_types_and_ranks(kit):
    for model in ("argmax", "five dimensions", kit.parse(GREATER, {"z": np.float32(0)})):
        kit.agrees(model)


def test_an_unused_input(kit):
    """MNN drops it; the feed still carries it."""
    kit.agrees(kit.parse("(float[1,3] x, float[1,4] z) => (float[1,3] y) { y = Relu (x) }"))


def test_more_threads_than_cores(kit):
    """MNN would take fewer without a word."""
    with pytest.raises(LoadError, match="asked MNN for 512 threads"):
        kit.load("mlp", threads=512)


def test_the_options_are_taken(kit):
    kit.agrees("conv", memory="high", power="high")


def test_winograd_trades_accuracy_for_speed(kit):
    """MNN's own level is the fastest and least exact; the option reaches the convolutions."""
    model = kit.parse(
        "(float[1,64,28,28] x) => (float[1,64,28,28] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }",
        {"w": (64, 64, 3, 3)},
    )
    feeds = kit.feeds(model)
    wanted = ReferenceEvaluator(model).run(None, feeds)[0]

    def error(level):
        with kit.load(model, winograd=str(level)) as session:
            return np.abs(session.run(feeds)["y"] - wanted).max() / np.abs(wanted).max()

    assert error(0) < 1e-5 < error(3)
    assert error(2) < 1e-5


def test_float16_only_where_the_cpu_has_it(kit, monkeypatch):
    from backends.mnn import session

    monkeypatch.setattr(session, "_has_fp16", lambda: False)
    with pytest.raises(UsageError, match="float32, whatever is asked"):
        kit.load("mlp", precision="fp16")
    monkeypatch.setattr(session, "_has_fp16", lambda: True)
    with kit.load("mlp", precision="fp16") as loaded:
        assert loaded.placement().precision == "fp16"


def test_an_unknown_operator(kit):
    with pytest.raises(UnsupportedModel, match="Frobnicate"):
        kit.load("unknown")


def test_a_loop_converts_and_cannot_run(kit):
    with pytest.raises(UnsupportedModel, match="code 3") as raised:
        kit.load("loop")
    assert "Module" in raised.value.hint


def test_a_conversion_that_makes_nothing(kit):
    model = kit.model("mlp")
    model.path.write_bytes(b"no protobuf")
    workdir = kit.folder / "work"
    workdir.mkdir()
    with pytest.raises(PrepareError, match="made nothing"):
        kit.backend.prepare(model, kit.options(), workdir, kit.tools)


def test_whole_numbers_that_are_divided_by(kit):
    """By zero MNN dies. So no converted model is tried on zeros."""
    model = kit.parse("(int32[6] x) => (int32[6] y) { y = Div (c, x) }", {"c": np.full(6, 60, np.int32)})
    with kit.load(model) as session:
        kit.compare(session, model, {"x": np.arange(1, 7, dtype=np.int32)})
    zero = kit.parse("(int32[6] x) => (int32[6] y) { z = Sub (x, x) y = Div (c, z) }", {"c": np.full(6, 60, np.int32)})
    with pytest.raises(Crashed, match="running it, died of SIGFPE"):
        kit.load(zero)


def test_a_shape_that_an_input_decides(kit):
    """MNN's sessions raise it from a call that has no word for it; what the library printed has."""
    model = kit.parse("(float[2,3] x, int64[1] axes) => (float y) { y = ReduceSum <keepdims = 0> (x, axes) }")
    with pytest.raises(UnsupportedModel, match="createSession failed") as raised:
        kit.load(model)
    assert "make that input a constant" in raised.value.hint


@pytest.mark.parametrize("kind", ["float16", "double", "int8", "uint32"])
def test_types_that_it_lacks(kit, kind):
    with pytest.raises(UnsupportedModel, match="MNN takes"):
        kit.load(kit.parse(f"({kind}[2] x) => ({kind}[2] y) {{ y = Identity (x) }}"))


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_beyond_32_bits(kit, value):
    with kit.load(kit.parse("(int64[2] x) => (int64[2] y) { y = Add (x, x) }")) as session:
        assert session.run({"x": np.array([3, -(2**30)])})["y"].tolist() == [6, -(2**31)]
        with pytest.raises(RunError, match="32-bit"):
            session.run({"x": np.array([3, value])})


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-4], lambda b: bytes(999)])
def test_a_damaged_file(kit, damage):
    artifact = kit.prepare(kit.model("conv"))
    artifact.path.write_bytes(damage(artifact.path.read_bytes()))
    with pytest.raises(LoadError, match=r"model\.mnn"):
        kit.backend.load(artifact, kit.options())


def test_a_shape_that_the_model_cannot_take(kit):
    """The resize says True."""
    artifact = kit.prepare(kit.model("dynamic", bound={"x": (1, 3, 8, 6)}))
    other = kit.model("dynamic", bound={"x": (1, 5, 8, 6)}).signature
    wrong = type(artifact)(artifact.root, artifact.files, other, artifact.meta)
    with pytest.raises(LoadError, match="input shapes"):
        kit.backend.load(wrong, kit.options())


def test_the_converter_s_version_is_in_the_key(kit):
    assert kit.backend.prepare_key(None, None, None) == {"MNN": kit.backend.probe().version}


@pytest.mark.parametrize(
    "attempt",
    [
        "import subprocess; subprocess.run(['true'])",
        "import os; os.system('true')",
        "import os; os.fork()",
        "import os; os.posix_spawn('/bin/true', ['true'], {})",
        "import os; os.execv('/bin/true', ['true'])",
        "import socket; socket.getaddrinfo('localhost', 80)",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 9))",
        "import MNN.tools.utils.log",
    ],
)
def test_the_converter_reaches_nothing(attempt, tmp_path):
    program = (
        f"import runpy, sys\nmodule = runpy.run_path({str(Path(converter.__file__))!r})\n"
        f"sys.addaudithook(module['refuse_network_and_processes'])\n{attempt}\n"
    )
    argv = [sys.executable, "-I", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert "the converter tried" in done.stderr


def test_the_converter_sets_the_hook_before_it_imports_anything():
    source = Path(converter.__file__).read_text(encoding="utf-8")
    assert source.index("sys.addaudithook(") < source.index("if not convert(source")
    assert not any(line.startswith(("import MNN", "import _tools")) for line in source.splitlines())
