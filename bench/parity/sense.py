"""Whether reference outputs can prove anything: finite, not empty, not zero, and moved by the input.

Pure numpy, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bench.interface import Array, Outputs, Value
from bench.parity.numbers import Numbers

# Below this share of its norm, an output that should follow its input does not.
BLIND = 0.01


def not_finite(sets: Sequence[Outputs]) -> list[str]:
    """The names of the outputs that hold a NaN or an infinity in any of these sets."""
    names = {name for outputs in sets for name, value in outputs.items() if any(_odd(n) for n in leaves(value))}
    return sorted(names)


def _odd(numbers: Numbers) -> bool:
    return numbers.floating and not bool(np.isfinite(numbers.part(0, numbers.size)).all())


def empty_of_proof(sets: Sequence[Outputs]) -> list[str]:
    """The names of the outputs that are empty, absent, or zero everywhere in all of these sets."""
    names = sets[0].keys() if sets else ()
    return sorted(name for name in names if not any(_says(n) for outputs in sets for n in leaves(outputs.get(name))))


def _says(numbers: Numbers) -> bool:
    return numbers.kind in "OUST" or bool(np.any(numbers.part(0, numbers.size)))


def leaves(value: Any) -> Iterator[Numbers]:
    """The tensors of a value, those inside sequences and maps included; a map of plain numbers is one tensor."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        if value and all(isinstance(v, (int, float, str)) for v in value):
            yield Numbers(np.array(value))
        else:
            for item in value:
                yield from leaves(item)
    elif value is not None:
        yield Numbers(value)


def movement(first: Outputs, second: Outputs) -> float | None:
    """By what share of its norm the output that moves most differs between two inputs; None where it cannot be told."""
    moved = [m for name in first if (m := _moved(first[name], second.get(name))) is not None]
    return max(moved) if moved else None


def _moved(first: Value, second: Value) -> float | None:
    pairs = list(zip(leaves(first), leaves(second), strict=False))
    known = [m for a, b in pairs if (m := _distance(a, b)) is not None]
    return max(known) if known else None


def _distance(first: Numbers, second: Numbers) -> float | None:
    if first.shape != second.shape or first.kind not in "fiub" or second.kind not in "fiub" or not first.size:
        return None
    a, b = (n.part(0, n.size).astype(np.float64) for n in (first, second))
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    exponent = math.frexp(max(float(np.abs(a).max()), float(np.abs(b).max())))[1]
    with np.errstate(under="ignore"):
        a, b = np.ldexp(a, -exponent), np.ldexp(b, -exponent)
        norm = math.sqrt(_square(a))
        moved = math.sqrt(_square(a - b)) / norm if norm else (1.0 if b.any() else 0.0)
    return moved if math.isfinite(moved) else None


def _square(array: Array) -> float:
    """Without BLAS: its threads would go on spinning beside a timed loop."""
    return float(np.sum(array * array))
