"""How far the numbers of two tensors are apart, in one pass over chunks: outputs of any size in a few MiB.

Two ways to the same figures. The quick one takes finite numbers at an ordinary scale, in float32 where that holds them,
and looks in float64 only at those that may matter; the careful one takes everything. Pure numpy, no BLAS (see `_dot`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.interface import Array
from bench.parity.numbers import Numbers

# Elements that are looked at together. Quick: what a level-2 cache holds of four arrays. Source: measured on x86-64
# with 2 MiB of it, November 2026: 16384 to 65536 are within 10 %, more and fewer are slower.
_CHUNK = 1 << 18
_QUICK_CHUNK = 1 << 15
# Powers of two between which no square of a float32 leaves its range, and none that matters vanishes.
_ORDINARY = 40
# Of the threshold above which an element is looked at in float64: float32 rounds it and the distance by 1e-7.
_JUST_BELOW = 1 - 1e-6


@dataclass(slots=True)
class Distances:
    """What is gathered over the chunks of one output.

    `largest` is the largest distance in units of 2**exponent; `exceed` has, for every tolerance, the largest distance
    as a multiple of what is allowed there, infinite where nothing is. `error` and `norms` are sums of squares, of
    distances in units of 2**error_exponent, of the two sides in units of 2**exponent and 2**own_exponent.
    """

    exceed: list[float]
    strange: int = 0
    first_strange: int = -1
    finite: int = 0
    out: int = 0
    largest: float = 0.0
    worst: int = 0
    scale: float = 0.0
    error: float = 0.0
    dot: float = 0.0
    norms: tuple[float, float] = (0.0, 0.0)
    exponent: int = 0
    own_exponent: int = 0

    @property
    def error_exponent(self) -> int:
        """The unit of `error`: that of the larger side."""
        return max(self.exponent, self.own_exponent)

    @property
    def max_abs(self) -> float:
        """The largest distance; infinite beyond what a double holds."""
        return _ldexp(self.largest, self.exponent)

    @property
    def relative(self) -> float:
        """The largest distance as a share of the reference's scale."""
        if self.scale:
            return self.largest / math.ldexp(self.scale, -self.exponent)
        return math.inf if self.largest else 0.0

    @property
    def rms(self) -> float:
        """Root of the mean square distance."""
        return _ldexp(math.sqrt(self.error / max(1, self.finite)), self.error_exponent)

    @property
    def cosine(self) -> float:
        """Of the angle between the two sides; NaN where one of them is zero."""
        norms = math.sqrt(self.norms[0]) * math.sqrt(self.norms[1])
        return self.dot / norms if norms > 0 else math.nan

    @property
    def snr_db(self) -> float:
        """The reference's power over the error's, in decibels: infinite without error, NaN without a reference."""
        if not self.norms[0]:
            return math.nan
        if not self.error:
            return math.inf
        exponents = self.exponent - self.error_exponent
        return 10 * (math.log10(self.norms[0]) - math.log10(self.error)) + 20 * exponents * math.log10(2)


@dataclass(frozen=True, slots=True)
class _Bound:
    """What tolerances allow at an element: rtol times the reference's magnitude, plus `floor`."""

    rtol: float
    floor: float

    def ratio(self, distance: Array, magnitude: Array) -> Array:
        """Distances as multiples of what is allowed."""
        allowed = self.rtol * magnitude + self.floor
        nothing = np.where(distance > 0, np.inf, 0.0)
        return np.asarray(np.divide(distance, allowed, out=nothing, where=allowed > 0))


