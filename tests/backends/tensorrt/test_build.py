"""Engines built by TensorRT-RTX, which needs no GPU for that: parse, profile, configure, build, refuse."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from backends.tensorrt import ENGINE, TensorRt, build, progress, runtime
from bench.errors import BackendUnavailable, LoadError, PrepareError, UnsupportedModel, UsageError
from bench.interface import Artifact


@pytest.fixture
def trt():
    if runtime.installed() != "tensorrt_rtx":
        pytest.skip('needs tensorrt_rtx: pip install "deploybench[tensorrt-rtx]"')
    return runtime.require()


@pytest.fixture
def kit(kit_of, trt):
    made = kit_of("ort-cpu")
    made.backend = TensorRt()
    return made


def engine(kit, what, bound=None, precision="model", **extra):
    """What `prepare` makes, from its file."""
    model = kit.model(what, bound=bound)
    workdir = Path(f"{model.root}-made")
    workdir.mkdir()
    return kit.backend.prepare(model, kit.options(precision=precision, **extra), workdir, kit.tools)


@pytest.mark.parametrize(
    "name", ["conv", "mlp", "gather", "scalar", "two of each", "old IR", "rank 3", "argmax", "loop"]
)
def test_what_the_parser_knows_is_built(kit, name):
    made = engine(kit, name)
    assert made.files == (ENGINE,)
    assert made.path.stat().st_size > 10_000
    assert made.signature == kit.model(name).signature


def test_two_builds_are_the_same_bytes(kit):
    assert engine(kit, "conv").path.read_bytes() == engine(kit, "conv").path.read_bytes()


@pytest.mark.parametrize("precision", ["model", "tf32", "fp16", "bf16"])
def test_every_precision_builds_an_engine_of_its_own(kit, precision):
    made = engine(kit, "conv", precision=precision)
    if precision != "model":
        assert made.path.read_bytes() != engine(kit, "conv").path.read_bytes()


def test_explicitly_quantized_models_are_built(kit):
    text = """(float[1,3,8,8] x) => (float[1,6,8,8] y) {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        k = DequantizeLinear (w, s, z)
        y = Conv <pads = [1, 1, 1, 1]> (d, k)
    }"""
    held = {
        "s": np.float32(0.05),
        "z": np.int8(0),
        "w": np.random.default_rng(0).integers(-99, 99, (6, 3, 3, 3), np.int8),
    }
    assert engine(kit, kit.parse(text, held)).path.exists()


def test_a_file_with_external_weights(kit, tmp_path):
    model = kit.model("conv", external=True)
    (tmp_path / "out").mkdir()
    assert kit.backend.prepare(model, kit.options(), tmp_path / "out", kit.tools).path.exists()


def test_open_dimensions_take_a_profile_by_symbol(kit):
    made = engine(kit, "dynamic", profile="N=1:2:4;H=8:8:16;W=8:8:8")
    assert made.meta["profile"]["x"] == {"least": (1, 3, 8, 8), "usual": (2, 3, 8, 8), "most": (4, 3, 16, 8)}


def test_bound_dimensions_are_opened_for_a_profile(kit):
    made = engine(kit, "feature map", profile="x=1x3x5x5:2x3x5x5:8x3x5x5")
    assert made.meta["profile"]["x"]["most"] == (8, 3, 5, 5)
    assert made.path.read_bytes() != engine(kit, "feature map").path.read_bytes()


def test_dimensions_that_the_case_gave_need_no_profile(kit):
    made = engine(kit, "dynamic", bound={"x": (2, 3, 8, 8)})
    assert made.meta["profile"]["x"]["most"] == (2, 3, 8, 8)


@pytest.mark.parametrize(
    ("what", "options", "kind", "said"),
    [
        ("unknown", {}, UnsupportedModel, "no operator or plugin Frobnicate: node 1 'frob_7' (Frobnicate)"),
        ("dynamic", {}, UnsupportedModel, "dimension 0 (N) of input 'x' is open"),
        ("conv", {"profile": "x=2x3x8x8:2x3x8x8:2x3x8x8"}, PrepareError, "and 1x3x8x8 is to be run"),
        ("conv", {"profile": "q=1:2:3"}, UsageError, "'q', which the model does not have"),
        ("conv", {"capability": "SM20"}, UsageError, "builds for no SM20"),
        ("conv", {"builder_level": 9}, UsageError, "cannot be 9; 0 to 5"),
        ("conv", {"workspace_mib": -1}, UsageError, "cannot be negative"),
        ("conv", {"precision": "int4"}, UsageError, "no precision 'int4'"),
        ("conv", {"plugins": "/none/libthem.so"}, UsageError, "plugins in libthem.so cannot be loaded"),
    ],
)
def test_what_cannot_be_built_says_why(kit, what, options, kind, said):
    with pytest.raises(kind) as raised:
        engine(kit, what, **options)
    assert said in str(raised.value)
    assert str(kit.folder) not in str(raised.value)


def test_a_text_is_no_tensor(kit):
    with pytest.raises(UnsupportedModel):
        engine(kit, kit.parse("(string[2] x) => (string[2] y) { y = Identity (x) }"))


def test_a_damaged_file_says_so(kit):
    model = kit.model("conv")
    model.path.write_bytes(b"no protobuf" * 9)
    with pytest.raises(PrepareError, match=r"tiny\.onnx"):
        kit.backend.prepare(model, kit.options(), kit.folder, kit.tools)


def test_shapes_that_its_data_decide_are_refused_where_a_profile_would_need_values(kit):
    text = "(float[N,4] x, int64[2] s) => (float[A,B] y) { y = Reshape (x, s) }"
    with pytest.raises((UnsupportedModel, PrepareError)):
        engine(kit, kit.parse(text), profile="N=1:2:4")


def test_progress_is_said_now_and_then(trt):
    times = iter([0.0, 1.0, 6.0, 7.0, 12.0])
    said: list[str] = []
    told = progress.Progress(said.append, clock=lambda: next(times))
    told.start("Building Engine", 7)
    told.step("Building Engine", 3)
    told.start("Tactics", 2)
    told.step("Tactics", 0)
    assert said == [
        "building the engine for 6 s: Building Engine 4 of 7",
        "building the engine for 12 s: Building Engine 4 of 7, Tactics 1 of 2",
    ]


def test_the_builder_calls_the_monitor(kit, trt):
    phases = []

    class Told(progress.Progress):
        def start(self, phase, steps):
            phases.append(phase)
            super().start(phase, steps)

    model = kit.model("conv")
    told = progress.monitor(trt, Told(lambda text: None))
    build.build(trt, model.path, model.signature, kit.options().extra, tf32=False, monitor=told)
    assert phases


COLLECTS = """
import gc, sys
from pathlib import Path
from backends.tensorrt import build, runtime
from bench.errors import UnsupportedModel
from bench.interface import Signature, ValueSpec

