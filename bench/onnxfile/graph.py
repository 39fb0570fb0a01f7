"""The graph of a model as plain values: its nodes in an order in which they can run, and the types of its tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import onnx
from onnx import AttributeProto, helper

from bench.errors import UsageError
from bench.interface import ValueSpec
from bench.onnxfile.file import OnnxFile, dtype_name, value_spec

# Weights up to this size may decide shapes, and stay in what shape inference is given.
_SMALL_BYTES = 1 << 10
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Node:
    """One operator. `inputs` are all the tensors that it reads, those that its subgraphs capture too."""

    index: int
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """What it is called in messages: names are optional in ONNX, outputs are unique."""
        return f"{self.op} {self.name or f'that makes {self.outputs[0]}'!r}" if self.outputs else self.op


def nodes(file: OnnxFile) -> tuple[Node, ...]:
    """Every node, each after those that it needs; in the file's own order where that is possible.

    Raises:
        UsageError: the nodes need each other in a circle, or two make the same tensor.
    """
    waiting = [_node(index, proto) for index, proto in enumerate(file.proto.graph.node)]
    made_by: dict[str, int] = {}
    for node in waiting:
        for name in node.outputs:
            if made_by.setdefault(name, node.index) != node.index:
                twice = f"{waiting[made_by[name]].label} and {node.label}"
                raise UsageError(
                    f"{file.files[0]}: {name!r} is made by two nodes: {twice}",
                    "no runtime can tell which is meant; export the model again",
                )
    done: set[int] = set()
    ordered: list[Node] = []
    while waiting:
        left = []
        for node in waiting:
            if all(made_by.get(name, -1) in done or name not in made_by for name in node.inputs):
                done.add(node.index)
                ordered.append(node)
            else:
                left.append(node)
        if len(left) == len(waiting):
            circle = ", ".join(node.label for node in left[:4])
            raise UsageError(
                f"{file.files[0]}: its graph has a circle: {circle} need each other",
                "no runtime can order such a graph; export the model again",
            )
        waiting = left
    return tuple(ordered)


def _node(index: int, proto: Any) -> Node:
    return Node(
        index,
        proto.name,
        proto.op_type,
        proto.domain,
        tuple(dict.fromkeys([*filter(None, proto.input), *_captured(proto)])),
        tuple(filter(None, proto.output)),
        tuple((a.name, _words(a)) for a in proto.attribute),
    )


def _captured(proto: Any) -> Iterator[str]:
    """The names that the node's subgraphs read and do not make: they come from the graph around them."""
    for attribute in proto.attribute:
        for graph in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
            inside = {value.name for value in (*graph.input, *graph.initializer)}
            inside |= {name for node in graph.node for name in node.output}
            read = [name for node in graph.node for name in (*node.input, *_captured(node))]
            yield from (name for name in (*read, *(o.name for o in graph.output)) if name and name not in inside)


def _words(attribute: Any) -> str:
    """An attribute's value, short enough to be read."""
    if attribute.type == AttributeProto.TENSOR:
        return f"{dtype_name(attribute.t.data_type)}{list(attribute.t.dims)}"
    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        graphs = [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs
        return " and ".join(f"a graph of {len(graph.node)} nodes" for graph in graphs)
    value = helper.get_attribute_value(attribute)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def weights(file: OnnxFile) -> frozenset[str]:
    """The tensors that the file itself holds."""
    graph = file.proto.graph
    return frozenset({t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer})


def types(file: OnnxFile) -> Mapping[str, ValueSpec]:
    """The types of the tensors, as far as the file and shape inference tell them."""
    bones = _without_weights(file.proto)
    try:
        bones = onnx.shape_inference.infer_shapes(bones, data_prop=True)
    except Exception:  # noqa: BLE001 - inference is a help, not a need: what it leaves open is taken from the values
        pass
    graph = bones.graph
    return {info.name: value_spec(info) for info in (*graph.input, *graph.value_info, *graph.output)}


def _without_weights(proto: Any) -> Any:
    """The model with large weights as inputs: inference would copy them, several times."""
    bones = onnx.ModelProto(ir_version=proto.ir_version)
    bones.opset_import.extend(proto.opset_import)
    bones.functions.extend(proto.functions)
    graph, whole = bones.graph, proto.graph
    graph.name = whole.name or "graph"
    graph.node.extend(whole.node)
    graph.output.extend(whole.output)
    graph.value_info.extend(whole.value_info)
    large = [t for t in whole.initializer if t.ByteSize() > _SMALL_BYTES]
    graph.initializer.extend(t for t in whole.initializer if t.ByteSize() <= _SMALL_BYTES)
    known = {t.name for t in whole.initializer}
    graph.input.extend(i for i in whole.input if i.name not in known)
    graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in large)
    return bones
