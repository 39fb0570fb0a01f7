"""Compares outputs with reference outputs, element by element. A miss is data, never an exception.

Pure numpy, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.interface import Outputs, Packed, Value
from bench.parity.distance import Distances, distances
from bench.parity.numbers import STEPS, Numbers
from bench.parity.ranking import agreement
from bench.parity.tolerance import TOLERANCES, Tolerance, parse_tolerance

__all__ = ["TOLERANCES", "OutputParity", "ParityReport", "Tolerance", "compare", "parse_tolerance"]

# Whole numbers, texts: elements that are looked at together.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class OutputParity:
    """The figures of one output. Errors are over the elements that are finite on both sides.

    `exceed` is the largest error as a multiple of what was allowed there: up to 1 passes. `worst` is where that is.
    `top1` and `top5` are of outputs that rank classes (`bench/parity/ranking.py`). A figure is None where there is
    nothing to measure or no number can say it; figures are never NaN or infinite.
    """

    name: str
    passed: bool
    problem: str = ""
    max_abs: float | None = None
    max_rel_scale: float | None = None
    rms: float | None = None
    cosine: float | None = None
    exceed: float | None = None
    share_out: float | None = None
    worst: tuple[int, ...] | None = None
    worst_got: float | None = None
    worst_expected: float | None = None
    nan: int = 0
    shape_ok: bool = True
    snr_db: float | None = None
    top1: float | None = None
    top5: float | None = None


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The verdict over all outputs. `grade` is the tightest named tolerance that everything passes, or `wrong`."""

    passed: bool
    grade: str
    tolerance: Tolerance
    outputs: tuple[OutputParity, ...] = field(default=())

    @property
    def max_rel_scale(self) -> float | None:
        """The largest error of any output, relative to that output's own scale."""
        known = [o.max_rel_scale for o in self.outputs if o.max_rel_scale is not None]
        return max(known) if known else None

    @property
    def problem(self) -> str:
        """In words, what is wrong with the first output that is; empty when all pass."""
        if not self.outputs:
            return "there is no output to judge by"
        return next((f"{o.name}: {o.problem}" for o in self.outputs if not o.passed), "")


@dataclass(frozen=True, slots=True)
class _Judged:
    """An output's figures, and which of the named tolerances it passes."""

    output: OutputParity
    passes: frozenset[str]


_EVERY = frozenset(TOLERANCES)
_NONE: frozenset[str] = frozenset()


def compare(expected: Outputs, got: Outputs, tolerance: Tolerance) -> ParityReport:
    """The verdict on `got`. Outputs that were not expected are ignored; expected ones that are missing fail."""
    judged = [_one(name, value, got, tolerance) for name, value in expected.items()]
    passed = bool(judged) and all(j.output.passed for j in judged)
    common = _EVERY.intersection(*(j.passes for j in judged)) if judged else _NONE
    grade = next((name for name in TOLERANCES if name in common), "wrong")
    return ParityReport(passed, grade, tolerance, tuple(j.output for j in judged))


def _one(name: str, expected: Value, got: Outputs, tolerance: Tolerance) -> _Judged:
    if name not in got:
        return _misshapen(name, "it is missing")
    return _value(name, expected, got[name], tolerance)


def _misshapen(name: str, problem: str) -> _Judged:
    return _Judged(OutputParity(name, False, problem, shape_ok=False), _NONE)


def _same(name: str) -> _Judged:
    """Nothing to measure, and nothing wrong."""
    return _Judged(OutputParity(name, True, exceed=0.0), _EVERY)


def _value(name: str, expected: Any, got: Any, tolerance: Tolerance) -> _Judged:
    """Sequences and maps are judged item by item: the worst item stands for all."""
    if _kind(expected) != _kind(got):
        return _misshapen(name, f"it is {_kind(got)}, not {_kind(expected)}")
    if expected is None:
        return _same(name)
    if not isinstance(expected, (list, dict)):
        return _array(name, expected, got, tolerance)
    if len(expected) != len(got):
        return _misshapen(name, f"it has {len(got)} items, not {len(expected)}")
    if isinstance(expected, dict):
        if expected.keys() != got.keys():
            return _misshapen(name, "its map has other keys")
        expected, got = list(expected.values()), [got[key] for key in expected]
    if expected and all(_is_number(v) for v in (*expected, *got)):
        return _array(name, np.array(expected), np.array(got), tolerance)
    judged = [_value(name, e, g, tolerance) for e, g in zip(expected, got, strict=True)]
    if not judged:
        return _same(name)
    return _Judged(max(judged, key=_badness).output, _EVERY.intersection(*(j.passes for j in judged)))


def _kind(value: Any) -> str:
    if value is None:
        return "absent"
    return "a sequence" if isinstance(value, list) else "a map" if isinstance(value, dict) else "a tensor"


