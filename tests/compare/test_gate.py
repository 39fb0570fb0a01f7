"""The gate's parts against what is known of them, and the gate as a whole by simulation with known truth."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.compare import decide, nights, rank

SPEC = importlib.util.spec_from_file_location("gate", Path(__file__).parent.parent / "benchmarks" / "gate.py")
gate = sys.modules["gate"] = importlib.util.module_from_spec(SPEC)  # where dataclasses look for it
SPEC.loader.exec_module(gate)

# The exact rank-sum test.


@pytest.mark.parametrize(("m", "n"), [(1, 1), (1, 5), (3, 3), (4, 2), (3, 6)])
def test_rank_chances_are_those_of_every_order(m, n):
    values = np.arange(m + n, dtype=float)
    found = []
    for chosen in itertools.combinations(range(m + n), m):
        new = values[list(chosen)]
        old = np.delete(values, chosen)
        won = sum(a > b for a in new for b in old)
        found.append((max(won, m * n - won), float(rank.two_sided(new, old))))
    for extreme, chance in found:
        assert chance == pytest.approx(min(1.0, sum(e >= extreme for e, _ in found) / len(found)))


@settings(max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.lists(st.integers(0, 20), min_size=1, max_size=8))
def test_rank_is_symmetric_bounded_and_free_of_any_scale(new, old):
    chance = float(rank.two_sided(new, old))
    assert rank.least(len(new), len(old)) * (1 - 1e-12) <= chance <= 1
    assert chance == rank.two_sided(old, new) == rank.two_sided(np.exp(new), np.exp(old))


def test_equal_trials_say_nothing():
    assert rank.two_sided([3] * 6, [3] * 6) == 1
    assert rank.two_sided([], [1, 2]) == 1


def test_six_against_six_cannot_say_much():
    assert float(rank.two_sided(range(6), range(6, 12))) == rank.least(6, 6) == pytest.approx(2 / 924)


# Nights.


@pytest.mark.parametrize(
    ("t", "nights_known", "degrees", "chance"),
    [(2.262, 1000, 9, 0.05), (4.604, 1000, 4, 0.01), (3.883, 1000, 19, 0.001)],
)
def test_one_look_is_students_t(t, nights_known, degrees, chance):
    """Quantiles from a printed table of Student's distribution."""
    assert float(nights.chance(t, nights_known, degrees, 1)) == pytest.approx(chance, rel=0.02)


@pytest.mark.parametrize(("known", "looks"), [(1, 1), (1, 2), (4, 2), (10, 1), (10, 2)])
def test_chances_are_those_that_simulated_nights_show(known, looks):
    rng = np.random.default_rng(known * 10 + looks)
    count, degrees = 400_000, 6
    spread = np.sqrt(rng.chisquare(degrees, count) / degrees)
    centre = np.median(rng.standard_normal((count, known)), axis=1)
    off = rng.standard_normal((looks, count)) - centre
    near = np.minimum(off.min(axis=0), np.inf) / spread
    for u in (0.5, 1.5, 2.5):
        stated = float(nights.chance(u, known, degrees, looks))
        assert 2 * (near >= u).mean() <= stated * 1.03
        assert 2 * (near >= u).mean() >= stated * (0.97 if known == 1 else 0.7)


@given(st.floats(1e-6, 0.2), st.integers(1, 10), st.integers(3, 40), st.sampled_from([1, 2]))
def test_distance_is_the_inverse_of_chance(wanted, known, degrees, looks):
    u = nights.distance(wanted, known, degrees, looks)
    assert float(nights.chance(u, known, degrees, looks)) == pytest.approx(wanted, rel=1e-6)
    assert nights.distance(wanted, known, degrees, 2) <= nights.distance(wanted, known, degrees, 1)


def test_location_is_moved_neither_by_scale_nor_much_by_one_trial_far_out():
    trials = np.array([1.0, 1.01, 1.02, 1.03, 1.04, 1.05])
    assert float(nights.location(trials)) == pytest.approx(1.025)
    assert float(nights.location([*trials[:-1], 9.0])) < 1.06


def test_levels_are_learnt_each_about_itself():
    noise = nights.learn([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]], 0.0)
    assert noise.centre == 2.0
    assert noise.nights == 3
    assert noise.seen == 6
    assert noise.reach == 0
    assert noise.spread < nights.LEAST
    assert noise.degrees == 4 + nights.ASSUMED_NIGHTS


# Benjamini and Hochberg.


def test_discoveries_step_up():
    assert decide.discoveries([0.009, 0.02, 0.5], 0.03).tolist() == [True, True, False]
    assert decide.discoveries([0.012, 0.02, 0.5], 0.03).tolist() == [True, True, False]
    assert decide.discoveries([0.012, 0.5, 0.5], 0.03).tolist() == [False, False, False]
    assert decide.discoveries([], 0.03).tolist() == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.floats(0.001, 0.3))
def test_discoveries_are_the_smallest_ones_and_more_of_them_at_more_risk(chances, q):
    found = decide.discoveries(chances, q)
    assert not found.any() or max(np.array(chances)[found]) < min([*np.array(chances)[~found], math.inf])
    assert (found <= decide.discoveries(chances, 2 * q)).all()
    assert found.all() or not (np.array(chances) <= q / len(chances))[~found].any()


# The gate, by simulation. The benchmark prints the whole table.


def test_false_alarms_are_rare():
    seen = gate.matrix(400 + 20, np.random.default_rng(7))
    alarms = gate.judged(seen, 20).changed.any(axis=1)
    assert alarms.sum() <= 9  # of 400 nights; at 1 % more are seen 1.4 % of the time
    assert gate.judged(gate.matrix(150 + 3, np.random.default_rng(8)), 3).changed.any(axis=1).sum() <= 2


def test_slowdowns_are_found():
    rng = np.random.default_rng(11)
    assert gate.found("steady", 20, 0.05, 1, 300, rng) >= 0.97
    assert gate.found("steady", 20, 0.03, 3, 300, rng) >= 0.85
    assert gate.found("steady", 3, 0.30, 1, 100, rng) >= 0.95


def test_nothing_is_pretended_without_history():
    rng = np.random.default_rng(12)
    assert gate.found("steady", 1, 0.05, 1, 100, rng) == 0
    assert gate.found("steady", 1, 0.05, 1, 100, rng, spread=0.002) == 0


def test_speedups_are_found_as_slowdowns_are():
    seen = gate.world(60, ["steady"], np.array([0.005]), np.random.default_rng(13))
    assert gate.judged(seen, 20, effect=-0.05).changed.all()


def test_a_first_look_that_the_second_does_not_show_is_no_change():
    rng = np.random.default_rng(14)
    before = 0.004 * rng.standard_normal((50, 1, 20, 6))
    now, again = 0.2 + 0.004 * rng.standard_normal((50, 1, 6)), 0.004 * rng.standard_normal((50, 1, 6))
    assert not gate.gate(now, again, before).changed.any()
    assert not gate.gate(now, -now, before).changed.any()
    assert gate.gate(now, again + 0.2, before).changed.all()