class Cycle:
    def __init__(self, error):
        self.error, self.cycle = error, self

def collecting(trt):
    made = log(trt)
    say = type(made).log
    type(made).log = lambda self, *said: (gc.collect(), say(self, *said))[1]
    return made

log, runtime.log = runtime.log, collecting
spec = ValueSpec("x", "float32", (2,)), ValueSpec("y", "float32", (2,))
gc.disable()
for _ in range(2):
    try:
        build.build(runtime.require(), Path(sys.argv[1]), Signature(spec[:1], spec[1:]), {}, tf32=False)
    except UnsupportedModel as error:
        Cycle(error)
print("done")
"""


def test_the_collector_finds_no_builder_while_another_one_logs(kit, trt):
    """It would end there, where TensorRT holds the lock that it needs to end: for ever, or with a crash."""
    path = kit.model("unknown").path
    done = subprocess.run([sys.executable, "-c", COLLECTS, path], capture_output=True, text=True, timeout=120)
    assert done.stdout == "done\n", done.stderr


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ("Error Code 1: Cuda Runtime (out of memory)", PrepareError, "workspace_mib"),
        ("CUDA driver version is insufficient for CUDA runtime version", BackendUnavailable, "update the driver"),
        ("Could not find any implementation for node c + r", UnsupportedModel, "workspace_mib"),
        ("No matching plugin", UnsupportedModel, "option plugins"),
        ("", PrepareError, ""),
    ],
)
def test_the_log_of_a_failed_build_is_read(said, kind, hint):
    found = build.build_error(said)
    assert type(found) is kind
    assert hint in found.hint


@pytest.mark.parametrize(
    "text",
    [
        "Your ONNX model has been generated with INT64 weights, while TensorRT does not natively support INT64. "
        "Attempting to cast down to INT32.",
        "One or more weights outside the range of INT32 was clamped",
    ],
)
def test_integers_that_would_be_narrowed_are_refused(text):
    with pytest.raises(UnsupportedModel, match="64-bit integers"):
        build._refuse_narrowing([text])
    build._refuse_narrowing(["Make sure input i has Int64 binding."])


def test_an_engine_of_another_version_or_gpu_is_refused(kit, monkeypatch):
    from backends.tensorrt import _refuse_foreign, made_for

    here = made_for(runtime.require(), 0)
    _refuse_foreign(here, here)
    for other in ({**here, "version": "10.0"}, {**here, "package": "tensorrt"}, {}):
        with pytest.raises(LoadError, match="the engine was built for"):
            _refuse_foreign(other, here)


def test_a_damaged_engine_is_refused_by_the_runtime(kit, trt):
    """Without a GPU every engine is refused: the reason is the runtime's own, never an empty one."""
    from backends.tensorrt import _engine

    made = engine(kit, "conv")
    made.path.write_bytes(made.path.read_bytes()[:5000])
    with pytest.raises(LoadError, match=r"refused the engine: \S+"):
        _engine(trt, made, kit.options())
    gone = Artifact(kit.folder, ("none.engine",), made.signature)
    with pytest.raises(LoadError, match=r"none\.engine cannot be read"):
        _engine(trt, gone, kit.options())


def test_without_a_gpu_it_builds_and_does_not_run(kit):
    from bench import cuda_driver

    try:
        cuda_driver.ask()
    except cuda_driver.NoGpu:
        found = kit.backend.probe()
        assert (found.available, found.builds) == (False, True)
        assert found.runtimes == {"tensorrt-rtx": runtime.version("tensorrt_rtx")}
        with pytest.raises(BackendUnavailable):
            kit.backend.load(engine(kit, "conv"), kit.options())
    else:
        pytest.skip("needs a machine without a GPU")
