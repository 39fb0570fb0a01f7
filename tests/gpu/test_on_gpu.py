"""Both GPU backends on a real GPU: answers, shapes, precisions, graphs, clocks, memory, evidence, failures."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from bench import cuda_driver
from bench.conformance import BoundedTools
from bench.errors import BenchError, LoadError, RunError
from bench.evidence import gpu as evidence
from bench.interface import Artifact, Options, Plan
from bench.measure import loop
from bench.store import read_records, run_files

SHORT = Plan(min_count=20, min_s=0.2, max_s=2.0, warmup_min_count=5, warmup_min_s=0.1, warmup_max_s=2.0, target=None)
DOUBLE = "(float[N,64,H,W] x) => (float[N,64,H,W] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
LIMITS = {"model": 1e-3, "tf32": 1e-2, "fp16": 1e-2, "bf16": 5e-2}


class Bench:
    """One backend with models from text, prepared, loaded and compared with onnx's evaluator."""

    def __init__(self, backend, kit, folder):
        self.backend, self.kit, self.folder, self.count = backend, kit, folder, 0

    def options(self, precision="model", **extra):
        return Options(precision=precision, extra={o.name: o.default for o in self.backend.options} | extra)

    def load(self, what, bound=None, precision="model", **extra):
        options = self.options(precision, **extra)
        return self.backend.load(self.prepare(what, bound, options), options)

    def prepare(self, what, bound=None, options=None):
        model = self.kit.model(what, bound=bound)
        if self.backend.prepares == "nothing":
            return model.as_it_is
        self.count += 1
        workdir = self.folder / f"prepared{self.count}"
        workdir.mkdir()
        return self.backend.prepare(model, options or self.options(), workdir, BoundedTools(lambda name: Path(name)))

    def error(self, session, what, feeds):
        """The largest error, as a share of the output's scale."""
        from onnx.reference import ReferenceEvaluator

        wanted = ReferenceEvaluator(self.kit.proto(what)).run(None, feeds)
        got = session.run(feeds).values()
        pairs = [(np.asarray(g, np.float64), np.asarray(w, np.float64)) for g, w in zip(got, wanted, strict=True)]
        return max(float(np.abs(g - w).max()) / (float(np.abs(w).max()) or 1.0) for g, w in pairs)


@pytest.fixture
def bench(backend, kit, tmp_path):
    return Bench(backend, kit, tmp_path)


def test_conformance(backend, cli):
    done = cli("conformance", backend.name, timeout=280)
    assert done.code == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["conv", "mlp", "rank 3", "two of each", "gather", "argmax", "transpose"])
def test_answers_are_right(bench, name):
    with bench.load(name) as session:
        for seed in range(2):
            assert bench.error(session, name, bench.kit.feeds(name, seed)) <= 1e-3


@pytest.mark.parametrize("precision", ["model", "tf32", "fp16", "bf16"])
def test_every_precision_is_as_good_as_it_should_be_and_no_better(bench, precision):
    if precision not in bench.backend.probe().precisions:
        pytest.skip(f"{bench.backend.name} has no {precision}")
    with bench.load("conv", precision=precision) as session:
        error = bench.error(session, "conv", bench.kit.feeds("conv", 1))
        assert error <= LIMITS[precision]
        assert session.placement().precision == precision
    if precision in ("fp16", "bf16"):
        assert error > 1e-6, "this looks like float32"


def test_float32_is_float32_and_not_tf32(bench):
    """A sum over 4096 products of ones and values that TF32's ten bits cannot hold."""
    proto = bench.kit.parse("(float[64,4096] x) => (float[64,64] y) { y = MatMul (x, w) }", {"w": (4096, 64)})
    with bench.load(proto) as session:
        assert bench.error(session, proto, bench.kit.feeds(proto, 1)) < 2e-5


