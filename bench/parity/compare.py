"""Compares outputs with reference outputs, element by element. A miss is data, never an exception.

Pure numpy, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
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
        Tolerance("fp32", 1e-3, 2e-4, "another order of fp32 additions; right runtimes stay below 1e-4 of scale on the zoo"),
        Tolerance("fp16", 1e-2, 1e-2, "11 bits of mantissa (tf32 too): one rounding is 5e-4, deep nets add up to some 3e-3"),
        Tolerance("bf16", 5e-2, 5e-2, "8 bits of mantissa: one rounding is 4e-3"),
        Tolerance("int8", 1e-1, 1e-1, "256 levels per tensor: half a step is 2e-3 of scale, and a net has many"),
    )
}
# Below this share of its norm, an output that should follow its input does not.
BLIND = 0.01


@dataclass(frozen=True, slots=True)
class OutputParity:
    """The figures of one output. Errors are over the elements that are finite on both sides; None where there are none.

    `exceed` is the largest error as a multiple of what was allowed there: up to 1 passes. `worst` is where that is.
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
    if any(not o.shape_ok or o.nan for o in outputs):
        return "wrong"
    for tolerance in TOLERANCES.values():
        again = outputs if tolerance == used else tuple(_one(n, v, got, tolerance) for n, v in expected.items())
        if all(o.passed for o in again):
            return tolerance.name
    return "wrong"


def _one(name: str, expected: Value, got: Outputs, tolerance: Tolerance) -> OutputParity:
    if name not in got:
        return OutputParity(name, False, "it is missing", shape_ok=False)
    return _value(name, expected, got[name], tolerance)


def _value(name: str, expected: Value, got: Value, tolerance: Tolerance) -> OutputParity:
    """Sequences and maps are judged item by item: the worst item stands for all."""
    if isinstance(expected, (list, dict)):
        if type(expected) is not type(got) or len(expected) != len(got):  # type: ignore[arg-type]
            return OutputParity(name, False, "it is another kind of value, or of another length", shape_ok=False)
        if isinstance(expected, dict):
            if expected.keys() != got.keys():  # type: ignore[union-attr]
                return OutputParity(name, False, "its map has other keys", shape_ok=False)
            pairs = [(expected[k], got[k]) for k in expected]  # type: ignore[index, call-overload]
        else:
            pairs = list(zip(expected, got, strict=True))  # type: ignore[arg-type]
        if all(isinstance(e, (int, float)) for e, _ in pairs):
            pairs = [(np.array([e for e, _ in pairs]), np.array([g for _, g in pairs]))]
        judged = [_value(name, e, g, tolerance) for e, g in pairs]
        return max(judged, key=_badness, default=OutputParity(name, True, exceed=0.0))
    if expected is None or got is None:
        same = expected is None and got is None
        return OutputParity(name, same, "" if same else "one side is absent", shape_ok=same)
    return _array(name, _plain(expected), _plain(got), tolerance)


def _badness(o: OutputParity) -> tuple[bool, float]:
    return (not o.passed, math.inf if o.exceed is None else o.exceed)


def _plain(value: Any) -> Array:
    """The numbers of a tensor; bfloat16 is widened, float8 is left as its bits and so compared exactly."""
    if isinstance(value, Packed):
        if value.dtype == "bfloat16":
            return (value.bits.astype(np.uint32) << 16).view(np.float32)
        return value.bits
    return np.asarray(value)


def _array(name: str, expected: Array, got: Array, tolerance: Tolerance) -> OutputParity:
    if expected.shape != got.shape:
        problem = f"its shape is {list(got.shape)}, not {list(expected.shape)}"
        return OutputParity(name, False, problem, shape_ok=False)
    if expected.dtype != got.dtype:
        return OutputParity(name, False, f"its type is {got.dtype}, not {expected.dtype}", shape_ok=False)
    if expected.dtype.kind in "fc":
        return _floats(name, expected, got, tolerance)
    differ = np.asarray(expected != got)
    count = int(differ.sum())
    if not count:
        return OutputParity(name, True, max_abs=0.0, max_rel_scale=0.0, rms=0.0, cosine=None, exceed=0.0, share_out=0.0)
    worst = _index(differ.ravel(), expected.shape)
    problem = f"{count} of {expected.size} elements differ, first at {list(worst)}: {got[worst]!r}, not {expected[worst]!r}"
    return OutputParity(name, False, problem, share_out=count / expected.size, worst=worst)


def _floats(name: str, expected: Array, got: Array, tolerance: Tolerance) -> OutputParity:
    wide = np.complex128 if expected.dtype.kind == "c" else np.float64
    reference, value = expected.astype(wide), got.astype(wide)
    finite = np.isfinite(reference)
    # An infinity must be the same infinity and a NaN a NaN; everything else is judged by its distance.
    odd = ~finite | ~np.isfinite(value)
    same_odd = (np.isnan(reference) & np.isnan(value)) | (reference == value)
    bad_odd = odd & ~same_odd
    nan = int(bad_odd.sum())
    both = finite & np.isfinite(value)
    if not both.any():
        return OutputParity(name, nan == 0, f"{nan} of {expected.size} elements are NaN or infinite" if nan else "", nan=nan)
    scale = float(np.abs(reference[finite]).max())
    distance = np.where(both, np.abs(np.where(both, value - reference, 0)), 0.0)
    allowed = tolerance.rtol * np.abs(np.where(finite, reference, 0)) + tolerance.atol_of_scale * scale
    ratio = np.divide(distance, allowed, out=np.where(distance > 0, np.inf, 0.0), where=allowed > 0)
    out = (ratio > 1) | bad_odd
    worst = _index(np.where(bad_odd, np.inf, ratio).ravel(), expected.shape)
    largest = float(distance.max())
    problem = ""
    if nan:
        problem = f"{nan} of {expected.size} elements are NaN or infinite and should not be, first at {list(worst)}"
    elif out.any():
        problem = (
            f"off by {_relative(largest, scale):.2g} of its scale; the worst, at {list(worst)}, is {value[worst]:.6g}, "
            f"not {reference[worst]:.6g}: {float(ratio.max()):.3g} times what {tolerance.name} allows"
        )
    return OutputParity(
        name,
        not out.any(),
        problem,
        max_abs=largest,
        max_rel_scale=_relative(largest, scale),
        rms=float(np.sqrt(np.mean(distance[both] ** 2))),
        cosine=_cosine(reference[both], value[both]),
        exceed=float(ratio.max()) if not nan else None,
        share_out=float(out.mean()),
        worst=worst,
        worst_got=_number(value[worst]),
        worst_expected=_number(reference[worst]),
        nan=nan,
    )


def _relative(distance: float, scale: float) -> float:
    return distance / scale if scale else (math.inf if distance else 0.0)


def _number(value: Any) -> float | None:
    number = float(abs(value)) if isinstance(value, complex) else float(value)
    return number if math.isfinite(number) else None


def _index(flat: Array, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(flat)), shape))


def _cosine(a: Array, b: Array) -> float | None:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.real(np.vdot(a, b))) / norms if norms > 0 and math.isfinite(norms) else None


def movement(first: Outputs, second: Outputs) -> float | None:
    """By what share of its norm the output that moves most differs between two inputs; None where nothing can be said."""
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
    norm = float(np.linalg.norm(a))
    return float(np.linalg.norm(a - b)) / norm if norm else (1.0 if b.any() else 0.0)
