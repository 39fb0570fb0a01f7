"""Counts what a model computes, from its shapes: the usual figure, and the least that any runtime has to do.

`macs` is what papers print: multiply-adds of the direct algorithm, padding included, of every operator that an output
depends on and that does not depend on weights alone. It is what GFLOP/s are made of.

`least_macs` is for accusing: no runtime, however clever, does with fewer, one operator at a time. It leaves out
- what an operator can be spared (`operators`): padding, zeros, what fast algorithms save;
- nodes that say the same twice;
- what lies before a Slice, Gather or Split, as far as the rest of it is not needed elsewhere;
- every iteration of a loop, all but the cheaper branch of an If, and operators that it does not know (`uncounted`).

Bytes accuse nobody: a cache may hold all weights, and runtimes may pack them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, inliner, numpy_helper

from bench.cache import Cache, hash_files, key_of
from bench.errors import BenchError
from bench.interface import Array, Model
from bench.plausible.operators import COUNTERS, Scope, Shape

# Weights of this many elements and more are not shown to shape inference: it copies the whole model, up to 2 GB.
_SHOWN = 1024
_NARROW = (TensorProto.INT4, TensorProto.UINT4, TensorProto.FLOAT4E2M1)
_INDICES = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL, TensorProto.STRING)
# Operators of the default domain that compute much, and that are not counted. The others of it only move or map.
_HEAVY = frozenset({"Attention", "LinearAttention", "DeformConv", "DFT", "STFT", "Scan", "RotaryEmbedding"})
# Operators whose outputs hold only a part of their first input; parts of these two do not overlap as a rule.
_PARTS, _SELECTIONS = ("Slice", "Split"), ("Gather", "GatherND", "GatherElements", "Compress")
_HAND_ON = ("DequantizeLinear", "Cast", "Identity", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one inference: multiply-adds, the least of them, bytes of weights, inputs and outputs, and weights.

    `uncounted` names operators that count as nothing because they are not known, or their shapes are not.
    """

    macs: int
    least_macs: int
    bytes: int
    parameters: int
    uncounted: tuple[str, ...] = ()


def counted(model: Model, cache: Cache) -> Counts:
    """What the model does per inference; counted once, then kept.

    Raises:
        BenchError: it cannot be counted.
    """
    code = hash_files(Path(__file__).parent, ["operations.py", "operators.py"])

    def build(folder: Path) -> dict[str, Any]:
        return asdict(count(model.path))

    facts = cache.get("counts", key_of([model.sha256, code, onnx.__version__]), build, summary=model.name).facts
    return Counts(**{**facts, "uncounted": tuple(facts["uncounted"])})


def count(path: Path) -> Counts:
    """What the model in that file does per inference; what depends on dimensions left open counts as nothing.

    Raises:
        BenchError: onnx cannot read it.
    """
    try:
        return _count(path)
    except Exception as error:
        raise BenchError(f"the operations of {path.name} cannot be counted: {error}") from error


def _count(path: Path) -> Counts:
    proto = onnx.load(str(path), load_external_data=False)
    if proto.functions:
        proto = inliner.inline_local_functions(proto)
    weights = {t.name: _weight(t, path.parent) for t in proto.graph.initializer}
    _leave_out_weights(proto)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    scope = Scope({}, {n: w.density for n, w in weights.items()})
    work = _graph(proto.graph, scope)
    taken = [i for i in proto.graph.input if i.name not in weights]
    ends = sum(_value_bytes(value) for value in (*taken, *proto.graph.output))
    used = _weights_of(proto.graph, weights, work.live)
    return Counts(
        macs=work.macs,
        least_macs=math.floor(work.least),
        bytes=ends + sum(w.bytes for w, looked_up in used if not looked_up),
        parameters=sum(w.elements for w, _ in used if w.elem_type not in _INDICES),
        uncounted=tuple(sorted(work.uncounted)),
    )


@dataclass(frozen=True, slots=True)
class _Weight:
    """A tensor of the file. `density`: the share of its elements that are not zero."""

    elem_type: int
    elements: int
    bytes: int
    density: float


def _weight(tensor: Any, folder: Path) -> _Weight:
    elements = math.prod(tensor.dims)
    density = _density(numpy_helper.to_array(tensor, str(folder))) if elements >= _SHOWN else 1.0
    return _Weight(tensor.data_type, elements, math.ceil(elements * _item_bytes(tensor.data_type)), density)