def test_dynamic_shapes(bench):
    proto = bench.kit.parse(DOUBLE, {"w": (64, 64, 3, 3)})
    profile = {"profile": "N=1:2:4;H=8:16:32;W=8:16:32"} if bench.backend.name == "tensorrt" else {}
    with bench.load(proto, **profile) as session:
        for shape in ((1, 64, 8, 8), (4, 64, 32, 16), (2, 64, 16, 16), (1, 64, 8, 8)):
            assert bench.error(session, proto, bench.kit.feeds(proto, bound={"x": shape})) <= 1e-3
        if profile:
            with pytest.raises(RunError, match="the engine takes 'x'"):
                session.run(bench.kit.feeds(proto, bound={"x": (5, 64, 8, 8)}))


def test_an_output_whose_shape_the_data_decide(bench):
    proto = bench.kit.parse("(float[4,5] x) => (int64[2,K] y) { y = NonZero (x) }")
    extra = {"cpu_nodes": "any"} if bench.backend.name == "ort-cuda" else {}
    with bench.load(proto, **extra) as session:
        for count in (3, 20, 1):
            x = np.zeros((4, 5), np.float32)
            x.flat[:count] = 1
            np.testing.assert_array_equal(session.run({"x": x})["y"], np.array(np.nonzero(x)))


def test_explicit_int8(bench):
    text = """(float[1,3,8,8] x) => (float[1,8,8,8] y) {
        q = QuantizeLinear (x, s, z)
        d = DequantizeLinear (q, s, z)
        k = DequantizeLinear (w, s, z)
        y = Conv <pads = [1, 1, 1, 1]> (d, k)
    }"""
    weights = np.random.default_rng(0).integers(-99, 99, (8, 3, 3, 3), np.int8)
    proto = bench.kit.parse(text, {"s": np.float32(0.05), "z": np.int8(0), "w": weights}, opset=21, ir=10)
    with bench.load(proto) as session:
        assert bench.error(session, proto, bench.kit.feeds(proto, 1)) <= 1e-1


def test_a_graph_gives_the_same_answers(bench):
    with bench.load("conv") as plain, bench.load("conv", cuda_graph=True) as graph:
        for seed in range(4):
            feeds = bench.kit.feeds("conv", seed)
            np.testing.assert_allclose(graph.run(feeds)["y"], plain.run(feeds)["y"], atol=1e-5)


@pytest.mark.parametrize("graph", [False, True])
def test_the_scopes_are_ordered(bench, graph):
    """What happens inside an inference takes no longer than the inference."""
    proto = bench.kit.parse(DOUBLE, {"w": (64, 64, 3, 3)})
    bound = {"x": (4, 64, 64, 64)}
    feeds = [bench.kit.feeds(proto, seed, bound) for seed in range(2)]
    with bench.load(proto, bound=bound, cuda_graph=graph) as session:
        session.run(feeds[0])
        samples, _ = loop.measure(session, feeds, SHORT)
    medians = {series.scope: float(np.median(series.samples_ns)) for series in samples.series}
    assert medians["compute"] < medians["end_to_end"]
    assert 0 < medians.get("enqueue", 1) < medians["end_to_end"]


def test_the_host_s_clock_and_the_device_s_agree(bench):
    """Where computing takes milliseconds, waiting for it from the host takes as long, to within a tenth and 50 us."""
    if bench.backend.name != "tensorrt":
        pytest.skip("needs a device clock")
    from time import perf_counter_ns

    proto = bench.kit.parse(DOUBLE, {"w": (64, 64, 3, 3)})
    bound = {"x": (16, 64, 256, 256)}
    feeds = bench.kit.feeds(proto, 0, bound)
    with bench.load(proto, bound=bound) as session:
        session.run(feeds)
        (compute, _) = session.device_series([feeds], SHORT)
        host = []
        for _ in range(20):
            begin = perf_counter_ns()
            session._enqueue()
            session._device.wait(session._stream)
            host.append(perf_counter_ns() - begin)
    device = float(np.median(compute.samples_ns))
    assert abs(np.median(host) - device) <= 0.1 * device + 50_000


def test_nodes_ran_on_the_gpu(bench):
    with bench.load("conv") as session:
        session.run(bench.kit.feeds("conv"))
        found = session.placement()
    assert found.device.startswith("cuda:")
    assert set(found.nodes) <= {"CUDAExecutionProvider", "TensorRT"}


