"""When warming up ends: on made-up durations of every size, and through the loop with a clock that a test moves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.interface import Plan, Session
from bench.measure import loop
from bench.measure.steady import ALIKE, steady

SECOND = 1_000_000_000


def noisy(count, seed, sd=0.01):
    return 1 + sd * np.random.default_rng(seed).standard_normal(count)


@given(st.integers(6, 400), st.floats(1e2, 1e9), st.integers(1, 4))
def test_equal_durations_are_steady(count, ns, period):
    assert steady([ns] * max(count, 6 * period), period)


@pytest.mark.parametrize("count", range(6))
def test_too_few_to_tell(count):
    assert not steady([5.0] * count)


@pytest.mark.parametrize(("count", "share"), [(6, 0.4), (9, 0.6), (30, 0.85), (60, 0.9), (600, 0.9)])
def test_noise_is_mostly_steady(count, share):
    """Where it is not, warming up goes on a little. Of three values nobody can tell."""
    found = [steady(noisy(count, seed, sd=0.05)) for seed in range(200)]
    assert np.mean(found) >= share


@pytest.mark.parametrize("change", [-0.5, -0.1, 0.1, 1.0])
def test_a_step_between_their_middles_is_not(change):
    values = noisy(60, 1)
    for begin in range(31, 50):
        assert not steady(values * np.where(np.arange(60) < begin, 1.0, 1 + change)), begin
    assert steady(values * np.where(np.arange(60) < 20, 1.0, 1 + change)), "what lies in the first third is forgotten"


@pytest.mark.parametrize("slope", [0.05, -0.05])
def test_a_slow_trend_is_not(slope):
    assert not steady(noisy(300, 2) * np.linspace(1, 1 + slope, 300))


@given(st.floats(0.01, 10), st.floats(0.1, 1))
def test_what_is_left_of_a_decay_is_little(height, scale):
    """Where it is called steady, less than twice what counts as alike is left of the decay that went before.

    (Of one that takes more than ten values to fall to a third, six values do not tell.)
    """
    values = [1 + height * math.exp(-index * scale) for index in range(2000)]
    end = next(n for n in range(6, 2000) if steady(values[:n]))
    assert values[end] - 1 < 2 * ALIKE


@pytest.mark.parametrize("period", [2, 3])
def test_inputs_of_different_cost_are_steady(period):
    values = [1.0 + index % period for index in range(60)]
    assert all(steady(values[:count], period) for count in range(3 * period + 6, 60))


class Warming(Session):
    """Each run takes what its moment says."""

    def __init__(self, clock, ns_at):
        self.clock, self.ns_at = clock, ns_at
        self.fed = 0

    def run(self, feeds):
        self.clock[0] += max(1, int(self.ns_at(self.clock[0] / SECOND)))
        return {}


def warm_up(monkeypatch, ns_at, feeds=1):
    """How the warm-up of the default plan ended, after how many inferences, and when."""
    clock = [0]
    begun = []
    monkeypatch.setattr(loop, "perf_counter_ns", lambda: clock[0])
    session = Warming(clock, ns_at)
    monkeypatch.setattr(loop.stats, "precise", lambda *_: begun.append(1) or True)
    samples, bracket = loop.timed(session.run, [{}] * feeds, Plan(min_count=1, min_s=0.0))
    return samples.warmup_ended_by, samples.warmup_count, (clock[0] - bracket) / SECOND


SIZES = [100, 10_000, 6_500_000, 75_000_000]


@pytest.mark.parametrize("ns", [*SIZES, 500_000_000])
def test_without_warming_it_takes_the_least(monkeypatch, ns):
    ended_by, count, seconds = warm_up(monkeypatch, lambda at: ns)
    assert ended_by == "steady"
    assert seconds == pytest.approx(max(0.2, 6 * ns / SECOND), rel=0.2)
    assert count == pytest.approx(seconds * SECOND / ns, rel=0.01)


@pytest.mark.parametrize("ns", SIZES[1:])
@pytest.mark.parametrize("slow", [0.8, 1.3, 3.0])
def test_a_step_is_waited_for(monkeypatch, ns, slow):
    ended_by, _, seconds = warm_up(monkeypatch, lambda at: ns * (slow if at < 0.12 + 2 * ns / SECOND else 1))
    assert ended_by == "steady"
    assert seconds > 0.12 + 2 * ns / SECOND


@pytest.mark.parametrize("ns", SIZES[1:])
def test_a_decay_is_waited_for(monkeypatch, ns):
    ended_by, _, seconds = warm_up(monkeypatch, lambda at: ns * (1 + math.exp(-at / 0.2)))
    assert ended_by == "steady"
    assert math.exp(-seconds / 0.2) < 0.02


@pytest.mark.parametrize("ns", SIZES[1:])
def test_what_never_ends_is_bounded_and_said(monkeypatch, ns):
    ended_by, _, seconds = warm_up(monkeypatch, lambda at: ns * (1 + at))
    assert ended_by == "limit"
    assert Plan().warmup_max_s <= seconds <= Plan().warmup_max_s + 0.01 + 7 * ns / SECOND


def test_inferences_of_different_cost(monkeypatch):
    cost = iter(range(10**9))
    ended_by, _, seconds = warm_up(monkeypatch, lambda at: 5_000_000 * (1 + next(cost) % 2), feeds=2)
    assert ended_by == "steady"
    assert seconds < 0.3