def distances(expected: Numbers, got: Numbers, tolerances: Sequence[tuple[float, float]]) -> Distances:
    """How far `got` is from `expected`, of the same shape and type.

    `tolerances`: pairs of rtol and atol_of_scale. The first decides which elements are `out` and which is the `worst`.
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        if expected.quick is not None and expected.quick is got.quick:
            found = _quick(expected, got, tolerances)
            if found is not None:
                return found
        return _careful(expected, got, tolerances)


def _quick(expected: Numbers, got: Numbers, tolerances: Sequence[tuple[float, float]]) -> Distances | None:
    """As `distances`, or None where it takes care: NaN, infinities, huge and tiny scales."""
    scale = _quick_scale(expected)
    if not math.isfinite(scale) or not 2.0**-_ORDINARY < scale < 2.0**_ORDINARY:
        return None
    gathered = _Gathered(expected.quick, scale, [_Bound(rtol, atol * scale) for rtol, atol in tolerances])
    for at in range(0, expected.size, _QUICK_CHUNK):
        gathered.add(expected.part(at, at + _QUICK_CHUNK), got.part(at, at + _QUICK_CHUNK), at)
    return gathered.distances(expected.size)


def _quick_scale(numbers: Numbers) -> float:
    """The largest magnitude; NaN where one number is."""
    largest = 0.0
    for at in range(0, numbers.size, _CHUNK):
        part = numbers.part(at, at + _CHUNK)
        high, low = float(part.max()), float(part.min())
        if math.isnan(high):
            return math.nan
        largest = max(largest, high, -low)
    return largest


@dataclass(slots=True)
class _Gathered:
    """The sums of the quick way. Only elements above `threshold` can change a maximum."""

    number: Any
    scale: float
    bounds: list[_Bound]
    exceed: list[float] = field(init=False)
    largest: float = 0.0
    worst: int = 0
    out: int = 0
    error: float = 0.0
    power: float = 0.0
    mixed: float = 0.0
    _error: Array = field(init=False)
    _work: Array = field(init=False)
    _mask: Array = field(default_factory=lambda: np.empty(_QUICK_CHUNK, np.bool_))

    def __post_init__(self) -> None:
        self.exceed = [0.0 for _ in self.bounds]
        self._error, self._work = np.empty(_QUICK_CHUNK, self.number), np.empty(_QUICK_CHUNK, self.number)

    @property
    def threshold(self) -> float:
        """A distance up to this is not the largest, neither by itself nor by any tolerance's measure."""
        lowest = min(exceed * bound.floor for exceed, bound in zip(self.exceed, self.bounds, strict=True))
        return lowest * _JUST_BELOW

    def add(self, reference: Array, value: Array, at: int) -> None:
        size = reference.size
        error, work = self._error[:size], self._work[:size]
        np.subtract(value, reference, out=error)
        self.error += _sum_of_products(error, error, work)
        self.mixed += _sum_of_products(reference, error, work)
        self.power += _sum_of_products(reference, reference, work)
        np.abs(error, out=error)
        mask = np.greater(error, self.number(self.threshold), out=self._mask[:size])
        if np.count_nonzero(mask):
            self._look(np.flatnonzero(mask), reference, value, at)
        if self.exceed[0] > 1:  # else none has been out so far
            allowed = np.abs(reference, out=work)
            allowed *= self.number(self.bounds[0].rtol)
            allowed += self.number(self.bounds[0].floor)
            self.out += int(np.count_nonzero(np.greater(error, allowed, out=mask)))

    def _look(self, indices: Array, reference: Array, value: Array, at: int) -> None:
        """The elements that may matter, exactly."""
        known = reference[indices].astype(np.float64)
        distance, magnitude = np.abs(value[indices] - known), np.abs(known)
        self.largest = max(self.largest, float(distance.max()))
        for index, bound in enumerate(self.bounds):
            ratio = bound.ratio(distance, magnitude)
            largest = float(ratio.max())
            if index == 0 and largest > self.exceed[0]:
                self.worst = at + int(indices[int(np.argmax(ratio))])
            self.exceed[index] = max(self.exceed[index], largest)

    def distances(self, size: int) -> Distances | None:
        """What was found; None where float32 did not do: something was not finite, or squares vanished."""
        own = self.power + 2 * self.mixed + self.error
        sums = (self.error, self.power, self.mixed, own)
        if not all(math.isfinite(s) for s in sums) or self.largest > 2.0**_ORDINARY:
            return None
        if (self.largest and not self.error) or own < 0.25 * self.power:  # a small `own` is a difference of large sums
            return None
        exponent = math.frexp(self.scale)[1]
        unit = 2.0 ** (-2 * exponent)
        return Distances(
            exceed=self.exceed,
            finite=size,
            out=max(1, self.out) if self.exceed[0] > 1 else 0,  # counted in float32, decided in float64
            largest=math.ldexp(self.largest, -exponent),
            worst=self.worst,
            scale=self.scale,
            error=self.error * unit,
            dot=(self.power + self.mixed) * unit,
            norms=(self.power * unit, own * unit),
            exponent=exponent,
            own_exponent=exponent,
        )


