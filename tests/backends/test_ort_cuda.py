"""ONNX Runtime on CUDA, as far as a machine without a GPU can tell: real profiles, real bindings in the CPU's memory.

What a GPU does with them is tested in tests/gpu.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest

from backends.ort import OrtCuda, cuda, nodes, translate
from backends.ort.nodes import CPU, Node
from bench import cuda_driver
from bench.cuda_driver import Driver, Gpu, NoGpu
from bench.errors import BackendUnavailable, LoadError, RunError, UsageError
from bench.interface import Plan
from bench.measure import loop

H200 = Gpu(0, "NVIDIA H200", "9.0", 150 << 30, False)
SHORT = Plan(min_count=4, min_s=0.0, max_s=1.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=0.1, target=None)


class InHostMemory(OrtCuda):
    """All of `ort-cuda`, but for the provider and where it keeps its buffers: the same calls of the same library."""

    provider, memory = CPU, "cpu"

    def provider_options(self, options):
        super().provider_options(options)  # it must not fail
        return {}


@pytest.fixture
def a_driver(monkeypatch):
    """A machine with a GPU, as far as the driver is asked."""
    monkeypatch.setattr(cuda_driver, "ask", lambda *a: Driver("13.0", "580.95.05", (H200,)))
    monkeypatch.setattr(cuda, "_preload", lambda: None)
    monkeypatch.setenv(cuda.TF32_SWITCH, "kept as it was by the test")


@pytest.fixture
def kit(kit_of, a_driver, monkeypatch):
    made = kit_of("ort-cpu")
    made.backend = InHostMemory()
    return made


# --- what is said where there is no GPU


def test_without_a_driver_it_says_so_and_what_would_help(monkeypatch):
    def none(*arguments):
        raise NoGpu("no NVIDIA driver (libcuda.so.1 is not there)", "install NVIDIA's driver")

    monkeypatch.setattr(cuda_driver, "ask", none)
    found = OrtCuda().probe()
    assert (found.available, found.reason) == (False, "no NVIDIA driver (libcuda.so.1 is not there)")
    assert found.remedy == "install NVIDIA's driver"


def test_a_wheel_without_cuda_says_so(a_driver):
    pytest.importorskip("onnxruntime")
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("needs an onnxruntime without CUDA")
    found = OrtCuda().probe()
    assert "no CUDAExecutionProvider" in found.reason
    assert 'pip install "deploybench[cuda]"' in found.remedy


class FakeLibrary:
    cuda_version = "13.0"


def test_a_driver_that_is_too_old_is_told(monkeypatch, a_driver):
    from bench.interface import Probe

    monkeypatch.setattr(cuda_driver, "ask", lambda *a: Driver("12.4", "550.54", (H200,)))
    found = OrtCuda().usable(FakeLibrary, Probe(True, "1.31.1"))
    assert (found.available, "too old" in found.reason) == (False, True)


@pytest.mark.parametrize(("lacking", "said"), [("libcudnn.so.9", "cudnn is missing"), ("libcublas.so.13", "cublas is")])
def test_a_missing_library_of_cuda_is_named(monkeypatch, a_driver, lacking, said):
    from bench.interface import Probe

    monkeypatch.setattr(cuda_driver, "library_loads", lambda name: f"{name}: not found" if name == lacking else "")
    found = OrtCuda().usable(FakeLibrary, Probe(True, "1.31.1"))
    assert not found.available
    assert said in found.reason
    assert "[cuda,cudnn]==1.31.1" in found.remedy


# --- where nodes ran


SHAPES = """(float[N,3,4,4] x) => (float[N,48] y, int64[N] z) {
    s = Shape (x)
    n = Gather (s, zero)
    m = Mul (n, one)
    u = Unsqueeze (m, axis)
    c = Concat <axis = 0> (u, rest)
    y = Reshape (x, c)
    z = ArgMax <axis = 1, keepdims = 0> (y)
}"""
HELD = {"zero": np.array(0), "one": np.array(1), "axis": np.array([0]), "rest": np.array([48])}


def ran(kit, what, **options):
    """A session that has run once, and its nodes."""
    session = kit.load(what, **options)
    session.run(kit.feeds(what, bound={"x": (2, 3, 4, 4)}))
    return session


def test_the_profile_of_a_run_tells_nodes_apart(kit):
    with ran(kit, kit.parse(SHAPES, HELD), optimization="off") as session:
        kinds = {node.op: node.computes_shapes() for node in session._nodes}
    assert kinds == {
        "Shape": True, "Gather": True, "Mul": True, "Unsqueeze": True, "Concat": True, "Reshape": False,
        "ArgMax": False,
    }  # fmt: skip


def test_a_node_that_computes_on_the_cpu_is_refused_and_one_of_shapes_is_listed(kit):
    """The very profile of a run on the CPU, judged as if it had been asked for on CUDA."""
    with ran(kit, kit.parse(SHAPES, HELD), optimization="off") as session:
        found = session._nodes
    with pytest.raises(
        RunError, match=r"2 of 7 nodes ran on CPUExecutionProvider.*Reshape \(1\), ArgMax \(1\)"
    ) as raised:
        nodes.judge(found, cuda.CUDA, allow=False)
    assert "cpu_nodes=any" in raised.value.hint
    told = nodes.judge(found, cuda.CUDA, allow=True)
    assert len(told) == 7
    assert told[0].endswith("on CPUExecutionProvider (shapes)")
    moved = [replace(node, provider=cuda.CUDA) if not node.computes_shapes() else node for node in found]
    assert len(nodes.judge(moved, cuda.CUDA, allow=False)) == 5
    assert nodes.counts(moved) == {CPU: 5, cuda.CUDA: 2}


@pytest.mark.parametrize(
    ("node", "shapes"),
    [
        (Node("a", "ArgMax", CPU, (("float", 1000),), (("int64", 1),)), False),
        (Node("a", "Shape", CPU, (("float", 1000),), (("int64", 4),)), True),
        (Node("a", "Gather", CPU, (("int64", 50000), ("int64", 4)), (("int64", 4),)), False),
        (Node("a", "Mul", CPU, (("float", 1), ("float", 1)), (("float", 1),)), False),
    ],
)
def test_few_whole_numbers_are_shapes(node, shapes):
    assert node.computes_shapes() is shapes


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"cat": "Node", "name": "a_kernel_time"}]'])
def test_a_profile_that_cannot_be_read_is_no_proof(tmp_path, text):
    (tmp_path / "p").write_text(text)
    with pytest.raises(RunError, match="profile"):
        nodes.read(tmp_path / "p")


def test_placement_is_of_the_first_run_and_its_file_is_gone(kit, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with kit.load("conv", optimization="off") as session:
        assert session.placement().nodes is None
        session.run(kit.feeds("conv"))
        assert session.placement().nodes == {CPU: 5}
        assert session.placement().device == "cuda:0"
        assert list(tmp_path.glob("deploybench-*")) == []
        session.run(kit.feeds("conv"))
        assert session.placement().nodes == {CPU: 5}


# --- bindings


@pytest.mark.parametrize("io", ["bound", "plain"])
def test_answers_are_right_through_both_ways(kit, io):
    for name in ("conv", "two of each", "argmax", "scalar", "gather"):
        kit.agrees(name, io=io)


def test_outputs_are_the_caller_s(kit):
    with kit.load("mlp") as session:
        first = session.run(kit.feeds("mlp", 0))["y"]
        kept = first.copy()
        session.run(kit.feeds("mlp", 1))
        np.testing.assert_array_equal(first, kept)
        first[:] = 7


def test_a_new_shape_gets_new_buffers(kit):
    with kit.load("dynamic") as session:
        for bound in ((1, 3, 8, 8), (2, 3, 4, 4), (1, 3, 8, 8)):
            kit.compare(session, "dynamic", kit.feeds("dynamic", bound={"x": bound}))


def test_outputs_whose_shape_the_data_decide_get_new_memory(kit):
    proto = kit.parse("(float[4,5] x) => (int64[2,K] y) { y = NonZero (x) }")
    with kit.load(proto) as session:
        for count in (3, 20, 1):
            x = np.zeros((4, 5), np.float32)
            x.flat[:count] = 1
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.array(np.nonzero(x)))


def test_strings_go_the_plain_way(kit):
    words = np.array(["a", "ü"], dtype=object)
    with kit.load(kit.parse("(string[2] x) => (string[2] y) { y = Identity (x) }")) as session:
        assert session.run({"x": words})["y"].tolist() == ["a", "ü"]


def test_bfloat16_comes_as_bits(kit):
    with kit.load(kit.parse("(float[2] x) => (bfloat16[2] y) { y = Cast <to = 16> (x) }", opset=19, ir=9)) as session:
        assert session.run({"x": np.array([1.0, -2.0], np.float32)})["y"].bits.tolist() == [0x3F80, 0xC000]


def test_the_compute_scope_is_a_series_of_its_own(kit):
    with kit.load("conv") as session:
        feeds = [kit.feeds("conv", seed) for seed in range(2)]
        session.run(feeds[0])
        samples, bracket = loop.measure(session, feeds, SHORT)
    assert [(s.scope, s.clock) for s in samples.series] == [("end_to_end", "host"), ("compute", "host")]
    assert all(len(s.samples_ns) >= 4 and (s.samples_ns > 0).all() for s in samples.series)
    assert bracket > 0


def test_inputs_rotate_through_more_memory_than_a_cache_holds():
    small = [{"x": np.zeros(4, np.float32)}, {"x": np.ones(4, np.float32)}]
    assert len(cuda._rotated(small)) == cuda.MOST_COPIES
    large = [{"x": np.zeros(cuda.ROTATE_BYTES // 4, np.float32)}] * 2
    assert len(cuda._rotated(large)) == 2


# --- the four silent fallbacks


def test_a_provider_that_gave_way_to_the_cpu_is_refused(kit):
    """The real library, asked for a provider that it lacks, warns and makes a session on the CPU."""
    import onnxruntime as ort

    if cuda.CUDA in ort.get_available_providers():
        pytest.skip("needs an onnxruntime without CUDA: pip install onnxruntime")
    kit.backend = OrtCuda()
    with pytest.warns(UserWarning, match="not in available"), pytest.raises(LoadError) as raised:
        kit.load("conv")
    assert "asked onnxruntime for CUDAExecutionProvider, got CPUExecutionProvider" in str(raised.value)


def test_no_session_is_made_again_on_another_provider(kit):
    """`enable_fallback=0` and `disable_fallback` both reach the library's Python layer."""
    with kit.load("conv") as session:
        assert session._session._enable_fallback in (0, False)


