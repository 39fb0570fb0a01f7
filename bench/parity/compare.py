"""Compares outputs with reference outputs, element by element. A miss is data, never an exception.

Pure numpy, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.interface import Array, Outputs, Packed, Value


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element passes when |got - ref| <= rtol * |ref| + atol_of_scale * max|ref of its output|."""

    name: str
    rtol: float
    atol_of_scale: float
    reason: str


# Starting points. Each precision's error grows with the depth of the net, so these leave room above one rounding.
TOLERANCES: Mapping[str, Tolerance] = {
    t.name: t
    for t in (
        Tolerance(
            "fp32", 1e-3, 2e-4, "another order of fp32 additions; right runtimes stay below 1e-4 of scale on the zoo"
        ),
        Tolerance(
            "fp16", 1e-2, 1e-2, "11 bits of mantissa (tf32 too): one rounding is 5e-4, deep nets add up to some 3e-3"
        ),
        Tolerance("bf16", 5e-2, 5e-2, "8 bits of mantissa: one rounding is 4e-3"),
        Tolerance("int8", 1e-1, 1e-1, "256 levels per tensor: half a step is 2e-3 of scale, and a net has many"),
    )
}
# Below this share of its norm, an output that should follow its input does not.
BLIND = 0.01
# Elements that are looked at together: outputs of any size are judged in a few dozen MiB.
_CHUNK = 1 << 18


@dataclass(frozen=True, slots=True)
class OutputParity:
    """The figures of one output. Errors are over the elements that are finite on both sides.

    `exceed` is the largest error as a multiple of what was allowed there: up to 1 passes. `worst` is where that is.
    A figure is None where there is nothing to measure or no number can say it; figures are never NaN or infinite.
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


def parse_tolerance(text: str) -> Tolerance:
    """`fp16`, or `rtol,atol_of_scale` as two numbers.

    Raises:
        ValueError: neither; its text names what is known.
    """
    if text in TOLERANCES:
        return TOLERANCES[text]
    if text == "tf32":
        return TOLERANCES["fp16"]
    try:
        rtol, atol = (float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"a tolerance is one of {', '.join(TOLERANCES)}, tf32, or rtol,atol (0.01,0.01)") from None
    if not (0 <= rtol < math.inf and 0 <= atol < math.inf):
        raise ValueError("a tolerance is made of two finite numbers that are not negative")
    return Tolerance(f"{rtol:g},{atol:g}", rtol, atol, "given on the command line")


def compare(expected: Outputs, got: Outputs, tolerance: Tolerance) -> ParityReport:
    """The verdict on `got`. Outputs that were not expected are ignored; expected ones that are missing fail."""
    outputs = tuple(_one(name, value, got, tolerance) for name, value in expected.items())
    passed = bool(outputs) and all(o.passed for o in outputs)
    return ParityReport(passed, _grade(expected, got, outputs, tolerance), tolerance, outputs)


def _grade(expected: Outputs, got: Outputs, outputs: tuple[OutputParity, ...], used: Tolerance) -> str:
    if not outputs or any(not o.shape_ok or o.nan for o in outputs):
        return "wrong"
    for tolerance in TOLERANCES.values():
        again = outputs if tolerance == used else (_one(n, v, got, tolerance) for n, v in expected.items())
        if all(o.passed for o in again):
            return tolerance.name
    return "wrong"


def _one(name: str, expected: Value, got: Outputs, tolerance: Tolerance) -> OutputParity:
    if name not in got:
        return OutputParity(name, False, "it is missing", shape_ok=False)
    return _value(name, expected, got[name], tolerance)


def _value(name: str, expected: Any, got: Any, tolerance: Tolerance) -> OutputParity:
    """Sequences and maps are judged item by item: the worst item stands for all."""
    if _kind(expected) != _kind(got):
        return OutputParity(name, False, f"it is {_kind(got)}, not {_kind(expected)}", shape_ok=False)
    if expected is None:
        return OutputParity(name, True, exceed=0.0)
    if not isinstance(expected, (list, dict)):
        return _array(name, expected, got, tolerance)
    if len(expected) != len(got):
        return OutputParity(name, False, f"it has {len(got)} items, not {len(expected)}", shape_ok=False)
    if isinstance(expected, dict):
        if expected.keys() != got.keys():
            return OutputParity(name, False, "its map has other keys", shape_ok=False)
        expected, got = list(expected.values()), [got[key] for key in expected]
    if expected and all(_is_number(v) for v in (*expected, *got)):
        return _array(name, np.array(expected), np.array(got), tolerance)
    judged = [_value(name, e, g, tolerance) for e, g in zip(expected, got, strict=True)]
    return max(judged, key=_badness, default=OutputParity(name, True, exceed=0.0))


def _kind(value: Any) -> str:
    if value is None:
        return "absent"
    return "a sequence" if isinstance(value, list) else "a map" if isinstance(value, dict) else "a tensor"


def _is_number(value: Any) -> bool:
    """Python's own numbers: a map of them (class probabilities) is judged as one tensor."""
    return isinstance(value, (int, float)) and not isinstance(value, (bool, np.generic))


