"""Where a graph can be cut: what crosses each place is enough to go on from there, whatever the graph looks like."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper, parser

from bench import onnxfile
from bench.errors import UsageError
from bench.interface import Signature, ValueSpec
from bench.localize.layout import lay_out
from bench.onnxfile import Node


def laid_out(tmp_path, text, held=None):
    proto = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> tiny {text}')
    for name, value in (held or {}).items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    file = onnxfile.read(path)
    found = onnxfile.signature(file.proto)
    return file, lay_out(onnxfile.nodes(file), found, onnxfile.weights(file), onnxfile.types(file))


def test_places_that_one_tensor_crosses_are_the_dominators(tmp_path):
    _, layout = laid_out(
        tmp_path,
        """(float[4] x) => (float[4] y) {
            a = Relu (x)  b = Exp (a)  c = Tanh (a)  d = Add (b, c)  y = Neg (d)
        }""",
    )
    assert [layout.through[place] for place in range(6)] == [("x",), ("a",), ("a", "b"), ("b", "c"), ("d",), ()]
    assert [layout.cost(place) for place in (0, 1, 4)] == [1, 1, 1]


def test_shapes_become_constants_behind_the_begin(tmp_path):
    file, layout = laid_out(
        tmp_path,
        """(float[2,6] x) => (float[6,2] y) {
            r = Relu (x)  s = Shape (r)  g = Gather (s, order)  n = Neg (r)  y = Reshape (n, g)
        }""",
        {"order": np.array([1, 0])},
    )
    assert [node.op for node in layout.nodes] == ["Relu", "Neg", "Reshape"]
    assert layout.through[2] == ("n",)
    alone = layout.span(2, 3)
    assert (alone.inputs, alone.constants, [n.op for n in alone.nodes]) == (("n",), ("g",), ["Reshape"])
    whole = layout.span(0, 3)
    assert [n.op for n in whole.nodes] == ["Relu", "Shape", "Gather", "Neg", "Reshape"]
    assert not whole.constants
    part = onnxfile.cut(
        file, alone.nodes, [ValueSpec("n", "float32", (2, 6))], {"g": np.array([6, 2])},
        [ValueSpec("y", "float32", (6, 2))], tmp_path,
    )  # fmt: skip
    onnx.checker.check_model(str(part.path), full_check=True)


def test_subgraphs_are_units_with_what_they_capture(tmp_path):
    _, layout = laid_out(
        tmp_path,
        """(float[3] x, bool c) => (float[3] y) {
            a = Exp (x)  b = Neg (x)
            y = If (c) <then_branch = t () => (float[3] o) { o = Add (a, w) },
                        else_branch = e () => (float[3] p) { p = Abs (b) }>
        }""",
        {"w": np.ones(3, np.float32)},
    )
    assert set(layout.nodes[2].inputs) == {"c", "a", "b", "w"}
    assert set(layout.through[2]) == {"c", "a", "b"}
    assert dict(layout.nodes[2].attributes)["then_branch"] == "a graph of 1 nodes"


def test_what_no_output_needs_is_left_out(tmp_path):
    _, layout = laid_out(tmp_path, "(float[3] x) => (float[3] y) { dead = Exp (x)  y = Relu (x) }")
    assert [node.op for node in layout.nodes] == ["Relu"]
    assert [node.op for node in layout.unused] == ["Exp"]


def test_an_order_that_is_none_is_mended_and_a_circle_refused(tmp_path):
    def saved(*nodes):
        ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
        model = helper.make_model(helper.make_graph(list(nodes), "g", ends[:1], ends[1:]))
        onnx.save(model, tmp_path / "m.onnx")
        return onnxfile.read(tmp_path / "m.onnx")

    late = saved(helper.make_node("Neg", ["a"], ["y"]), helper.make_node("Exp", ["x"], ["a"]))
    assert [node.op for node in onnxfile.nodes(late)] == ["Exp", "Neg"]
    circle = saved(
        helper.make_node("Add", ["x", "y"], ["a"], name="one"), helper.make_node("Neg", ["a"], ["y"], name="two")
    )
    with pytest.raises(UsageError, match="circle: Add 'one', Neg 'two' need each other"):
        onnxfile.nodes(circle)


@st.composite
def graphs(draw):
    """Nodes in running order, each reading one or two earlier tensors; some tensors are outputs."""
    count = draw(st.integers(1, 12))
    nodes = []
    for index in range(count):
        known = ["x", "z", *(f"t{i}" for i in range(index))]
        reads = draw(st.lists(st.sampled_from(known), min_size=1, max_size=2))
        nodes.append(Node(index, "", "Sum", "", tuple(dict.fromkeys(reads)), (f"t{index}",)))
    outputs = draw(st.lists(st.sampled_from([f"t{i}" for i in range(count)]), min_size=1, max_size=3, unique=True))
    return nodes, outputs


def computed(nodes, values, wanted):
    values = dict(values)
    for node in nodes:
        values[node.outputs[0]] = 1 + sum((i + 2) * values[name] for i, name in enumerate(node.inputs))
    return {name: values[name] for name in wanted}


@given(graphs())
def test_going_on_from_any_place_gives_the_same(graph):
    nodes, outputs = graph
    specs = [ValueSpec(name, "float32", (1,)) for name in ("x", "z", *outputs)]
    layout = lay_out(nodes, Signature(tuple(specs[:2]), tuple(specs[2:])), frozenset(), {})
    feeds = {"x": 3, "z": 5}
    whole = computed(nodes, feeds, outputs)
    for place in range(layout.end + 1):
        first = layout.span(0, place)
        values = {**feeds, **computed(first.nodes, feeds, first.outputs)}
        rest = layout.span(place, layout.end)
        given_ = {name: values[name] for name in rest.inputs}
        assert set(rest.inputs) <= set(layout.through[place])
        assert not {node.index for node in first.nodes} & {node.index for node in rest.nodes}
        assert {**values, **computed(rest.nodes, given_, rest.outputs)}.items() >= whole.items()


def test_a_light_model_is_cut_into_the_same_parts(tmp_path):
    """Its weights in one file beside it, or inside where a part has to stand alone."""
    w = np.random.default_rng(1).standard_normal((40, 40)).astype(np.float32)
    (tmp_path / "m").mkdir()
    file, layout = laid_out(
        tmp_path / "m",
        "(float[1,40] x) => (float[1,40] y) { a = MatMul (x, w)  b = Relu (a)  y = Mul (b, small) }",
        {"w": w, "small": np.float32([2])},
    )
    light = onnxfile.light(file, tmp_path / "light")
    assert [t.name for t in light.proto.graph.initializer if t.data_location] == ["w"]
    assert not any(len(t.raw_data) > 1000 for t in light.proto.graph.initializer)
    span = layout.span(0, layout.end)
    ends = [ValueSpec("x", "float32", (1, 40))], {}, [ValueSpec("y", "float32", (1, 40))]
    for alone in (True, False):
        folder = tmp_path / "alone" if alone else light.root
        folder.mkdir(exist_ok=True)
        part = onnxfile.cut(light, span.nodes, *ends, folder, alone=alone)
        assert len(part.files) == (1 if alone else 2)
        onnx.checker.check_model(str(part.path), full_check=True)
        loaded = onnx.load(part.path)
        np.testing.assert_array_equal(numpy_helper.to_array(loaded.graph.initializer[0]), w)
    whole = onnxfile.cut(file, span.nodes, *ends, tmp_path)
    assert whole.sha256 == onnxfile.cut(light, span.nodes, *ends, tmp_path / "m").sha256


def test_weights_that_lay_outside_already(tmp_path):
    file, layout = laid_out(
        tmp_path, "(float[1,40] x) => (float[1,40] y) { y = MatMul (x, w) }", {"w": np.eye(40, dtype=np.float32)}
    )
    (tmp_path / "outside" / "data").mkdir(parents=True)
    onnx.save_model(file.proto, tmp_path / "outside" / "m.onnx", save_as_external_data=True, location="data/w.bin")
    light = onnxfile.light(onnxfile.read(tmp_path / "outside" / "m.onnx"), tmp_path / "light")
    ends = [ValueSpec("x", "float32", (1, 40))], {}, [ValueSpec("y", "float32", (1, 40))]
    span = layout.span(0, 1)
    (tmp_path / "part").mkdir()
    linked = onnxfile.cut(light, span.nodes, *ends, tmp_path / "part", alone=False)
    assert linked.files == ("part.onnx", "data/w.bin")
    assert onnxfile.cut(light, span.nodes, *ends, tmp_path / "outside").files == ("part.onnx",)


def test_a_tensor_that_two_nodes_make_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"'a' is made by two nodes: .*Relu.* and .*Neg"):
        laid_out(tmp_path, "(float[2] x) => (float[2] y) { a = Relu (x)  a = Neg (x)  y = Exp (a) }")
