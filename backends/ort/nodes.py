"""Which node ran on which provider, read from ONNX Runtime's own profile of a run, and whether that was allowed.

ONNX Runtime puts nodes on the CPU for two reasons: they compute shapes, which the CPU needs anyway, or the provider
that was asked for has no kernel for them. The first is right and cheap. The second is a silent fallback.
Source: profiles written by onnxruntime 1.31.1, November 2026.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import RunError

CPU = "CPUExecutionProvider"
_SUFFIX = "_kernel_time"
# They read the shape of a tensor, not its values.
_OF_SHAPES = frozenset({"Shape", "Size"})
_WHOLE = frozenset({"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})
# A shape has as many elements as a tensor has dimensions, an index list of a shape computation not many more.
_MOST_ELEMENTS = 64


@dataclass(frozen=True, slots=True)
class Node:
    """One node that ran: where, and on tensors of which type and number of elements."""

    name: str
    op: str
    provider: str
    inputs: tuple[tuple[str, int], ...]
    outputs: tuple[tuple[str, int], ...]

    def computes_shapes(self) -> bool:
        """Whether it works on a few whole numbers alone, as what computes shapes does."""
        read = () if self.op in _OF_SHAPES else self.inputs
        return all(kind in _WHOLE and count <= _MOST_ELEMENTS for kind, count in (*read, *self.outputs))


def read(profile: Path) -> list[Node]:
    """The nodes of a profile in the order in which they ran, each once.

    Raises:
        RunError: it is no profile, or names no node.
    """
    try:
        events = json.loads(profile.read_text(errors="replace"))
        found = [_node(e) for e in events if e.get("cat") == "Node" and str(e.get("name", "")).endswith(_SUFFIX)]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(f"onnxruntime's profile cannot be read, so where nodes ran is not known: {error}") from error
    return list({(node.name, node.provider): node for node in found}.values())


def _node(event: dict[str, Any]) -> Node:
    told = event["args"]
    read_, written = _tensors(told.get("input_type_shape", ())), _tensors(told.get("output_type_shape", ()))
    return Node(event["name"].removesuffix(_SUFFIX), told["op_name"], told["provider"], read_, written)


def _tensors(told: Iterable[dict[str, Sequence[int]]]) -> tuple[tuple[str, int], ...]:
    found = []
    for tensor in told:
        for kind, shape in tensor.items():
            count = 1
            for size in shape:
                count *= size
            found.append((kind, count))
    return tuple(found)


def counts(nodes: Iterable[Node]) -> dict[str, int]:
    """How many ran on each provider."""
    return dict(Counter(node.provider for node in nodes))


def judge(nodes: Sequence[Node], provider: str, *, allow: bool) -> tuple[str, ...]:
    """In words, the nodes that ran elsewhere than on `provider`.

    Raises:
        RunError: one of them computes more than shapes, and that is not allowed.
    """
    elsewhere = [node for node in nodes if node.provider != provider]
    compute = [node for node in elsewhere if not node.computes_shapes()]
    if compute and not allow:
        ops = ", ".join(f"{op} ({count})" for op, count in Counter(node.op for node in compute).most_common(8))
        first = compute[0]
        raise RunError(
            f"{len(compute)} of {len(nodes)} nodes ran on {first.provider}, not on {provider}: {ops}; "
            f"the first is {first.name!r}",
            "measure them where they ran with option cpu_nodes=any; the record then lists them",
        )
    words = {True: "shapes", False: "compute"}
    return tuple(f"{n.op} {n.name} on {n.provider} ({words[n.computes_shapes()]})" for n in elsewhere)
