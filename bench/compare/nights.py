"""What nights of an unchanged cell differ by, and how rarely chance takes a night as far as this one.

All values are logarithms of a night's cost, so that differences are shares. A level is a stretch of nights with equal
versions. The spread is of nights about their own level; a night is held against the level that it would continue.

With few nights the spread is hardly known, and the distribution that says so is wide: Student's t for one look. A
confirming re-run is a second look, and the chance is of both looks lying so far off, which share the same history.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Looks = Literal[1, 2]
# Until nights are known, one night's median is taken to vary as much as single processes do, or as `LEAST` if that is
# more, which counts as much as so many nights. Rule of thumb: a night's median of six processes varies by 0.5 times as
# much as they do, so this leaves room for what nights add. Interleaved A/A ratios were 1.0016 to 1.0045 on a quiet
# 2-core x86-64 virtual machine, 2026-11.
ASSUMED_NIGHTS = 3
LEAST = 0.005
# Levels creep, so a level is where its last nights are.
CENTRE_NIGHTS = 10
_Z = np.linspace(-12.0, 40.0, 5201)
_UPPER = np.array([0.5 * math.erfc(z / math.sqrt(2)) for z in _Z])
_U = np.concatenate([[0.0], np.geomspace(0.05, 2000.0, 160)])


@dataclass(frozen=True, slots=True)
class Noise:
    """What is known of a cell that did not change.

    `centre` is the level's, of its last `nights`, out of `seen` on all levels. `spread` is one standard deviation of a
    night, known to so many `degrees` of freedom (assumed nights included). `reach`: the farthest that any night was
    from its own level.
    """

    centre: float
    nights: int
    seen: int
    spread: float
    degrees: int
    reach: float


def location(trials: npt.ArrayLike) -> Floats:
    """Where the trials float[..., m] lie: the median of the means of all their pairs (Hodges and Lehmann, 1963).

    Nearly as hard to move by a trial that is far out as the median, and for normal trials nearly as sharp as the mean.
    """
    values = np.asarray(trials, dtype=np.float64)
    first, second = np.triu_indices(values.shape[-1])
    return np.median((values[..., first] + values[..., second]) / 2, axis=-1)


def process_spread(nights: Sequence[Sequence[float]]) -> float:
    """One standard deviation of a single trial about its own night; 0 where no night has two."""
    squares = sum(float(np.var(trials)) * len(trials) for trials in nights)
    known = sum(len(trials) - 1 for trials in nights)
    return math.sqrt(squares / known) if known else 0.0


def learn(levels: Sequence[Sequence[float]], between: float) -> Noise:
    """The noise that nights show, the last level being the current one (at least one night).

    `between`: the spread between processes.
    """
    recent = levels[-1][-CENTRE_NIGHTS:]
    off = [night - float(np.median(level)) for level in levels for night in level]
    squares = sum(float(np.var(level)) * len(level) for level in levels)
    known = sum(len(level) - 1 for level in levels)
    return Noise(
        centre=float(np.median(recent)),
        nights=len(recent),
        seen=sum(map(len, levels)),
        spread=float(pooled(squares, known, between)),
        degrees=known + ASSUMED_NIGHTS,
        reach=max(abs(o) for o in off),
    )


def pooled(squares: npt.ArrayLike, known: int, between: npt.ArrayLike) -> Floats:
    """The spread of nights: of squared deviations to `known` degrees of freedom, and what is assumed beside them."""
    assumed = ASSUMED_NIGHTS * np.maximum(between, LEAST) ** 2
    return np.sqrt((assumed + np.asarray(squares)) / (ASSUMED_NIGHTS + known))  # type: ignore[no-any-return]  # numpy gives Any


def chance(distance: npt.ArrayLike, nights: int, degrees: int, looks: Looks) -> Floats:
    """How often an unchanged cell is so many spreads or more off its level, on one side, at every look. Two-sided."""
    logs = np.interp(np.asarray(distance, dtype=np.float64), _U, _log_chances(nights, degrees, looks))
    return np.minimum(1.0, np.exp(logs))


def distance(wanted: float, nights: int, degrees: int, looks: Looks) -> float:
    """The inverse: how many spreads off it must be for so small a chance; infinite where no distance is enough."""
    logs = _log_chances(nights, degrees, looks)
    if math.log(wanted) < logs[-1]:
        return math.inf
    return float(np.interp(-math.log(wanted), -logs, _U))


@lru_cache(maxsize=512)
def _log_chances(nights: int, degrees: int, looks: Looks) -> Floats:
    """Logarithms of the chances at `_U`.

    In units of a night's true spread: a look is normal, the level's centre is normal about the truth, the estimated
    spread is a chi. The chance that all looks are beyond centre + u spread is averaged over both, numerically.
    """
    wide = 8 / math.sqrt(2 * degrees)  # eight standard deviations of the spread about its true value
    scale = np.geomspace(max(1e-4, 1 - wide), 1 + wide, 120)
    density = degrees * np.log(scale) - degrees * scale**2 / 2
    weights = np.exp(density - density.max())
    weights /= weights.sum()
    nodes, centre_weights = np.polynomial.hermite_e.hermegauss(16)
    off = nodes * math.sqrt(_variance_of_centre(nights))
    beyond = off[None, :, None] + scale[None, None, :] * _U[:, None, None]
    chances = np.interp(beyond, _Z, _UPPER) ** looks
    one_sided = chances @ weights @ (centre_weights / centre_weights.sum())
    return np.log(np.maximum(2 * one_sided, 1e-300))  # type: ignore[no-any-return]  # numpy gives Any


def _variance_of_centre(nights: int) -> float:
    """Of the median of so many normal values, in units of theirs: up to pi/2 times that of the mean."""
    return (1.0 if nights <= 2 else math.pi / 2) / nights