def _density(array: Array) -> float:
    """Of 8-bit whole numbers the most frequent stands for zero: where it lies is a scale's matter."""
    if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
        return float(np.count_nonzero(array)) / array.size
    if array.dtype in (np.int8, np.uint8):
        return 1 - float(np.bincount(array.view(np.uint8).ravel()).max()) / array.size
    return 1.0


def _item_bytes(elem_type: int) -> float:
    if elem_type in (*_NARROW, TensorProto.STRING, TensorProto.UNDEFINED):
        return 0.5 if elem_type in _NARROW else 0
    return float(helper.tensor_dtype_to_np_dtype(elem_type).itemsize)


def _leave_out_weights(proto: Any) -> None:
    """Large weights become inputs, of which only type and shape are known."""
    graph = proto.graph
    given = {value.name for value in graph.input}
    kept = []
    for tensor in graph.initializer:
        if math.prod(tensor.dims) < _SHOWN:
            small = TensorProto()
            small.CopyFrom(tensor)
            kept.append(small)
        elif tensor.name not in given:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _weights_of(graph: Any, weights: Mapping[str, _Weight], live: set[str]) -> list[tuple[_Weight, bool]]:
    """The weights that live nodes read, and whether they are only looked up in (of a table, few rows are read)."""
    readers: dict[str, list[bool]] = {}
    found = dict(weights)
    for node in graph.node:
        if node.op_type == "Constant":
            found |= {name: _weight(a.t, Path()) for name in node.output for a in node.attribute if a.HasField("t")}
        if any(name in live for name in node.output):
            for index, name in enumerate(node.input):
                readers.setdefault(name, []).append(node.op_type == "Gather" and index == 0)
            for name in _captured(node):
                readers.setdefault(name, []).append(False)
    return [(weight, all(readers[name])) for name, weight in found.items() if name in readers]


def _value_bytes(value: Any) -> int:
    shape = _shape(value)
    return math.ceil(math.prod(shape) * _item_bytes(value.type.tensor_type.elem_type)) if shape is not None else 0


def _shape(value: Any) -> Shape | None:
    """The shape of a value, None where a part of it is not known."""
    kind = value.type.tensor_type
    if value.type.WhichOneof("value") != "tensor_type" or not kind.HasField("shape"):
        return None
    if any(not dim.HasField("dim_value") or dim.dim_value < 0 for dim in kind.shape.dim):
        return None
    return tuple(int(dim.dim_value) for dim in kind.shape.dim)


@dataclass(slots=True)
class _Work:
    """A graph's work. `live`: the values that an output depends on."""

    macs: int = 0
    least: float = 0.0
    uncounted: set[str] = field(default_factory=set)
    live: set[str] = field(default_factory=set)


def _graph(graph: Any, outer: Scope) -> _Work:
    known = {v.name: s for v in (*graph.input, *graph.value_info, *graph.output) if (s := _shape(v)) is not None}
    known |= {t.name: tuple(t.dims) for t in graph.initializer}
    scope = Scope(outer.shapes | known, {t.name: 1.0 for t in graph.initializer} | outer.constants)
    nodes = _worth_running(graph, scope)
    work = _Work()
    needed = _needed(graph, nodes, scope, work.live)
    for node in nodes:
        if any(name in work.live for name in node.output):
            share = max((needed.get(name, 0.0) for name in node.output), default=0.0)
            _add(work, node, share, scope)
    return work


def _worth_running(graph: Any, scope: Scope) -> list[Any]:
    """The nodes that cost something, in order: neither computable beforehand nor the same as one before.

    What is computable beforehand becomes a constant of the scope.
    """
    same: dict[str, str] = {}
    seen: dict[tuple[Any, ...], Any] = {}
    found = []
    for node in graph.node:
        names = [same.get(name, name) for name in node.input]
        if _is_constant(node, scope):
            handed_on = node.op_type in _HAND_ON and node.input
            density = scope.constants.get(node.input[0], 1.0) if handed_on else 1.0
            scope.constants.update(dict.fromkeys(node.output, density))
            continue
        attributes = tuple(sorted(a.SerializeToString(deterministic=True) for a in node.attribute))
        key = (node.domain, node.op_type, tuple(names), len(node.output), attributes)
        if not node.op_type.startswith(("Random", "Multinomial", "Bernoulli", "Dropout")) and key in seen:
            same |= dict(zip(node.output, (same.get(o, o) for o in seen[key].output), strict=True))
        seen.setdefault(key, node)
        found.append(node)
    twins = set(same)
    for node in found:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
    for value in graph.output:
        value.name = same.get(value.name, value.name)
    return [node for node in found if not twins.intersection(node.output)]