def _is_number(value: Any) -> bool:
    """Python's own numbers: a map of them (class probabilities) is judged as one tensor."""
    return isinstance(value, (int, float)) and not isinstance(value, (bool, np.generic))


def _badness(judged: _Judged) -> tuple[bool, float]:
    output = judged.output
    return (not output.passed, math.inf if output.exceed is None else output.exceed)


def _array(name: str, expected: Any, got: Any, tolerance: Tolerance) -> _Judged:
    reference, value = Numbers(expected), Numbers(got)
    if reference.shape != value.shape:
        return _misshapen(name, f"its shape is {list(value.shape)}, not {list(reference.shape)}")
    if reference.dtype != value.dtype:
        return _misshapen(name, f"its type is {value.dtype}, not {reference.dtype}")
    if not reference.size:
        return _same(name)
    if reference.floating:
        return _floats(name, reference, value, tolerance)
    return _exact(name, expected, got)


def _exact(name: str, expected: Any, got: Any) -> _Judged:
    shape = (expected.bits if isinstance(expected, Packed) else np.asarray(expected)).shape
    flat, value = (np.asarray(v.bits if isinstance(v, Packed) else v).reshape(-1) for v in (expected, got))
    count, first = 0, -1
    for at in range(0, flat.size, _CHUNK):
        differ = np.asarray(flat[at : at + _CHUNK] != value[at : at + _CHUNK])
        if here := int(np.count_nonzero(differ)):
            first = first if count else at + int(np.argmax(differ))
            count += here
    if not count:
        return _Judged(
            OutputParity(name, True, max_abs=0.0, max_rel_scale=0.0, rms=0.0, exceed=0.0, share_out=0.0), _EVERY
        )
    worst = _index(first, shape)
    words = (_words(value[first]), _words(flat[first]))
    problem = f"{count} of {flat.size} elements differ, the first at {list(worst)}: {words[0]}, not {words[1]}"
    return _Judged(OutputParity(name, False, problem, share_out=count / flat.size, worst=worst), _NONE)


def _words(element: Any) -> str:
    """An element in a message: short, whatever it holds."""
    text = repr(element.item() if isinstance(element, np.generic) else element)
    return text if len(text) <= 40 else f"{text[:39]}…"


def _floats(name: str, expected: Numbers, got: Numbers, tolerance: Tolerance) -> _Judged:
    judges = (tolerance, *TOLERANCES.values())
    step = STEPS.get(expected.dtype, 0.0)
    found = distances(expected, got, [(max(t.rtol, step), t.atol_of_scale) for t in judges])
    worst = found.first_strange if found.strange else found.worst
    index = _index(worst, expected.shape)
    passed = not found.out
    top1, top5 = agreement(expected, got)
    output = OutputParity(
        name,
        passed,
        "" if passed else _problem(found, expected, got, index, tolerance),
        max_abs=_finite(found.max_abs) if found.finite else None,
        max_rel_scale=_finite(found.relative) if found.finite else None,
        rms=_finite(found.rms) if found.finite else None,
        cosine=_finite(found.cosine),
        exceed=None if found.strange else _finite(found.exceed[0]),
        share_out=found.out / expected.size,
        worst=index,
        worst_got=_number(got.at(worst)),
        worst_expected=_number(expected.at(worst)),
        nan=found.strange,
        snr_db=_finite(found.snr_db),
        top1=top1,
        top5=top5,
    )
    return _Judged(output, _passed(found.exceed[1:], found.strange))


def _passed(exceed: Sequence[float], strange: int) -> frozenset[str]:
    return frozenset(name for name, most in zip(TOLERANCES, exceed, strict=True) if most <= 1 and not strange)


def _problem(found: Distances, expected: Numbers, got: Numbers, index: tuple[int, ...], tolerance: Tolerance) -> str:
    at = found.first_strange if found.strange else found.worst
    there = f"at {list(index)}, is {got.at(at):.6g}, not {expected.at(at):.6g}"
    if found.strange:
        what = f"{found.strange} of {expected.size} elements are NaN or infinite on one side only"
        return f"{what}; the first, {there}"
    if not math.isfinite(found.relative):
        return f"the worst, {there}, and the reference has no scale to compare with: it is zero everywhere"
    off = f"off by {found.relative:.2g} of its scale; the worst, {there}"
    if not math.isfinite(found.exceed[0]):
        return f"{off}: {tolerance.name} allows no difference there"
    return f"{off}: {found.exceed[0]:.3g} times what {tolerance.name} allows"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float | None:
    number = value.item()
    return _finite(math.hypot(number.real, number.imag) if isinstance(number, complex) else float(number))


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))
