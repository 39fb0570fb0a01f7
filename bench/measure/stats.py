"""From samples to a summary. Pure functions; the child uses some of them between two stretches of its timed loop.

A percentile is printed only where the count supports it, by the binomial rule of MLPerf LoadGen: with 99 % confidence
the reported order statistic is not below the percentile, one sample being allowed above it. No sample is ever left out.
Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.99
INTERVAL = 0.95
QUANTILES = (0.5, 0.9, 0.95, 0.99, 0.999)
MIN_TRIALS = 6
"""The fewest values of which the lowest and the highest enclose the median with 95 %: 1 - 2 / 2^6 = 0.97."""
# Autocorrelation is estimated from at most so many consecutive averages, a trend from so many medians; the stop rule
# looks at no more than so many samples, evenly picked: fewer only make its interval wider.
BLOCKS, TREND_BLOCKS, LOOK_AT = 4096, 64, 100_000
# A trend smaller than this says nothing to somebody who asks for 1 %.
TREND_MATTERS = 0.005

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Percentile:
    """A quantile of the samples in nanoseconds (nearest rank), or None and the count it would take.

    `lo`, `hi`: distribution-free 95 % bounds from order statistics, for as many independent samples as these are worth;
    None where they are worth too few.
    """

    q: float
    ns: int | None
    needs: int
    lo: int | None = None
    hi: int | None = None


@dataclass(frozen=True, slots=True)
class Trend:
    """The change from begin to end as a share of the median, and whether it is more than chance and matters."""

    relative: float
    significant: bool


@dataclass(frozen=True, slots=True)
class Summary:
    """All that tables print of a series.

    `p50_ci_ns`: 95 % interval over processes: it encloses the median of what fresh processes show as their median. It
    takes six trials. `p50_ci_relative`: how far its farther end is from `p50_ns`, as a share of it.
    `within_process_ci_ns` encloses the medians of the processes that were measured, and says nothing of the next one.
    `trial_p50_ns`: each trial's own median, in order. `autocorrelation`: lag 1, the median of the trials.
    `effective_n`: the independent samples that these are worth for the median, over all trials.
    """

    n: int
    p50_ns: int
    p50_ci_ns: tuple[int, int] | None
    p50_ci_reason: str
    p50_ci_relative: float | None
    within_process_ci_ns: tuple[int, int] | None
    trial_p50_ns: tuple[int, ...]
    percentiles: tuple[Percentile, ...]
    autocorrelation: float | None
    effective_n: int
    trend_within_trial: Trend | None
    trend_over_trials: Trend | None


def summarise(trials: Sequence[Sequence[int]], looks: Sequence[int] = ()) -> Summary:
    """The summary of one series over its trials, each a non-empty sequence of nanoseconds.

    `looks`: after so many trials it was looked whether more were needed. Whoever looks again errs more often, so the
    interval of more trials is made for all looks.
    """
    arrays: list[Integers] = [np.asarray(t, dtype=np.int64) for t in trials]
    pooled = np.concatenate(arrays)
    ordered = np.sort(pooled)
    p50 = _nearest_rank(ordered, 0.5)
    medians = [_nearest_rank(np.sort(a), 0.5) for a in arrays]
    interval = median_interval(medians, looks=looks)
    reason = "" if interval else f"{len(trials)} trials; an interval over processes takes {MIN_TRIALS}"
    if interval:  # all samples' median is not bound to lie between two order statistics of the trials' medians
        interval = (min(interval[0], p50), max(interval[1], p50))
    correlations = [c for c in map(autocorrelation, arrays) if c is not None]
    return Summary(
        n=pooled.size,
        p50_ns=p50,
        p50_ci_ns=interval,
        p50_ci_reason=reason,
        p50_ci_relative=relative_width(p50, interval),
        within_process_ci_ns=_hull([within_process(a) for a in arrays]),
        trial_p50_ns=tuple(medians),
        percentiles=tuple(_percentile(pooled, ordered, q) for q in QUANTILES),
        autocorrelation=float(np.median(correlations)) if correlations else None,
        effective_n=sum(int(effective_count(a, m)) for a, m in zip(arrays, medians, strict=True)),
        trend_within_trial=_trend_within(arrays),
        trend_over_trials=_trend_over(medians),
    )


def _hull(intervals: Sequence[tuple[int, int] | None]) -> tuple[int, int] | None:
    """What encloses them all; None where one is missing."""
    known = [i for i in intervals if i is not None]
    if len(known) < len(intervals):
        return None
    return min(lo for lo, _ in known), max(hi for _, hi in known)


def relative_width(p50_ns: int, interval: tuple[int, int] | None) -> float | None:
    """How far the farther end of the interval is from the median, as a share of it: the x of plus or minus x."""
    if interval is None or p50_ns <= 0:
        return None
    return max(p50_ns - interval[0], interval[1] - p50_ns) / p50_ns


def _percentile(pooled: Integers, ordered: Integers, q: float) -> Percentile:
    needs = min_count(q)
    if ordered.size < needs:
        return Percentile(q, None, needs)
    ns = _nearest_rank(ordered, q)
    lo, hi = _bounds(ordered, q, int(effective_count(pooled, ns)))
    return Percentile(q, ns, needs, lo, hi)


def _nearest_rank(ordered: Integers, q: float) -> int:
    return int(ordered[max(0, math.ceil(q * ordered.size) - 1)])


@lru_cache(maxsize=64)
def min_count(q: float) -> int:
    """The fewest samples that support a percentile, one allowed above the reported one: 11, 64, 662 for p50, p90, p99.

    Source: MLPerf inference rules, early stopping; the counts follow from P(Binomial(n, 1-q) <= 1) <= 1 - CONFIDENCE.
    """
    n = 2
    while q**n + n * (1 - q) * q ** (n - 1) > 1 - CONFIDENCE:
        n += 1
    return n


def median_interval(
    values: Sequence[int], confidence: float = INTERVAL, looks: Sequence[int] = ()
) -> tuple[int, int] | None:
    """A distribution-free interval for the median: two order statistics, or None where there are too few values.

    For independent values of one distribution it misses at most 1 - `confidence` of the time, whatever that
    distribution. Where, after so many values as `looks` says, it was decided whether more were taken, by whatever rule,
    the chance that any of the looks misses is at most that.
    """
    rank = _rank(len(values), confidence, tuple(look for look in looks if look < len(values)))
    ordered = sorted(values)
    return None if rank is None else (ordered[rank], ordered[len(values) - 1 - rank])


def worth_a_look(first: int, most: int) -> tuple[int, ...]:
    """After how many trials to look whether the interval is narrow enough: after `first`, at last after `most`.

    Between them, whenever one more may be left out at either end: from six on after 10, 14 and 18. [1st, 6th] of 6
    misses 3.1 %, with [2nd, 9th] of 10 it is 4.3 % together, with [3rd, 12th] of 14 4.8 %. A look at any other number
    can but widen the interval. Fewer trials than six have no interval to look at.
    """
    found, left_out = [first], _rank(first, INTERVAL, ())
    if left_out is not None:
        for count in range(first + 1, most + 1):
            rank = _rank(count, INTERVAL, tuple(found))
            if rank is not None and rank > left_out:
                found.append(count)
                left_out = rank
    return (*found, most) if most > found[-1] else tuple(found)


@lru_cache(maxsize=256)
def _rank(n: int, confidence: float, looks: tuple[int, ...]) -> int | None:
    """How many of n values may be left out at either end, those left out at the looks before being what they are."""
    before = {look: rank for i, look in enumerate(looks) if (rank := _rank(look, confidence, looks[:i])) is not None}
    ways = _ways(n, before)
    hits, best = sum(ways.values()), None
    for rank in range((n + 1) // 2):
        hits -= sum(ways.get(below, 0) for below in {rank, n - rank})
        if (2**n - hits) / 2**n > 1 - confidence:
            break
        best = rank
    return best


def _ways(n: int, ranks: Mapping[int, int]) -> dict[int, int]:
    """Of the 2^n ways that n values can lie on the two sides of the median those in which no look misses.

    By how many are below. A look misses where, when it is made, no more than its rank are on one side. `ranks`: by the
    number of values then.
    """
    ways = {0: 1}
    for count in range(1, n + 1):
        grown: dict[int, int] = {}
        for below, number in ways.items():
            for next_ in (below, below + 1):
                grown[next_] = grown.get(next_, 0) + number
        rank = ranks.get(count, -1)
        ways = {below: number for below, number in grown.items() if rank < below < count - rank}
    return ways


def within_process(samples: Integers) -> tuple[int, int] | None:
    """A 95 % interval for the median of this process, from two order statistics; None from too few samples.

    Samples that follow one another are alike, so it is as wide as their effective count makes it. Still it knows
    nothing of drifts slower than the samples last, nor of other processes.
    """
    ordered = np.sort(samples)
    lo, hi = _bounds(ordered, 0.5, int(effective_count(samples, _nearest_rank(ordered, 0.5))))
    return None if lo is None or hi is None else (lo, hi)


def precise(samples: Any, target: float) -> bool:
    """Whether the process's own median is known to within `target`, a share of it. Takes about a millisecond."""
    picked = np.array(samples[:: max(1, len(samples) // LOOK_AT)], dtype=np.int64)
    ordered = np.sort(picked)
    width = relative_width(_nearest_rank(ordered, 0.5), within_process(picked))
    return width is not None and width <= target


def effective_count(samples: Integers, value: int) -> float:
    """How many independent samples these are worth in saying which share of all lies up to `value`.

    What counts is how that share's samples (0 or 1) hang together, not their durations: no outlier weighs more than
    another sample. Their long-run variance is Geyer's initial monotone sequence over averages of consecutive samples.
    """
    n = samples.size
    below = samples <= value
    share = float(below.mean())
    variance = share * (1 - share)
    if variance == 0:
        return float(n)
    size = -(-n // BLOCKS)
    count = n // size
    blocks = below[: count * size].reshape(count, size).mean(axis=1)
    blocks -= blocks.mean()
    spectrum = np.fft.rfft(blocks, 2 * count)
    covariances = np.fft.irfft(spectrum * spectrum.conj(), 2 * count)[:count] / count
    pairs = covariances[: count // 2 * 2].reshape(-1, 2).sum(axis=1)
    negative = np.flatnonzero(pairs <= 0)
    pairs = np.minimum.accumulate(pairs[: negative[0]] if negative.size else pairs)
    of_mean = (2 * float(pairs.sum()) - float(covariances[0])) / count
    return float(n) if of_mean <= 0 else min(float(n), max(1.0, variance / of_mean))


def autocorrelation(samples: Integers) -> float | None:
    """Of each sample with the next one; None where there are too few, or all are equal."""
    if samples.size < 3:
        return None
    centred = samples - samples.mean()
    scale = float((centred**2).sum())
    return float((centred[1:] * centred[:-1]).sum()) / scale if scale > 0 else None


def _bounds(ordered: Integers, q: float, effective: int) -> tuple[int | None, int | None]:
    """The order statistics that enclose the quantile with 95 %, at the ranks that the effective count would have."""
    lower, upper = order_bounds(effective, q)
    n = ordered.size
    lo = None if lower is None else int(ordered[n * lower // effective])
    hi = None if upper is None else int(ordered[n - 1 - n * (effective - 1 - upper) // effective])
    return lo, hi


@lru_cache(maxsize=1024)
def order_bounds(n: int, q: float, confidence: float = INTERVAL) -> tuple[int | None, int | None]:
    """The ranks, from 0, of n independent samples that enclose the quantile; None where no sample is far enough out.

    Exact: the quantile is below rank r with the chance that at most r of n samples are up to it, P(Binomial(n, q) <=
    r). Each side errs at most half of 1 - `confidence`. Terms farther than ten standard deviations out are nothing.
    """
    if n < 1:
        return None, None
    reach = 10 * math.sqrt(n * q * (1 - q)) + 10
    first, last = max(0, math.floor(n * q - reach)), min(n, math.ceil(n * q + reach))
    log_first = math.lgamma(n + 1) - math.lgamma(first + 1) - math.lgamma(n - first + 1)
    log_first += first * math.log(q) + (n - first) * math.log1p(-q)
    counts = np.arange(first, last, dtype=np.float64)
    steps = np.log((n - counts) / (counts + 1)) + math.log(q) - math.log1p(-q)
    chances = np.exp(log_first + np.concatenate([[0.0], np.cumsum(steps)]))
    half = (1 - confidence) / 2
    at_most = np.flatnonzero(np.cumsum(chances) <= half)
    at_least = np.flatnonzero(np.cumsum(chances[::-1])[::-1] <= half)
    lower = first + int(at_most[-1]) if at_most.size else None
    upper = first + int(at_least[0]) - 1 if at_least.size else None
    return lower, upper


def _trend_within(trials: Sequence[Integers]) -> Trend | None:
    """The median of the trials' own trends: significant where the interval over trials excludes none at all."""
    trends = [t for t in map(_trend_of, trials) if t is not None]
    if not trends:
        return None
    relative = float(np.median(trends))
    rank = _rank(len(trends), INTERVAL, ())
    ordered = sorted(trends)
    sure = rank is not None and (ordered[rank] > 0 or ordered[len(trends) - 1 - rank] < 0)
    return Trend(relative, sure and abs(relative) >= TREND_MATTERS)


def _trend_of(samples: Integers) -> float | None:
    size = max(1, samples.size // TREND_BLOCKS)
    count = samples.size // size
    medians = np.median(samples[: count * size].reshape(count, size), axis=1)
    return theil_sen(medians)


def _trend_over(medians: Sequence[int]) -> Trend | None:
    """From the first trial to the last, judged by how rarely chance brings trials into such an order (Kendall)."""
    relative = theil_sen(np.asarray(medians, dtype=np.float64))
    if relative is None:
        return None
    return Trend(relative, abs(relative) >= TREND_MATTERS and chance_of_order(medians) <= 1 - INTERVAL)


def theil_sen(values: npt.NDArray[Any]) -> float | None:
    """The median of the slopes of all pairs, times the length, as a share of the median; None from fewer than three."""
    if values.size < 3:
        return None
    first, second = np.triu_indices(values.size, 1)
    middle = float(np.median(values))
    slope = float(np.median((values[second] - values[first]) / (second - first)))
    return slope * (values.size - 1) / middle if middle > 0 else None


def chance_of_order(values: Sequence[int]) -> float:
    """How often values in random order rise, or fall, as consistently as these: Kendall's exact two-sided test."""
    n = len(values)
    ascents = [(b > a) - (b < a) for i, a in enumerate(values) for b in values[i + 1 :]]
    pairs = len(ascents)
    # ways[i]: orders of the values so far with i pairs that descend.
    ways = [1]
    for size in range(2, n + 1):
        ways = [sum(ways[max(0, i - size + 1) : i + 1]) for i in range(len(ways) + size - 1)]
    extreme = abs(sum(ascents))
    return sum(w for i, w in enumerate(ways) if abs(pairs - 2 * i) >= extreme) / math.factorial(n)
