"""From samples to a summary: against numpy, against MLPerf's table, and by simulation with a known truth."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.measure.stats import QUANTILES, median_interval, min_count, summarise

NANOSECONDS = st.integers(1, 2**62)
TRIALS = st.lists(st.lists(NANOSECONDS, min_size=1, max_size=80), min_size=1, max_size=12)


@pytest.mark.parametrize(("q", "count"), [(0.5, 11), (0.75, 24), (0.9, 64), (0.95, 130), (0.99, 662)])
def test_counts_are_those_of_mlperf(q, count):
    assert min_count(q) == count


@pytest.mark.parametrize("q", [Fraction(1, 2), Fraction(9, 10), Fraction(99, 100)])
def test_a_count_is_the_fewest_that_supports_its_percentile(q):
    """By exact fractions: the chance that at most one of n samples lies above the percentile is at most 1 %."""

    def chance(n):
        return q**n + n * (1 - q) * q ** (n - 1)

    n = min_count(float(q))
    assert chance(n) <= Fraction(1, 100) < chance(n - 1)


@given(TRIALS)
def test_percentiles_are_nearest_rank(trials):
    summary = summarise(trials)
    pooled = np.concatenate([np.array(t, np.int64) for t in trials])
    for percentile in summary.percentiles:
        assert (percentile.ns is None) == (pooled.size < percentile.needs)
        if percentile.ns is not None:
            assert percentile.ns == np.quantile(pooled, percentile.q, method="inverted_cdf")
    assert summary.p50_ns == np.quantile(pooled, 0.5, method="inverted_cdf")
    assert summary.n == pooled.size


@pytest.mark.parametrize("q", QUANTILES)
def test_the_rank_is_exact_at_every_count(q):
    """`ceil(q n)` in floating point must not land one rank too high."""
    exact = Fraction(str(q))
    needs = min_count(q)
    for n in (*range(needs, 700), 1000, 9990, 10_000):
        (percentile,) = (p for p in summarise([range(1, n + 1)]).percentiles if p.q == q)
        assert percentile.ns is None if n < needs else percentile.ns == math.ceil(exact * n)


@pytest.mark.parametrize(
    ("n", "shown"), [(10, []), (11, [0.5]), (63, [0.5]), (64, [0.5, 0.9]), (661, [0.5, 0.9]), (662, [0.5, 0.9, 0.99])]
)
def test_percentiles_are_hidden_below_their_count(n, shown):
    percentiles = summarise([range(1, n + 1)]).percentiles
    assert [p.q for p in percentiles if p.ns is not None] == shown
    assert [p.needs for p in percentiles] == [11, 64, 662]


@given(TRIALS, st.randoms())
def test_neither_the_order_of_samples_nor_of_trials_matters_to_the_pool(trials, random):
    shuffled = [random.sample(t, len(t)) for t in random.sample(trials, len(trials))]
    a, b = summarise(trials), summarise(shuffled)
    assert (a.n, a.p50_ns, a.percentiles, a.p50_ci_ns) == (b.n, b.p50_ns, b.percentiles, b.p50_ci_ns)
    assert sorted(a.trial_p50_ns) == sorted(b.trial_p50_ns)


@given(TRIALS)
def test_the_median_lies_among_the_trials_medians(trials):
    summary = summarise(trials)
    assert min(summary.trial_p50_ns) <= summary.p50_ns <= max(summary.trial_p50_ns)


@given(TRIALS)
def test_an_interval_has_its_reason_or_its_bounds(trials):
    summary = summarise(trials)
    assert (summary.p50_ci_ns is None) == (len(trials) < 6) == bool(summary.p50_ci_reason)
    if summary.p50_ci_ns:
        low, high = summary.p50_ci_ns
        assert {low, high} <= set(summary.trial_p50_ns)
        assert low <= sorted(summary.trial_p50_ns)[len(trials) // 2] <= high


@pytest.mark.parametrize("n", range(6))
def test_no_interval_from_fewer_than_six(n):
    assert median_interval(list(range(n))) is None


@pytest.mark.parametrize("n", range(6, 21))
def test_the_interval_covers_the_truth(n):
    """Of 20,000 experiments, skewed as latencies are, as many cover the known median as the interval says."""
    rng = np.random.default_rng(n)
    draws = (rng.lognormal(sigma=0.5, size=(20_000, n)) * 1e6).astype(np.int64)
    low, high = (int(v) for v in median_interval(list(range(n))))  # ranks, since order statistics are picked
    ordered = np.sort(draws, axis=1)
    covered = np.mean((ordered[:, low] <= 1e6) & (ordered[:, high] >= 1e6))
    exact = 1 - 2 * sum(math.comb(n, k) for k in range(low + 1)) / 2**n
    assert exact >= 0.95
    assert covered == pytest.approx(exact, abs=0.006)
    tighter = 1 - 2 * sum(math.comb(n, k) for k in range(low + 2)) / 2**n
    assert tighter < 0.95


@given(st.lists(NANOSECONDS, min_size=6, max_size=30))
def test_an_interval_is_of_order_statistics(values):
    low, high = median_interval(values)
    ranks = median_interval(list(range(len(values))))
    assert (low, high) == (sorted(values)[ranks[0]], sorted(values)[ranks[1]])


def test_samples_beyond_a_double_stay_whole():
    big = 2**62 + 1
    assert summarise([[big] * 11]).p50_ns == big
