"""ncnn's text format: the layers of a .param file and which of them this ncnn can run.

Imports no runtime by itself: a host that only converts need not have ncnn.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Layer:
    """One line: what it computes, its name, the blobs it reads and writes, and its parameters `id=value`."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]

    def parameter(self, key: int) -> str | None:
        """The text of one parameter, None where the file leaves the default."""
        for item in self.parameters:
            number, _, value = item.partition("=")
            if number == str(key):
                return value
        return None


def read(path: Path) -> tuple[Layer, ...]:
    """The layers of a .param file, in order; those of pnnx's own format look alike.

    Raises:
        ValueError: it is not such a file.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) < 2 or lines[0].strip() != "7767517":
        raise ValueError(f"{path.name} has not ncnn's magic")
    return tuple(_layer(line.split()) for line in lines[2:] if line.strip())


def _layer(words: Sequence[str]) -> Layer:
    kind, name, count_in, count_out = words[:4]
    first_out = 4 + int(count_in)
    end = first_out + int(count_out)
    if len(words) < end:
        raise ValueError(f"layer {name} names fewer blobs than it counts")
    return Layer(kind, name, tuple(words[4:first_out]), tuple(words[first_out:end]), tuple(words[end:]))


def unknown(layers: Sequence[Layer], ncnn: Any) -> tuple[Layer, ...]:
    """The layers for which this ncnn has no implementation."""
    kinds = {layer.kind for layer in layers}
    # Some names are listed and yet not built (ArgMax): only creating one tells.
    missing = {kind for kind in kinds if ncnn.layer_to_index(kind) < 0 or ncnn.create_layer(kind) is None}
    return tuple(layer for layer in layers if layer.kind in missing)


def consumers(layers: Sequence[Layer], blob: str) -> Iterator[Layer]:
    """The layers that read a blob, seen through the Split layers that only copy it."""
    for layer in layers:
        if blob not in layer.inputs:
            continue
        if layer.kind != "Split":
            yield layer
            continue
        for copy in layer.outputs:
            yield from consumers(layers, copy)