def _is_constant(node: Any, scope: Scope) -> bool:
    if node.op_type in ("Shape", "Size"):
        return node.input[0] in scope.shapes or node.input[0] in scope.constants
    return not _bodies(node) and all(name in scope.constants for name in node.input if name)


def _needed(graph: Any, nodes: Sequence[Any], scope: Scope, live: set[str]) -> dict[str, float]:
    """Of each value the share of its elements that the outputs depend on at least; `live` gets whatever they do."""
    needed: dict[str, float] = {value.name: 1.0 for value in graph.output}
    live.update(needed)
    for node in reversed(nodes):
        if not any(name in live for name in node.output):
            continue
        if node.op_type in ("Shape", "Size"):
            continue
        live.update(name for name in node.input if name)
        live.update(_captured(node))
        share = max((needed.get(name, 0.0) for name in node.output), default=0.0)
        for index, name in enumerate(node.input):
            if node.op_type in _PARTS and index == 0:
                needed[name] = min(1.0, needed.get(name, 0.0) + _part(node, needed, scope.shapes))
            elif node.op_type in _SELECTIONS and index == 0:
                needed[name] = max(needed.get(name, 0.0), min(1.0, _part(node, needed, scope.shapes)))
            elif node.op_type in ("Concat", "Pad"):
                needed[name] = max(needed.get(name, 0.0), _left_over(node, index, share, scope.shapes))
            elif node.op_type != "If":
                needed[name] = max(needed.get(name, 0.0), share)
        if node.op_type == "If":
            for name in set.intersection(*(_free(body) for body in _bodies(node))):
                needed[name] = max(needed.get(name, 0.0), share)
    return needed


def _part(node: Any, needed: Mapping[str, float], shapes: Mapping[str, Shape]) -> float:
    """Of the first input, what the needed outputs hold of it."""
    whole = shapes.get(node.input[0])
    if whole is None or any(name and name not in shapes for name in node.output):
        return 0.0
    taken = sum(needed.get(name, 0.0) * math.prod(shapes[name]) for name in node.output if name)
    return taken / max(1, math.prod(whole))


def _left_over(node: Any, index: int, share: float, shapes: Mapping[str, Shape]) -> float:
    """Of one input what must be needed of it, even if all of the others and of the padding were needed first."""
    whole, own = shapes.get(node.output[0]), shapes.get(node.input[index])
    if share >= 1:
        return 1.0
    if whole is None or own is None or not math.prod(own):
        return 0.0
    others = math.prod(whole) - math.prod(own)
    return max(0.0, (share * math.prod(whole) - others) / math.prod(own))


def _bodies(node: Any) -> list[Any]:
    return [a.g for a in node.attribute if a.HasField("g")]


def _captured(node: Any) -> set[str]:
    return set().union(*(_free(body) for body in _bodies(node)))


def _free(graph: Any) -> set[str]:
    """The names that a body takes from around it."""
    used = {name for node in graph.node for name in node.input if name} | {value.name for value in graph.output}
    used |= {name for node in graph.node for name in _captured(node)}
    made = {name for node in graph.node for name in node.output}
    return used - made - {value.name for value in (*graph.input, *graph.initializer)}


def _add(work: _Work, node: Any, share: float, scope: Scope) -> None:
    if node.op_type == "If":
        branches = [_graph(body, scope) for body in _bodies(node)]
        cheapest = min(branches, key=lambda b: b.macs)
        work.macs += cheapest.macs
        work.least += share * min(b.least for b in branches)
        work.uncounted |= set().union(*(b.uncounted for b in branches))
        return
    standard = node.domain in ("", "ai.onnx", "ai.onnx.ml")
    counter = COUNTERS.get(node.op_type)
    if counter is None:
        if not standard or node.op_type in _HEAVY or node.op_type == "Loop":
            work.uncounted.add(node.op_type)
        return
    try:
        macs, least = counter(node, scope)
    except KeyError:
        work.uncounted.add(f"{node.op_type} (shapes unknown)")
        return
    work.macs += macs
    work.least += share * least
