"""The search itself, in this process: planted faults are named exactly, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from bench.cache import Cache
from bench.localize.probe import Outcome, Prober, effect_of, errors_of
from bench.localize.search import search
from bench.parity.compare import TOLERANCES, Tolerance, compare
from bench.worker.client import Failure


@pytest.fixture(scope="module")
def several(planted_faults, tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    return planted_faults.subject("several_outputs", folder, Cache(folder / "cache"))


def subject_of(planted_faults, tmp_path, text, held=None, opset=17):
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> tiny {text}')
    for name, value in (held or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
    onnx.save(proto, tmp_path / "tiny.onnx")
    return planted_faults.subject(str(tmp_path / "tiny.onnx"), tmp_path / "parts", Cache(tmp_path / "cache"))


def searched(planted_faults, subject, plants, tolerance=TOLERANCES["fp32"], most=5, **options):
    backend = planted_faults.InProcess(planted_faults.saboteur.Saboteur(), plants=plants, **options)
    report = compare(subject.expected, backend.run(subject.model, subject.feeds), tolerance)
    prober = Prober(subject.parts, backend, subject.reference, tolerance)
    whole = Outcome(effect_of(report), errors_of(report), errors_of(report))
    assert whole.effect > 1
    return search(prober, whole, most=most)


@pytest.mark.parametrize("kind", ["weight", "padding", "activation", "transpose", "dtype"])
def test_one_plant_is_named_exactly(planted_faults, several, kind):
    rng = np.random.default_rng(3)
    places = [place for place in several.places if place[0] == kind]
    tried = 0
    for index in rng.permutation(len(places))[:6]:
        result = planted_faults.hunt(several, [places[index]])
        if result is None:
            continue  # it is too small to make the output fail
        tried += 1
        assert result.named == result.planted, places[index]
        assert result.kinds == ["local"]
        assert max(result.probes) <= planted_faults.budget(several.parts.layout.end)
    assert tried >= 2


def test_two_plants_are_both_named(planted_faults, several):
    found = planted_faults.pairs(several, 4, np.random.default_rng(5), verbose=False)
    assert [set(result.named) == set(result.planted) for result in found] == [True] * 4


def test_a_fusion_that_only_shows_whole(planted_faults, several):
    """Wrong only where a node stands with its reader and its own result is not asked for."""
    nodes = several.parts.layout.nodes
    conv = next(node.outputs[0] for node in nodes[20:] if node.op == "Conv")
    reader = next(node.outputs[0] for node in nodes if conv in node.inputs)
    found, _ = searched(planted_faults, several, f"fused@{conv}")
    assert [f.kind for f in found] == ["together"]
    assert [node.outputs[0] for node in found[0].nodes] == [conv, reader]


def test_nodes_that_pick_by_comparison_are_not_blamed(planted_faults, tmp_path):
    """Two scores are equal to the last bit but one; ONNX Runtime's own optimisations may turn them over."""
    subject = subject_of(
        planted_faults, tmp_path,
        "(float[1,8] x) => (int64[1] y) { h = MatMul (x, w)  r = Relu (h)  y = ArgMax <axis = 1, keepdims = 0> (r) }",
        {"w": np.ones((8, 4)) + np.eye(8, 4) * 1e-8},
    )  # fmt: skip
    turned = {"y": (subject.expected["y"] + 1) % 4}
    report = compare(subject.expected, turned, TOLERANCES["fp32"])
    backend = planted_faults.InProcess(planted_faults.saboteur.Saboteur())
    prober = Prober(subject.parts, backend, subject.reference, TOLERANCES["fp32"])
    found, _ = search(prober, Outcome(effect_of(report), errors_of(report)), most=5)
    assert [(f.kind, f.blamed, f.nodes[0].op) for f in found] == [("order", False, "ArgMax")]


def test_a_fault_before_and_one_in_the_picking(planted_faults, tmp_path):
    text = """(float[1,8] x) => (int64[1] y) {
        h = MatMul (x, w)  r = Relu (h)  s = Softmax <axis = 1> (r)  y = ArgMax <axis = 1, keepdims = 0> (s) }"""
    weights = np.random.default_rng(2).standard_normal((8, 4)) - np.float32(0.3)
    subject = subject_of(planted_faults, tmp_path, text, {"w": weights})
    backend = planted_faults.InProcess(planted_faults.saboteur.Saboteur(), plants="activation@r")
    prober = Prober(subject.parts, backend, subject.reference, TOLERANCES["fp32"])
    found, _ = search(prober, Outcome(np.inf), most=5)
    assert [(f.kind, f.nodes[0].outputs[0]) for f in found] == [("local", "r")]


def test_rounding_that_the_model_makes_large_is_not_blamed(planted_faults, tmp_path):
    text = """(float[1,64] x) => (float[1,4] y) {
        h = MatMul (x, w)  m = ReduceMean <axes = [1], keepdims = 1> (h)  d = Sub (h, m)
        b = Mul (d, big)  y = Tanh (b) }"""
    held = {"w": np.full((64, 4), 1000.0) + np.eye(64, 4) * 1e-4, "big": [1e4]}
    subject = subject_of(planted_faults, tmp_path, text, held)
    found, _ = searched(planted_faults, subject, "ulp@h")
    assert [(f.kind, f.blamed, f.nodes[0].op) for f in found] == [("rounding", False, "MatMul")]


def test_many_small_errors_accuse_nobody(planted_faults, several):
    """A tolerance that the sum of all nodes' rounding to bfloat16 breaks, and no single one."""
    names = [node.outputs[0] for node in several.parts.layout.nodes if node.op == "Relu"]
    plants = ";".join(f"dtype@{name}" for name in names)
    backend = planted_faults.InProcess(planted_faults.saboteur.Saboteur(), plants=plants)
    got = backend.run(several.model, several.feeds)
    effect = effect_of(compare(several.expected, got, Tolerance("t", 0.0, 1e-3, "")))
    tight = Tolerance("t", 0.0, 1e-3 * effect * 0.95, "")
    found, _ = searched(planted_faults, several, plants, tight)
    assert {f.kind for f in found} <= {"spread", "local"}
    assert sum(f.blamed for f in found) <= 1


@pytest.mark.parametrize("failure", [None, Failure("prepare", "crash", "it dies", signal="SIGSEGV")])
@pytest.mark.parametrize("nodes", ["y = Relu (x)", "a = Relu (x)  b = Exp (a)  y = Neg (b)"])
def test_what_only_the_uncut_model_shows_accuses_nobody(planted_faults, tmp_path, nodes, failure):
    subject = subject_of(planted_faults, tmp_path, f"(float[1,6] x) => (float[1,6] y) {{ {nodes} }}")
    backend = planted_faults.InProcess(planted_faults.saboteur.Saboteur())
    prober = Prober(subject.parts, backend, subject.reference, TOLERANCES["fp32"])
    found, _ = search(prober, Outcome(np.inf, failure=failure), most=5)
    assert [f for f in found if f.blamed] == []
