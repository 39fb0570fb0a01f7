"""From samples to a summary. Pure functions.

A percentile is printed only where the count supports it, by the binomial rule of MLPerf LoadGen: with 99 % confidence
the reported order statistic is not below the percentile, one sample being allowed above it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.99
QUANTILES = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True)
class Percentile:
    """A quantile of the samples in nanoseconds (nearest rank), or None and the count it would take."""

    q: float
    ns: int | None
    needs: int


@dataclass(frozen=True, slots=True)
class Summary:
    """All that tables print of a series. The interval is over processes, so it takes at least six trials.

    `trial_p50_ns`: each trial's own median, in order.
    """

    n: int
    p50_ns: int
    p50_ci_ns: tuple[int, int] | None
    p50_ci_reason: str
    trial_p50_ns: tuple[int, ...]
    percentiles: tuple[Percentile, ...]


def summarise(trials: Sequence[Sequence[int]]) -> Summary:
    """The summary of one series over its trials, each a non-empty sequence of nanoseconds."""
    pooled = np.sort(np.concatenate([np.asarray(t, dtype=np.int64) for t in trials]))
    medians = [_nearest_rank(np.sort(np.asarray(t, dtype=np.int64)), 0.5) for t in trials]
    interval = median_interval(medians)
    reason = "" if interval else f"{len(trials)} trials; an interval over processes takes 6"
    percentiles = tuple(_percentile(pooled, q) for q in QUANTILES)
    return Summary(pooled.size, _nearest_rank(pooled, 0.5), interval, reason, tuple(medians), percentiles)


def _percentile(ordered: npt.NDArray[np.int64], q: float) -> Percentile:
    needs = min_count(q)
    return Percentile(q, _nearest_rank(ordered, q) if ordered.size >= needs else None, needs)


def _nearest_rank(ordered: npt.NDArray[np.int64], q: float) -> int:
    return int(ordered[max(0, math.ceil(q * ordered.size) - 1)])


def min_count(q: float) -> int:
    """The fewest samples that support a percentile, one allowed above the reported one: 11, 64, 662 for p50, p90, p99.

    Source: MLPerf inference rules, early stopping; the counts follow from P(Binomial(n, 1-q) <= 1) <= 1 - CONFIDENCE.
    """
    n = 2
    while q**n + n * (1 - q) * q ** (n - 1) > 1 - CONFIDENCE:
        n += 1
    return n


def median_interval(values: Sequence[int], confidence: float = 0.95) -> tuple[int, int] | None:
    """A distribution-free interval for the median: two order statistics, or None where there are too few values."""
    n, ordered = len(values), sorted(values)
    best = None
    outside = 0.0
    for k in range(n // 2):
        outside += 2 * math.comb(n, k) / 2**n
        if 1 - outside < confidence:
            break
        best = (ordered[k], ordered[n - 1 - k])
    return best