def _badness(o: OutputParity) -> tuple[bool, float]:
    return (not o.passed, math.inf if o.exceed is None else o.exceed)


def _type(value: Any) -> str:
    """The name of a tensor's element type; all texts are one type, however numpy holds them."""
    if isinstance(value, Packed):
        return value.dtype
    return "string" if value.dtype.kind in "OUST" else str(value.dtype.name)


def _plain(value: Any) -> Array:
    """The numbers of a tensor; bfloat16 is widened, float8 is left as its bits and so compared exactly."""
    if isinstance(value, Packed):
        if value.dtype == "bfloat16":
            return np.asarray(np.asarray(value.bits).astype(np.uint32) << 16).view(np.float32)
        return np.asarray(value.bits)
    return np.asarray(value)


def _array(name: str, expected: Any, got: Any, tolerance: Tolerance) -> OutputParity:
    expected, got = (v if isinstance(v, Packed) else np.asarray(v) for v in (expected, got))
    reference, value = _plain(expected), _plain(got)
    if reference.shape != value.shape:
        problem = f"its shape is {list(value.shape)}, not {list(reference.shape)}"
        return OutputParity(name, False, problem, shape_ok=False)
    if _type(expected) != _type(got):
        return OutputParity(name, False, f"its type is {_type(got)}, not {_type(expected)}", shape_ok=False)
    if not reference.size:
        return OutputParity(name, True, exceed=0.0)
    if reference.dtype.kind in "fc":
        return _floats(name, reference, value, tolerance)
    return _exact(name, reference, value)


def _exact(name: str, expected: Array, got: Array) -> OutputParity:
    differ = np.asarray(expected != got).ravel()
    count = int(differ.sum())
    if not count:
        return OutputParity(name, True, max_abs=0.0, max_rel_scale=0.0, rms=0.0, exceed=0.0, share_out=0.0)
    worst = _index(int(np.argmax(differ)), expected.shape)
    words = (_words(got[worst]), _words(expected[worst]))
    problem = f"{count} of {expected.size} elements differ, the first at {list(worst)}: {words[0]}, not {words[1]}"
    return OutputParity(name, False, problem, share_out=count / expected.size, worst=worst)


def _words(element: Any) -> str:
    """An element in a message: short, whatever it holds."""
    text = repr(element.item() if isinstance(element, np.generic) else element)
    return text if len(text) <= 40 else f"{text[:39]}…"


@dataclass(slots=True)
class _Sums:
    """What is gathered over the chunks of one output.

    Distances are in units of 2**exponent, the reference's scale; squares in units of the larger scale of the two.
    """

    strange: int = 0
    first_strange: int = -1
    finite: int = 0
    out: int = 0
    distance: float = 0.0
    ratio: float = 0.0
    worst: int = 0
    squares: float = 0.0
    dot: float = 0.0
    norms: tuple[float, float] = (0.0, 0.0)


def _floats(name: str, expected: Array, got: Array, tolerance: Tolerance) -> OutputParity:
    flat, value = expected.reshape(-1), got.reshape(-1)
    scale, largest_got = _largest(flat), _largest(value)
    # By powers of two, which is exact: so no square and no product leaves what a double holds, and no scale is special.
    exponent, own_exponent = math.frexp(scale)[1], math.frexp(largest_got)[1]
    sums = _Sums()
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        for at in range(0, flat.size, _CHUNK):
            part = slice(at, at + _CHUNK)
            _add(sums, flat[part], value[part], at, math.ldexp(scale, -exponent), exponent, own_exponent, tolerance)
    worst = sums.first_strange if sums.strange else sums.worst
    index = _index(worst, expected.shape)
    passed = not sums.out
    relative = sums.distance / math.ldexp(scale, -exponent) if scale else (0.0 if not sums.distance else math.inf)
    rms = math.sqrt(sums.squares / max(1, sums.finite))
    norms = math.sqrt(sums.norms[0]) * math.sqrt(sums.norms[1])
    return OutputParity(
        name,
        passed,
        "" if passed else _problem(sums, flat, value, index, relative, tolerance),
        max_abs=_finite(_ldexp(sums.distance, exponent)) if sums.finite else None,
        max_rel_scale=_finite(relative) if sums.finite else None,
        rms=_finite(_ldexp(rms, max(exponent, own_exponent))) if sums.finite else None,
        cosine=_finite(sums.dot / norms) if norms > 0 else None,
        exceed=None if sums.strange else _finite(sums.ratio),
        share_out=sums.out / flat.size,
        worst=index,
        worst_got=_number(value[worst]),
        worst_expected=_number(flat[worst]),
        nan=sums.strange,
    )


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _largest(flat: Array) -> float:
    """The largest finite magnitude."""
    largest = 0.0
    with np.errstate(over="ignore", under="ignore"):
        for at in range(0, flat.size, _CHUNK):
            sizes = np.abs(_wide(flat[at : at + _CHUNK]))
            largest = max(largest, float(np.max(sizes, initial=0.0, where=np.isfinite(sizes))))
    return largest