def _sum_of_products(a: Array, b: Array, work: Array) -> float:
    """In their own type, added in pairs: right to a few units of its last place."""
    return float(np.add.reduce(np.multiply(a, b, out=work)))


def _careful(expected: Numbers, got: Numbers, tolerances: Sequence[tuple[float, float]]) -> Distances:
    """As `distances`, for everything.

    Everything is scaled by powers of two, which is exact: so no square and no product leaves what a double holds, and
    no scale is special.
    """
    scale = _largest(expected)
    found = Distances([0.0 for _ in tolerances], scale=scale)
    found.exponent, found.own_exponent = math.frexp(scale)[1], math.frexp(_largest(got))[1]
    unit = math.ldexp(scale, -found.exponent)
    bounds = [_Bound(rtol, atol * unit) for rtol, atol in tolerances]
    for at in range(0, expected.size, _CHUNK):
        _add(found, _wide(expected.part(at, at + _CHUNK)), _wide(got.part(at, at + _CHUNK)), at, bounds)
    return found


def _add(found: Distances, reference: Array, value: Array, at: int, bounds: Sequence[_Bound]) -> None:
    # An infinity must be the same infinity and a NaN a NaN; everything else is judged by its distance.
    finite = np.isfinite(reference) & np.isfinite(value)
    strange = ~finite & ~(np.isnan(reference) & np.isnan(value)) & (reference != value)
    if count := int(strange.sum()):
        found.first_strange = found.first_strange if found.strange else at + int(np.argmax(strange))
        found.strange += count
    found.finite += int(finite.sum())
    own = np.where(finite, _shift(value, found.own_exponent), 0)
    value = np.where(finite, _shift(value, found.exponent), 0)
    reference = np.where(finite, _shift(reference, found.exponent), 0)
    distance, magnitude = np.abs(value - reference), np.abs(reference)
    found.largest = max(found.largest, float(distance.max()))
    for index, bound in enumerate(bounds):
        ratio = bound.ratio(distance, magnitude)
        largest = float(ratio.max())
        if index == 0:
            found.out += int(((ratio > 1) | strange).sum())
            if largest > found.exceed[0]:
                found.worst = at + int(np.argmax(ratio))
        found.exceed[index] = max(found.exceed[index], largest)
    shrunk = np.ldexp(distance, min(0, found.exponent - found.own_exponent))
    found.error += _dot(shrunk, shrunk)
    found.dot += _dot(reference, own)
    found.norms = (found.norms[0] + _dot(reference, reference), found.norms[1] + _dot(own, own))


def _wide(array: Array) -> Array:
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)


def _largest(numbers: Numbers) -> float:
    """The largest finite magnitude."""
    largest = 0.0
    for at in range(0, numbers.size, _CHUNK):
        sizes = np.abs(_wide(numbers.part(at, at + _CHUNK)))
        largest = max(largest, float(np.max(sizes, initial=0.0, where=np.isfinite(sizes))))
    return largest


def _shift(array: Array, exponent: int) -> Array:
    """The array times 2**-exponent."""
    if array.dtype.kind == "c":
        shifted = np.empty_like(array)
        shifted.real, shifted.imag = np.ldexp(array.real, -exponent), np.ldexp(array.imag, -exponent)
        return shifted
    return np.asarray(np.ldexp(array, -exponent))


def _dot(a: Array, b: Array) -> float:
    """The real part of the inner product, without BLAS.

    Its threads go on spinning for a tenth of a second, on a machine where a timed loop may be next. Measured on x86-64,
    November 2026: 4 % foreign CPU in the trials of a model with 16384 output elements.
    """
    return float(np.real(np.sum(np.conj(a) * b)))


def _ldexp(value: float, exponent: int) -> float:
    try:
        return math.ldexp(value, exponent)
    except OverflowError:
        return math.inf
