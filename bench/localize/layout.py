"""Where a graph can be cut: its nodes in running order, and the tensors that cross each place between two of them.

A place that a single tensor crosses is a dominator of what follows: all paths go through it. The places are 0 (before
the first node) to N (after the last). What depends on no input is no node to search: it comes along where it is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.interface import Signature, ValueSpec
from bench.onnxfile import Node

# Their answers jump where their inputs move a little: a near tie turns over, and no runtime is to blame.
# Source: ONNX's operators; all of them give indices, or pick by comparison.
ORDER_SENSITIVE = frozenset({"ArgMax", "ArgMin", "NonMaxSuppression", "NonZero", "TopK", "Unique"})
# They read the shape of a tensor, never its values.
_SHAPE_READERS = frozenset({"Shape", "Size"})
# What a tensor that runtimes may not take as an input weighs when a place to cut is chosen, next to one that they do.
_AWKWARD = 16
_WELL_TAKEN = ("float32", "float16", "float64")


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a model: nodes in running order, what they are fed, and what is asked of them."""

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The searchable graph of one model.

    `nodes[i]` is what lies between the places i and i + 1. `through[i]` are the tensors made before the place i that
    nodes after it read. `unused` are nodes that no output depends on.
    """

    nodes: tuple[Node, ...]
    through: tuple[tuple[str, ...], ...]
    made: Mapping[str, int]
    outputs: tuple[str, ...]
    unused: tuple[Node, ...]
    types: Mapping[str, ValueSpec]
    weights: frozenset[str]
    _maker: Mapping[str, Node] = field(repr=False)
    _from_shapes: frozenset[str] = field(repr=False)

    @property
    def end(self) -> int:
        """The place after the last node."""
        return len(self.nodes)

    def cost(self, place: int) -> int:
        """How awkward a cut is here: 1 is best, a single tensor of a type that every runtime takes."""
        return sum(1 if self._taken(name) else _AWKWARD for name in self.through[place])

    def awkward(self, place: int) -> bool:
        """Whether a tensor crosses that some runtimes cannot be fed, or asked for."""
        return not all(self._taken(name) for name in self.through[place])

    def _taken(self, name: str) -> bool:
        spec = self.types.get(name)
        return spec is None or (spec.kind == "tensor" and spec.dtype in _WELL_TAKEN)

    def barriers(self, start: int) -> list[int]:
        """The places before order-sensitive nodes, from `start` on."""
        return [i for i in range(start, self.end) if self.nodes[i].op in ORDER_SENSITIVE]

    def targets(self, start: int, end: int) -> tuple[str, ...]:
        """What nodes between two places make that is read after them, or is an output of the model."""
        wanted = dict.fromkeys((*self.outputs, *self.through[end]))
        return tuple(name for name in wanted if start < self.made.get(name, 0) <= end)

    def span(self, start: int, end: int, *, last_only: bool = False) -> Span:
        """The part between two places; `last_only`: no more of it than its last node needs."""
        targets = self.targets(start, end)
        if last_only:
            last = self.nodes[end - 1].outputs
            targets = tuple(name for name in targets if name in last)
        return self.part(start, targets)

    def part(self, start: int, targets: Sequence[str]) -> Span:
        """What makes `targets` out of the tensors that cross the place `start`."""
        taken: dict[int, Node] = {}
        inputs: dict[str, None] = {}
        constants: dict[str, None] = {}
        waiting = list(targets)
        seen = set(waiting)
        while waiting:
            name = waiting.pop()
            node = self._maker.get(name)
            if name in self.weights and node is None:
                continue
            if start and name in self._from_shapes:
                constants[name] = None
            elif node is None or 0 <= self.made.get(name, -1) <= start:
                inputs[name] = None
            elif node.index not in taken:
                taken[node.index] = node
                waiting += [other for other in node.inputs if other not in seen]
                seen.update(node.inputs)
        order = {node.index: rank for rank, node in enumerate(self._running())}
        nodes = tuple(sorted(taken.values(), key=lambda node: order[node.index]))
        first = {name: rank for rank, name in enumerate(self.through[0])}
        ordered = sorted(inputs, key=lambda name: (self.made.get(name, 0), first.get(name, 0), name))
        return Span(nodes, tuple(ordered), tuple(sorted(constants)), tuple(targets))

    def _running(self) -> list[Node]:
        return list({node.index: node for node in self._maker.values()}.values())


def lay_out(
    nodes: Sequence[Node], signature: Signature, weights: frozenset[str], types: Mapping[str, ValueSpec]
) -> Layout:
    """The layout of a graph whose nodes come in running order."""
    maker = {name: node for node in nodes for name in node.outputs}
    outputs = tuple(spec.name for spec in signature.outputs)
    needed = _needed(outputs, maker)
    fed = {spec.name for spec in signature.inputs}
    moving: set[str] = set(fed)
    from_shapes: set[str] = set()
    searched: list[Node] = []
    for node in nodes:
        if not needed & set(node.outputs):
            continue
        if node.op in _SHAPE_READERS and set(node.inputs) & (moving | from_shapes):
            from_shapes |= set(node.outputs)
        elif set(node.inputs) & moving:
            moving |= set(node.outputs)
            searched.append(node)
        elif set(node.inputs) & from_shapes:
            from_shapes |= set(node.outputs)
    made = dict.fromkeys(fed, 0) | {name: i + 1 for i, node in enumerate(searched) for name in node.outputs}
    unused = tuple(node for node in nodes if not needed & set(node.outputs))
    through = _through(searched, made, fed)
    return Layout(tuple(searched), through, made, outputs, unused, types, weights, maker, frozenset(from_shapes))


def _needed(outputs: Sequence[str], maker: Mapping[str, Node]) -> set[str]:
    """Every tensor that an output depends on."""
    needed, waiting = set(outputs), list(outputs)
    while waiting:
        node = maker.get(waiting.pop())
        for name in node.inputs if node else ():
            if name not in needed:
                needed.add(name)
                waiting.append(name)
    return needed


def _through(searched: Sequence[Node], made: Mapping[str, int], fed: set[str]) -> tuple[tuple[str, ...], ...]:
    last_read = {name: i for i, node in enumerate(searched) for name in node.inputs if name in made}
    found = []
    crossing = {name: None for name in made if name in fed and name in last_read}
    for place in range(len(searched) + 1):
        if place:
            crossing |= {name: None for name in searched[place - 1].outputs if name in last_read}
        crossing = {name: None for name in crossing if last_read[name] >= place}
        found.append(tuple(crossing))
    return tuple(found)