def test_the_real_cuda_wheel_without_a_gpu_does_not_fall_back(kit_of, monkeypatch, a_driver):
    """With onnxruntime-gpu and no GPU: the library makes a session on the CPU, and we refuse it."""
    import onnxruntime as ort

    if cuda.CUDA not in ort.get_available_providers():
        pytest.skip("needs onnxruntime-gpu: pip install onnxruntime-gpu")
    monkeypatch.undo()
    try:
        cuda_driver.ask()
        pytest.skip("needs a machine without a GPU")
    except NoGpu:
        pass
    monkeypatch.setattr(cuda_driver, "ask", lambda *a: Driver("13.0", "", (H200,)))
    made = kit_of("ort-cpu")
    made.backend = OrtCuda()
    with pytest.raises(LoadError):
        made.load("conv")


def test_outputs_elsewhere_than_asked_are_refused(kit):
    with kit.load("conv") as session:
        session.run(kit.feeds("conv"))
        session._memory = "cuda"
        value = session._binding.get_outputs()[0]
        with pytest.raises(RunError, match="asked for in cuda's memory and is in cpu's"):
            session._host(0, "tensor(float)", value)


# --- options and errors


def test_options_reach_the_provider(kit):
    options = kit.options(
        cuda_graph=True, nhwc=True, conv_search="HEURISTIC", provider="fuse_conv_bias=1,enable_cudnn=0"
    )
    found = OrtCuda().provider_options(options)
    assert found == {
        "device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "cudnn_conv_use_max_workspace": "1",
        "prefer_nhwc": "1", "enable_cuda_graph": "1", "fuse_conv_bias": "1", "enable_cudnn": "0",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["use_tf32=1", "device_id=3", "fuse_conv_bias", "nonsense=1", "user_compute_stream=1"])