def _shift(array: Array, exponent: int) -> Array:
    """The array times 2**-exponent."""
    if array.dtype.kind == "c":
        shifted = np.empty_like(array)
        shifted.real, shifted.imag = np.ldexp(array.real, -exponent), np.ldexp(array.imag, -exponent)
        return shifted
    return np.asarray(np.ldexp(array, -exponent))


def _add(
    sums: _Sums,
    expected: Array,
    got: Array,
    at: int,
    scale: float,
    exponent: int,
    own_exponent: int,
    tolerance: Tolerance,
) -> None:
    reference, value = _wide(expected), _wide(got)
    # An infinity must be the same infinity and a NaN a NaN; everything else is judged by its distance.
    finite = np.isfinite(reference) & np.isfinite(value)
    strange = ~finite & ~(np.isnan(reference) & np.isnan(value)) & (reference != value)
    if count := int(strange.sum()):
        sums.first_strange = sums.first_strange if sums.strange else at + int(np.argmax(strange))
        sums.strange += count
    sums.finite += int(finite.sum())
    reference, own = np.where(finite, _shift(reference, exponent), 0), np.where(finite, _shift(value, own_exponent), 0)
    distance = np.abs(np.where(finite, _shift(value, exponent), 0) - reference)
    allowed = tolerance.rtol * np.abs(reference) + tolerance.atol_of_scale * scale
    ratio = np.divide(distance, allowed, out=np.where(distance > 0, np.inf, 0.0), where=allowed > 0)
    sums.out += int(((ratio > 1) | strange).sum())
    sums.distance = max(sums.distance, float(distance.max()))
    if ratio.max() > sums.ratio:
        sums.ratio, sums.worst = float(ratio.max()), at + int(np.argmax(ratio))
    sums.squares += _square(np.ldexp(distance, min(0, exponent - own_exponent)))
    sums.dot += _dot(reference, own)
    sums.norms = (sums.norms[0] + _square(reference), sums.norms[1] + _square(own))


def _square(array: Array) -> float:
    return _dot(array, array)


def _dot(a: Array, b: Array) -> float:
    """The real part of the inner product, without BLAS.

    Its threads go on spinning for a tenth of a second, on a machine where a timed loop may be next. Measured on x86-64,
    November 2026: 4 % foreign CPU in the trials of a model with 16384 output elements.
    """
    return float(np.real(np.sum(np.conj(a) * b)))


def _problem(
    sums: _Sums, expected: Array, got: Array, index: tuple[int, ...], relative: float, tolerance: Tolerance
) -> str:
    if sums.strange:
        first = f"the first, at {list(index)}, is {got[sums.first_strange]:.6g}, not {expected[sums.first_strange]:.6g}"
        return f"{sums.strange} of {expected.size} elements are NaN or infinite on one side only; {first}"
    there = f"the worst, at {list(index)}, is {got[sums.worst]:.6g}, not {expected[sums.worst]:.6g}"
    if not math.isfinite(relative):
        return f"{there}, and the reference has no scale to compare with: it is zero everywhere"
    if not math.isfinite(sums.ratio):
        return f"off by {relative:.2g} of its scale; {there}: {tolerance.name} allows no difference there"
    return f"off by {relative:.2g} of its scale; {there}: {sums.ratio:.3g} times what {tolerance.name} allows"


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: Any) -> float | None:
    number = value.item()
    return _finite(math.hypot(number.real, number.imag) if isinstance(number, complex) else float(number))


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def not_finite(sets: Sequence[Outputs]) -> list[str]:
    """The names of the outputs that hold a NaN or an infinity in any of these sets."""
    names = {name for outputs in sets for name, value in outputs.items() if _odd(value)}
    return sorted(names)


def _odd(value: Value) -> bool:
    if value is None or isinstance(value, (list, dict)):
        return False
    array = _plain(value)
    return array.dtype.kind in "fc" and not bool(np.isfinite(array).all())


def movement(first: Outputs, second: Outputs) -> float | None:
    """By what share of its norm the output that moves most differs between two inputs; None where it cannot be told."""
    moved = [m for name in first if (m := _moved(first[name], second.get(name))) is not None]
    return max(moved) if moved else None


def _moved(first: Value, second: Value) -> float | None:
    if first is None or second is None or isinstance(first, (list, dict)) or isinstance(second, (list, dict)):
        return None
    a, b = _plain(first), _plain(second)
    if a.shape != b.shape or a.dtype.kind not in "fiub" or not a.size:
        return None
    a, b = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return None
    exponent = math.frexp(max(float(np.abs(a).max()), float(np.abs(b).max())))[1]
    with np.errstate(under="ignore"):
        a, b = np.ldexp(a, -exponent), np.ldexp(b, -exponent)
        norm = math.sqrt(_square(a))
        return _finite(math.sqrt(_square(a - b)) / norm) if norm else (1.0 if b.any() else 0.0)
