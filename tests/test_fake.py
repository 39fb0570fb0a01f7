"""The fake device: its operators against onnx's evaluator, its latency and clocks, and each of its faults."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from backends.fake import PRECISIONS, Fake
from backends.fake.faults import DRIFT, FAULTS
from backends.fake.operators import CAST_TYPES
from bench.errors import (
    BackendUnavailable,
    LoadError,
    PrepareError,
    RunError,
    UnsupportedModel,
    UsageError,
)
from bench.interface import Artifact, Model, Options, Plan, Signature, ValueSpec

ROOT = Path(__file__).resolve().parents[1]
NO_TOOLS = None  # the fake runs none


def write_model(folder, nodes, inputs, outputs, weights=None, opset=13):
    """A model file; inputs and outputs map names to example arrays."""
    folder.mkdir(parents=True, exist_ok=True)

    def infos(arrays):
        return [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ]

    stored = [numpy_helper.from_array(value, name) for name, value in (weights or {}).items()]
    graph = helper.make_graph(nodes, "g", infos(inputs), infos(outputs), stored)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("org.example", 1)]
    onnx.save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), folder / "model.onnx")

    def specs(arrays):
        return tuple(ValueSpec(name, str(array.dtype), array.shape) for name, array in arrays.items())

    return Model("m", folder, ("model.onnx",), "0" * 64, opset, Signature(specs(inputs), specs(outputs)))


def options(precision="model", **extra):
    return Options(1, precision, (), {**{each.name: each.default for each in Fake.options}, **extra})


def prepare(model, folder, asked=None):
    folder.mkdir(exist_ok=True)
    return Fake().prepare(model, asked or options(), folder, NO_TOOLS)


@pytest.fixture
def affine(tmp_path):
    """The artefact of y = 2 x + 1 and z = x, and a feed."""
    feed = {"x": np.arange(1, 7, dtype=np.float32).reshape(2, 3)}
    weights = {"two": np.float32(2).reshape(1), "one": np.float32(1).reshape(1)}
    nodes = [
        helper.make_node("Mul", ["x", "two"], ["t"]),
        helper.make_node("Add", ["t", "one"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    model = write_model(tmp_path / "model", nodes, feed, {"y": feed["x"], "z": feed["x"]}, weights)
    return prepare(model, tmp_path / "prepared"), feed


# --- operators

A = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
B = np.random.default_rng(2).standard_normal((4, 5)).astype(np.float32)
C = np.random.default_rng(3).standard_normal((2, 3, 4, 5)).astype(np.float32)
INTS = np.array([[-7, 7, -8, 8]], np.int64)
I64 = np.int64
# operator, inputs (the first is fed, the others are weights), attributes, opset
CASES = [
    ("Identity", [A], {}, 13),
    ("Add", [A, A[0]], {}, 13),
    ("Sub", [A, A[:, :1]], {}, 13),
    ("Mul", [A, A], {}, 13),
    ("Div", [A, A + 9], {}, 13),
    ("Div", [INTS, np.array([2, -2, 3, -3], I64)], {}, 13),
    ("Relu", [A], {}, 13),
    ("Sigmoid", [A * 200], {}, 13),
    ("Tanh", [A], {}, 13),
    ("MatMul", [C, np.swapaxes(C, -1, -2)], {}, 13),
    ("Gemm", [A, B], {}, 13),
    ("Gemm", [A, B, B[0]], {"alpha": 0.5, "beta": 2.0}, 13),
    ("Gemm", [A, A, A[:, :1]], {"transB": 1, "beta": 3.0}, 13),
    ("Gemm", [A, A[:, :2]], {"transA": 1}, 13),
    ("Softmax", [C], {}, 13),
    ("Softmax", [C], {"axis": 1}, 13),
    ("Softmax", [A], {}, 11),
    ("Flatten", [C], {}, 13),
    ("Flatten", [C], {"axis": 0}, 13),
    ("Flatten", [C], {"axis": -1}, 13),
    ("Reshape", [C, np.array([0, -1, 2], I64)], {}, 13),
    ("Transpose", [C], {}, 13),
    ("Transpose", [C], {"perm": [0, 2, 3, 1]}, 13),
    ("Gather", [C, np.array([[0, -1], [1, 0]], I64)], {"axis": 2}, 13),
    ("Gather", [C, np.array(1, I64)], {}, 13),
    ("Cast", [A * 3], {"to": TensorProto.INT32}, 13),
    ("Cast", [INTS], {"to": TensorProto.FLOAT16}, 13),
    ("Concat", [A, A], {"axis": -1}, 13),
    ("ReduceMean", [C], {"axes": [1, -1], "keepdims": 0}, 13),
    ("ReduceMean", [C], {}, 13),
    ("ReduceMean", [C, np.array([2], I64)], {"keepdims": 1}, 18),
    ("GlobalAveragePool", [C], {}, 13),
]


@pytest.mark.parametrize(("operator", "given", "attributes", "opset"), CASES, ids=lambda value: str(value)[:20])
def test_operator_agrees_with_the_evaluator(tmp_path, operator, given, attributes, opset):
    from onnx.reference import ReferenceEvaluator

    names = [f"v{index}" for index in range(len(given))]
    weights = dict(zip(names[1:], given[1:], strict=True))
    node = helper.make_node(operator, names, ["y"], **attributes)
    model = write_model(tmp_path / "model", [node], {"v0": given[0]}, {"y": given[0]}, weights, opset)
    with np.errstate(all="ignore"):
        (wanted,) = ReferenceEvaluator(onnx.load(model.path)).run(None, {"v0": given[0]})
    with Fake().load(prepare(model, tmp_path / "prepared"), options()) as session:
        (got,) = session.run({"v0": given[0]}).values()
    assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_old_softmax_is_over_everything_from_its_axis_on(tmp_path):
    # By the specification of opset 11, not by the evaluator, which applies the new rule to old opsets.
    node = helper.make_node("Softmax", ["x"], ["y"])
    model = write_model(tmp_path / "model", [node], {"x": C}, {"y": C}, opset=11)
    with Fake().load(prepare(model, tmp_path / "prepared"), options()) as session:
        got = session.run({"x": C})["y"]
    powers = np.exp(C.astype(np.float64))
    np.testing.assert_allclose(got, powers / powers.sum(axis=(1, 2, 3), keepdims=True), rtol=1e-5)


def test_constants_become_weights(tmp_path):
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["row"], value=numpy_helper.from_array(A[0])),
        helper.make_node("Mul", ["x", "half"], ["t"]),
        helper.make_node("Add", ["t", "row"], ["y"]),
    ]
    model = write_model(tmp_path / "model", nodes, {"x": A}, {"y": A})
    with Fake().load(prepare(model, tmp_path / "prepared"), options()) as session:
        np.testing.assert_allclose(session.run({"x": A})["y"], A / 2 + A[0], rtol=1e-6)


def test_cast_types_are_onnx_s():
    assert {number: str(helper.tensor_dtype_to_np_dtype(number)) for number in CAST_TYPES} == CAST_TYPES


@pytest.mark.parametrize(
    ("node", "word"),
    [
        (helper.make_node("Conv", ["x", "x"], ["y"], name="c7"), "Conv of node c7"),
        (helper.make_node("Relu", ["x"], ["y"], name="r", domain="org.example"), "org.example::Relu of node r"),
        (helper.make_node("Cast", ["x"], ["y"], name="k", to=TensorProto.BFLOAT16), "Cast of node k"),
        (helper.make_node("Reshape", ["x", "s"], ["y"], allowzero=1), "allowzero"),
        (helper.make_node("Concat", ["x"], ["y"]), "no axis"),
        (helper.make_node("Flatten", ["x"], ["y"], colour=1), "attribute colour"),
        (helper.make_node("Constant", [], ["y"], value_string="a"), "Constant of node #0"),
    ],
)
def test_refuses_what_it_would_not_honour(tmp_path, node, word):
    model = write_model(tmp_path / "model", [node], {"x": A}, {"y": A}, {"s": np.array([0, 4], I64)}, opset=14)
    with pytest.raises(UnsupportedModel, match=word):
        prepare(model, tmp_path / "prepared")


def test_not_a_model_is_a_prepare_error(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"\xff" * 64)
    with pytest.raises(PrepareError, match=r"model\.onnx"):
        prepare(Model("m", tmp_path, ("model.onnx",), "", 13, Signature((), ())), tmp_path / "prepared")


def test_prepared_bytes_are_the_same_every_time(tmp_path, affine):
    artifact, _ = affine
    again = prepare(
        Model("m", tmp_path / "model", ("model.onnx",), "", 13, artifact.signature), tmp_path / "prepared_again"
    )
    for name in artifact.files:
        assert (artifact.root / name).read_bytes() == (again.root / name).read_bytes()


def test_a_failing_step_names_its_node(affine):
    artifact, _ = affine
    with Fake().load(artifact, options()) as session, pytest.raises(RunError, match=r"\(Mul\)"):
        session.run({"x": np.array(["a"], object)})


def test_program_that_makes_no_output_does_not_load(affine):
    artifact, _ = affine
    text = artifact.path.read_text()
    artifact.path.write_text(text.replace('"z"\n ],\n "steps"', '"nowhere"\n ],\n "steps"'))
    assert artifact.path.read_text() != text
    with pytest.raises(LoadError, match="nowhere"):
        Fake().load(artifact, options())


# --- precision, error, latency, clock


def run_once(affine, precision="model", **extra):
    artifact, feed = affine
    with Fake().load(artifact, options(precision, **extra)) as session:
        return session.run({name: value.copy() for name, value in feed.items()})


def test_fp16_rounds_outputs(affine):
    artifact, _ = affine
    with Fake().load(artifact, options("fp16")) as session:
        got = session.run({"x": np.full((2, 3), 1000.3, np.float32)})["z"]
        assert session.placement().precision == "fp16"
    assert got.dtype == np.float32
    assert set(got.ravel().tolist()) == {1000.5}


def test_error_is_a_share_of_the_scale(affine):
    clean, wrong = run_once(affine), run_once(affine, error=0.01)
    for name, value in clean.items():
        np.testing.assert_allclose(wrong[name] - value, 0.01 * np.abs(value).max(), rtol=1e-3)


@pytest.mark.parametrize("latency_us", [200.0, 3000.0])
def test_a_run_lasts_at_least_its_latency(affine, latency_us):
    artifact, feed = affine
    with Fake().load(artifact, options(latency_us=latency_us, jitter=0.2)) as session:
        for _ in range(5):
            start = time.perf_counter_ns()
            session.run(feed)
            assert time.perf_counter_ns() - start >= latency_us * 1000


def test_host_clock_leaves_timing_to_the_harness(affine):
    artifact, feed = affine
    with Fake().load(artifact, options()) as session:
        assert session.measure([feed], Plan()) is None


PLAN = Plan(min_count=7, min_s=0.0, max_s=5.0, warmup_min_count=2, warmup_min_s=0.0, warmup_max_s=1.0)


def test_device_clock_gives_its_own_series(affine):
    artifact, feed = affine
    feeds = [feed, {"x": feed["x"] * 2}]
    with Fake().load(artifact, options(clock="device", latency_us=100.0)) as session:
        samples = session.measure(feeds, PLAN)
    (series,) = samples.series
    assert (series.clock, len(series.samples_ns), samples.warmup_count) == ("device", 7, 2)
    assert series.samples_ns.min() >= 100_000
    np.testing.assert_array_equal(samples.outputs["z"], feeds[samples.feed_index]["x"])


def test_max_time_stops_the_loop(affine):
    artifact, feed = affine
    plan = Plan(min_count=10**9, min_s=0.0, max_s=0.01, warmup_min_count=1, warmup_min_s=0.0)
    with Fake().load(artifact, options(clock="device")) as session:
        assert session.measure([feed], plan).stopped_by == "max_s"


def test_implausible_durations_do_not_fit_the_wall(affine):
    artifact, feed = affine
    with Fake().load(artifact, options(clock="device", fault="implausible", latency_us=200.0)) as session:
        start = time.perf_counter_ns()
        samples = session.measure([feed], PLAN)
        wall_ns = time.perf_counter_ns() - start
    assert samples.series[0].samples_ns.sum() > wall_ns


# --- faults


def test_faults_are_the_choices_and_shape_prepare():
    declared = {option.name: option for option in Fake.options}
    assert declared["fault"].choices == tuple(FAULTS)
    assert [name for name, option in declared.items() if option.artefact] == ["fault", "fault_at"]


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        (options("int4"), "int4"),
        (options(fault="no_such"), "no_such"),
        (options(fault="raise", fault_at="lunch"), "lunch"),
        (options(colour="red"), "colour"),
        (options(fault="implausible"), "clock=device"),
    ],
)
def test_unknown_wishes_are_usage_errors(affine, asked, word):
    with pytest.raises(UsageError, match=word):
        Fake().load(affine[0], asked)


def test_wrong_outputs(affine):
    clean = run_once(affine)
    assert run_once(affine, fault="wrong_shape")["y"].shape == (1, 2, 3)
    assert run_once(affine, fault="wrong_dtype")["y"].dtype == np.float64
    assert list(run_once(affine, fault="missing_output")) == ["y"]
    holed = run_once(affine, fault="nan")["y"]
    assert np.isnan(holed).sum() == 1
    assert not run_once(affine, fault="zeros")["z"].any()
    assert run_once(affine, fault="input_blind")["y"].tolist() == np.ones((2, 3)).tolist()
    assert list(clean) == ["y", "z"]


def test_faults_between_runs(affine):
    artifact, feed = affine
    other = {"x": feed["x"] * 5}

    def two_runs(fault):
        with Fake().load(artifact, options(fault=fault)) as session:
            return session.run(feed), session.run(other)

    first, second = two_runs("stale")
    np.testing.assert_array_equal(first["y"], second["y"])
    assert first["y"] is not second["y"]
    first, second = two_runs("shared_outputs")
    assert first["y"] is second["y"]
    np.testing.assert_array_equal(second["z"], other["x"])


def test_mutate_feeds_overwrites_them(affine):
    artifact, feed = affine
    with Fake().load(artifact, options(fault="mutate_feeds")) as session:
        session.run(feed)
    assert not feed["x"].any()


@pytest.mark.parametrize("fault", ["drift", "nan"])
def test_a_late_fault_begins_after_its_count(affine, fault):
    artifact, feed = affine
    clean = run_once(affine)["y"]
    with Fake().load(artifact, options(fault=fault, fault_at="measure", fault_after=3)) as session:
        seen = [np.array_equal(session.run(feed)["y"], clean) for _ in range(5)]
    assert seen == [True, True, True, False, False]


def test_drift_is_large(affine):
    clean = run_once(affine)["y"]
    drifted = run_once(affine, fault="drift", fault_after=0)["y"]
    np.testing.assert_allclose(drifted - clean, DRIFT * clean.max(), rtol=1e-3)


def test_fallback_is_seen_in_the_placement(affine):
    with Fake().load(affine[0], options(fault="fallback")) as session:
        assert session.placement().device not in Fake().probe().devices


def test_leak_grows_the_process(cli, mlp_path):
    def peak_bytes(mib):
        trials = ("--trials", "1", "--min-time", "0.01", "--min-count", "8", "--max-foreign-cpu", "1", "--json")
        leak = ("-o", "fault=leak", "-o", f"leak_mib={mib}")
        done = cli("run", mlp_path, "--batch", "1", "-b", "fake", *trials, *leak)
        return json.loads(done.stdout)["memory"]["peak_rss_bytes"]

    # At least 13 runs keep as much each: eight timed ones, three to warm up, two first ones.
    assert peak_bytes(8) - peak_bytes(0) > 13 * 7 * 2**20


def test_slow_load(affine):
    start = time.perf_counter()
    Fake().load(affine[0], options(fault="slow_load", slow_load_s=0.05))
    assert time.perf_counter() - start >= 0.05


@pytest.mark.parametrize(
    ("phase", "kind"),
    [("import", BackendUnavailable), ("load", LoadError), ("run", RunError), ("measure", RunError)],
)
def test_raise_is_the_phase_s_own_error(affine, phase, kind):
    artifact, feed = affine
    asked = options(fault="raise", fault_at=phase, fault_after=1)

    def go():
        with Fake().load(artifact, asked) as session:
            session.run(feed)
            session.run(feed)

    with pytest.raises(kind, match="told to fail"):
        go()
    with pytest.raises(ValueError, match="not deploybench's"):
        Fake().load(artifact, options(fault="unexpected", fault_at="load"))


def test_faults_of_prepare(tmp_path, affine):
    model = Model("m", tmp_path / "model", ("model.onnx",), "", 13, affine[0].signature)
    for fault, at, kind in [("raise", "prepare", PrepareError), ("unsupported", "run", UnsupportedModel)]:
        with pytest.raises(kind):
            prepare(model, tmp_path / "failed", options(fault=fault, fault_at=at))
    with pytest.raises(UnsupportedModel):
        Fake().load(affine[0], options(fault="unsupported", fault_at="load"))


SCRIPT = """
import sys
sys.path[:0] = [sys.argv[1]]
from pathlib import Path
import numpy as np
from backends.fake import Fake
from bench.interface import Artifact, Options, Signature, ValueSpec
spec = ValueSpec("x", "float32", (2, 3))
artifact = Artifact(Path(sys.argv[2]), ("program.json", "weights.npz"), Signature((spec,), ()))
session = Fake().load(artifact, Options(extra={"fault": sys.argv[3], "fault_at": sys.argv[4], "fault_after": 1}))
print("loaded", flush=True)
session.run({"x": np.ones((2, 3), np.float32)})
print("ran", flush=True)
session.run({"x": np.ones((2, 3), np.float32)})
print("ran again", flush=True)
"""


def child(artifact: Artifact, fault, phase):
    return [sys.executable, "-I", "-c", SCRIPT, str(ROOT), str(artifact.root), fault, phase]


@pytest.mark.parametrize(
    ("fault", "phase", "code", "said"),
    [
        ("crash", "import", -signal.SIGSEGV, ""),
        ("fpe", "load", -signal.SIGFPE, ""),
        ("ill", "run", -signal.SIGILL, "loaded\n"),
        ("abort", "measure", -signal.SIGABRT, "loaded\nran\n"),
        ("oom-kill", "run", -signal.SIGKILL, "loaded\n"),
        ("exit", "measure", 3, "loaded\nran\n"),
    ],
)
def test_deaths(affine, fault, phase, code, said):
    done = subprocess.run(child(affine[0], fault, phase), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (code, said)


def test_print_goes_to_both_descriptors_and_on(affine):
    done = subprocess.run(child(affine[0], "print", "run"), capture_output=True, timeout=60)
    assert done.returncode == 0
    assert b"\xf0\x28" in done.stdout
    assert b"\xf0\x28" in done.stderr
    assert done.stdout.endswith(b"ran again\n")


def test_hang_ignores_sigterm(affine):
    with subprocess.Popen(child(affine[0], "hang", "run"), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "loaded\n"
        time.sleep(0.2)
        process.terminate()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL


def test_precisions_are_the_probe_s():
    assert Fake().probe().precisions == PRECISIONS