def test_other_provider_options_are_refused_by_name(kit, text):
    with pytest.raises(UsageError, match="takes no") as raised:
        kit.load("conv", provider=text)
    assert "fuse_conv_bias" in raised.value.hint


def test_both_switches_of_tf32_are_off_unless_it_is_asked_for(kit):
    kit.load("conv").close()
    assert os.environ[cuda.TF32_SWITCH] == "0"
    with kit.load("conv", precision="tf32") as session:
        session.run(kit.feeds("conv"))
        assert session.placement().precision == "tf32"
    assert cuda.TF32_SWITCH not in os.environ
    assert OrtCuda().provider_options(kit.options(precision="tf32"))["use_tf32"] == "1"


def test_a_graph_takes_bound_buffers(kit):
    with pytest.raises(UsageError, match="fixed addresses"):
        kit.load("conv", cuda_graph=True, io="plain")


@pytest.mark.parametrize(
    ("text", "kind", "hint"),
    [
        ("CUDA failure 2: out of memory ; GPU=0", RunError, "smaller batch"),
        ("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of size 9", RunError, "smaller"),
        ("cuDNN is not available. Install cuDNN, or set enable_cudnn=0", BackendUnavailable, "cudnn"),
    ],
)
def test_what_a_user_can_mend_is_said(text, kind, hint):
    found = translate(RuntimeError(text), RunError, "run the model")
    assert type(found) is kind
    assert hint in found.hint


def test_the_options_are_json_and_the_provider_is_recorded(kit):
    json.dumps(dict(kit.options(provider="fuse_conv_bias=1").extra))
