"""The rule for memory, simulated with known truth: what it finds, and how rarely chance looks like it."""

from __future__ import annotations

import numpy as np
import pytest

from bench.compare import decide, memory

MIB, CELLS, TRIALS = 1 << 20, 2000, 6


def peaks(kind, rng, count, factor=1.0):
    """Peaks of processes of one cell of 100 MiB; `modes`: some of them take 11 % more, the most that was seen."""
    values = 1 + 0.01 * (rng.standard_t(3, count) if kind == "heavy" else rng.standard_normal(count))
    if kind == "modes":
        values = values * np.where(rng.random(count) < rng.random(), 1.11, 1.0)
    return [round(value) for value in 100 * MIB * factor * values]


def judged(kind, nights, rng, factor=1.0):
    """1, -1 or 0 by both looks at a cell after so many nights; a cell's share of large processes stays its own."""
    found = peaks(kind, rng, TRIALS * (nights + 2))
    before, now, again = found[2 * TRIALS :], found[:TRIALS], found[TRIALS : 2 * TRIALS]
    now, again = ([round(value * factor) for value in look] for look in (now, again))
    side = memory.side(now, before)
    sure = memory.chance(now, again, before) <= decide.Q
    return side if sure and memory.side(again, before) == side else 0


@pytest.mark.parametrize("nights", [1, 5, 20])
@pytest.mark.parametrize("kind", ["steady", "modes", "heavy"])
def test_what_did_not_change_is_not_said_to_have(kind, nights):
    rng = np.random.default_rng(nights)
    assert sum(judged(kind, nights, rng) != 0 for _ in range(CELLS)) <= 1


@pytest.mark.parametrize("nights", [1, 5, 20])
@pytest.mark.parametrize(("factor", "side"), [(1.15, 1), (0.85, -1)])
def test_every_process_by_a_sixth_is_found(nights, factor, side):
    rng = np.random.default_rng(nights)
    assert sum(judged("steady", nights, rng, factor) == side for _ in range(200)) >= 198


def test_little_is_nothing():
    assert memory.side([104 * MIB] * TRIALS, [100 * MIB] * TRIALS) == 0
    assert memory.side([MIB] * TRIALS, [MIB // 2] * TRIALS) == 0
    assert memory.side([], [MIB]) == memory.side([MIB], []) == 0


def test_one_process_a_look_needs_many_nights():
    assert memory.chance([1], [1], [1]) > decide.Q
    assert memory.chance([1], [1], [1] * 20) <= decide.Q
