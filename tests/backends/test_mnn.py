"""MNN, through its native converter."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto as T
from onnx import helper

from backends.mnn import Mnn, converter
from bench.errors import LoadError, PrepareError, RunError, UnsupportedModel, UsageError

pytest.importorskip("MNN", reason='needs MNN: pip install "deploybench[mnn]"')


@pytest.fixture
def kit(kit_of):
    return kit_of(Mnn())


def test_it_computes_what_the_model_says(kit, tiny):
    with kit.load(tiny) as session:
        for seed in range(2):
            kit.agrees(session, tiny, kit.feeds(tiny, seed))


def test_int64_and_bool_outputs(kit, build):
    nodes = [helper.make_node("Greater", ["x", "z"], ["y"])]
    greater = build["graph"](nodes, [("x", T.FLOAT, [2, 3])], [("y", T.BOOL, [2, 3])], {"z": np.float32(0)})
    for proto in (build["argmax"](), greater):
        with kit.load(proto) as session:
            kit.agrees(session, proto, kit.feeds(proto))


def test_five_dimensions(kit, build):
    proto = build["elementwise"]([2, 2, 3, 4, 5])
    with kit.load(proto) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_an_unused_input(kit, build):
    """MNN drops it; the feed still carries it."""
    node = helper.make_node("Relu", ["x"], ["y"])
    proto = build["graph"]([node], [("x", T.FLOAT, [1, 3]), ("z", T.FLOAT, [1, 4])], [("y", T.FLOAT, [1, 3])])
    with kit.load(proto) as session:
        kit.agrees(session, proto, kit.feeds(proto))


def test_outputs_are_owned(kit, build):
    for proto in (build["two"](), build["feature_map"](), build["constant_output"]()):
        kit.owns_its_outputs(proto)


def test_two_sessions(kit):
    kit.two_sessions_at_once()


def test_close_twice(kit):
    kit.closes_twice()


def test_read_only_feeds(kit):
    kit.reads_read_only_feeds()


def test_threads_are_honoured(kit):
    assert kit.threads_of(2) - kit.threads_of(1) == 1


def test_more_threads_than_cores(kit, build):
    """MNN would take fewer without a word."""
    with pytest.raises(LoadError, match="asked MNN for 512 threads"):
        kit.load(build["mlp"](), threads=512)


def test_the_options_are_taken(kit, build):
    proto = build["conv"]()
    with kit.load(proto, memory="high", power="high") as session:
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
    reason="MNN 3.6.1's converter takes a Softmax without axis before opset 13 for axis=-1; ONNX says axis=1",
)
def test_softmax_before_opset_13(kit, build):
    """What squeezenet ends with: every class comes out with probability 1."""
    node = helper.make_node("Softmax", ["x"], ["y"])
    shape = [1, 8, 1, 1]
    proto = build["graph"]([node], [("x", T.FLOAT, shape)], [("y", T.FLOAT, shape)], opset=9)
    with kit.load(proto) as session:
        assert session.run(kit.feeds(proto))["y"].sum() == pytest.approx(1, abs=1e-3)


def test_an_unknown_precision(kit, build):
    with pytest.raises(UsageError, match="model"):
        kit.load(build["mlp"](), precision="int4")


def test_float16_only_where_the_cpu_has_it(kit, build, monkeypatch):
    from backends.mnn import session

    monkeypatch.setattr(session, "_has_fp16", lambda: False)
    with pytest.raises(UsageError, match="float32, whatever is asked"):
        kit.load(build["mlp"](), precision="fp16")
    monkeypatch.setattr(session, "_has_fp16", lambda: True)
    with kit.load(build["mlp"](), precision="fp16") as loaded:
        assert loaded.placement().precision == "fp16"


def test_an_unknown_operator(kit, build):
    with pytest.raises(UnsupportedModel, match="Frobnicate"):
        kit.load(build["custom"]())


def test_a_loop_converts_and_cannot_run(kit, build):
    with pytest.raises(UnsupportedModel, match="code 3") as raised:
        kit.load(build["loop"]())
    assert "Module" in raised.value.hint


def test_a_conversion_that_makes_nothing(kit, build):
    model = kit.model(build["mlp"]())
    model.path.write_bytes(b"no protobuf")
    with pytest.raises(PrepareError, match="made nothing"):
        kit.prepare(model)


@pytest.mark.parametrize("kind", [T.FLOAT16, T.DOUBLE, T.INT8, T.UINT32])
def test_other_types(kit, build, kind):
    node = helper.make_node("Identity", ["x"], ["y"])
    with pytest.raises(UnsupportedModel, match="MNN takes"):
        kit.load(build["graph"]([node], [("x", kind, [2])], [("y", kind, [2])]))


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_beyond_32_bits(kit, build, value):
    node = helper.make_node("Add", ["x", "x"], ["y"])
    proto = build["graph"]([node], [("x", T.INT64, [2])], [("y", T.INT64, [2])])
    with kit.load(proto) as session:
        assert session.run({"x": np.array([3, -(2**30)])})["y"].tolist() == [6, -(2**31)]
        with pytest.raises(RunError, match="32-bit"):
            session.run({"x": np.array([3, value])})


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:-4], lambda b: bytes(999)])
def test_a_damaged_file(kit, build, damage):
    artifact = kit.prepare(kit.model(build["conv"]()))
    artifact.path.write_bytes(damage(artifact.path.read_bytes()))
    with pytest.raises(LoadError, match=r"model\.mnn"):
        kit.backend.load(artifact, kit.options())


def test_a_shape_that_the_model_cannot_take(kit, build):
    """The resize says True."""
    artifact = kit.prepare(kit.model(build["dynamic"](), bound={"x": (1, 3, 8, 6)}))
    other = kit.model(build["dynamic"](), bound={"x": (1, 5, 8, 6)}).signature
    wrong = type(artifact)(artifact.root, artifact.files, other, artifact.meta)
    with pytest.raises(LoadError, match="input shapes"):
        kit.backend.load(wrong, kit.options())


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


def test_the_probe():
    probe = Mnn().probe()
    assert probe.available
    assert probe.runtimes == {"MNN": probe.version}
    assert Mnn().prepare_key(None, None, None) == {"MNN": probe.version}