def test_a_node_without_a_kernel_for_the_gpu_is_refused(bench):
    if bench.backend.name != "ort-cuda":
        pytest.skip("TensorRT has no other place to run")
    proto = bench.kit.parse(
        "(float[8] x) => (float[8] y, int64[8] i, int64[8] j, int64[8] k) { y, i, j, k = Unique (x) }"
    )
    feeds = {"x": np.arange(8, dtype=np.float32)}
    with bench.load(proto) as session, pytest.raises(RunError, match="ran on CPUExecutionProvider"):
        session.run(feeds)
    with bench.load(proto, cpu_nodes="any") as session:
        session.run(feeds)
        assert any("Unique" in words for words in session.placement().elsewhere)
    with pytest.raises(BenchError, match="fallback to CPU"):
        bench.load(proto, cpu_nodes="none")


def test_too_large_for_the_gpu_says_out_of_memory(bench):
    """A terabyte of output: no GPU has it, and the next inference of another session is right again."""
    proto = bench.kit.parse("(float[1,1] x, int64[2] s) => (float[A,B] y) { y = Expand (x, s) }")
    if bench.backend.name == "tensorrt":
        pytest.skip("its engine would need the values of a shape")
    with bench.load(proto) as session, pytest.raises(RunError) as raised:
        session.run({"x": np.ones((1, 1), np.float32), "s": np.array([1 << 19, 1 << 19])})
    assert "smaller batch" in raised.value.hint
    test_answers_are_right(bench, "mlp")


def test_two_sessions_at_once(bench):
    with bench.load("conv") as one, bench.load("mlp") as other:
        for seed in range(3):
            assert bench.error(one, "conv", bench.kit.feeds("conv", seed)) <= 1e-3
            assert bench.error(other, "mlp", bench.kit.feeds("mlp", seed)) <= 1e-3


def test_an_engine_for_another_gpu_or_a_damaged_one_is_refused(bench):
    if bench.backend.name != "tensorrt":
        pytest.skip("it has no engine")
    made = bench.prepare("conv")
    foreign = {**made.meta, "made_for": {**made.meta["made_for"], "version": "1.0"}}
    with pytest.raises(LoadError, match="was built for version"):
        bench.backend.load(Artifact(made.root, made.files, made.signature, foreign), bench.options())
    made.path.write_bytes(made.path.read_bytes()[:4000])
    with pytest.raises(LoadError, match="refused the engine"):
        bench.backend.load(made, bench.options())


def test_the_gpu_is_watched_from_another_process(bench):
    """The evidence of this process, as its supervisor would take it."""
    pytest.importorskip("pynvml")
    with bench.load("conv") as session:
        session.run(bench.kit.feeds("conv"))
        watching = evidence.watch(os.getpid())
        assert watching is not None
        session.run(bench.kit.feeds("conv"))
        seen = watching.end()
    (first, *_) = cuda_driver.ask().gpus
    assert (seen.name, seen.capability) == (first.name, first.capability)
    assert seen.sm_mhz is not None
    assert seen.power_w is not None
    assert seen.temperature_c is not None
    assert seen.throttled is not None, seen.not_available


@pytest.mark.parametrize("model", ["resnet50", "squeezenet"])
def test_a_real_model_through_the_front_door(backend, model, tmp_path, cli):
    """Prepared, proven and timed by the command; run twice, the second time from the cache."""
    results = tmp_path / "results"
    for _ in range(2):
        argv = ("run", model, "-b", backend.name, "--trials", "1", "--max-time", "1", "--results", str(results))
        done = cli(*argv, timeout=280)
        assert done.code == 0, done.stderr
    first, second = [record for path in run_files([results / "records"]) for record in read_records(path)]
    assert {first.status, second.status} <= {"ok", "noisy"}
    assert first.parity.passed
    if backend.prepares == "device":
        assert second.prepare.cache == "hit"
    assert {latency.scope for latency in first.latencies} >= {"end_to_end", "compute"}
