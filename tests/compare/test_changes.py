"""Change points: found where the truth has them, not where it has none, and told with what changed."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.compare import story
from bench.compare.changes import FEWEST, _gains, change_points
from bench.compare.picture import svg
from bench.report import blocks

replace = msgspec.structs.replace


def test_gains_are_energy_distances():
    values = np.random.default_rng(0).standard_normal(9)
    distances = np.abs(values[:, None] - values[None, :])
    for number, t in enumerate(range(FEWEST, 9 - FEWEST + 1)):
        a, b, m = values[:t], values[t:], 9 - t
        across = np.abs(a[:, None] - b[None, :]).mean()
        within = np.abs(a[:, None] - a[None, :]).mean(), np.abs(b[:, None] - b[None, :]).mean()
        assert _gains(distances)[number] == pytest.approx(t * m / 9 * (2 * across - sum(within)))


def test_moves_are_found_where_they_are():
    rng = np.random.default_rng(1)
    truth = np.concatenate([np.zeros(30), np.full(25, 0.05), np.full(20, -0.02)])
    first, second = change_points(truth + 0.005 * rng.standard_normal(truth.size))
    assert abs(first.index - 30) <= 1
    assert abs(second.index - 55) <= 1
    assert first.effect == pytest.approx(math.expm1(0.05), abs=0.005)
    assert second.effect == pytest.approx(math.expm1(-0.07), abs=0.005)
    assert first.chance <= 0.01


@pytest.mark.parametrize("kind", ["normal", "heavy", "two modes"])
def test_where_nothing_moved_hardly_anything_is_found(kind):
    rng = np.random.default_rng(2)
    draws = {
        "normal": lambda: rng.standard_normal(40),
        "heavy": lambda: rng.standard_t(2, 40),
        "two modes": lambda: rng.standard_normal(40) + 8 * (rng.random(40) < 0.3),
    }
    assert sum(bool(change_points(0.005 * draws[kind]())) for _ in range(100)) <= 4


def test_one_odd_night_moves_no_level():
    levels = [0.001 * (n % 3) for n in range(20)]
    levels[10] = 0.4
    assert change_points(levels) == []


@settings(max_examples=20)
@given(st.lists(st.floats(-1, 1), max_size=12))
def test_any_series_has_ordered_changes_and_the_same_every_time(levels):
    found = change_points(levels)
    assert found == change_points(levels)
    indices = [c.index for c in found]
    assert indices == sorted(set(indices))
    assert all(FEWEST <= i <= len(levels) - FEWEST for i in indices)


def test_small_moves_are_left_out():
    levels = [0.0] * 10 + [0.004] * 10
    assert change_points(levels, 0.01) == []
    assert [c.index for c in change_points(levels, 0.001)] == [10]


# Told.


@pytest.fixture(scope="module")
def told(nights):
    """25 nights: from the 15th on another version, 6 % slower; one noisy, one crashed; a re-run besides."""
    rng = np.random.default_rng(4)
    made = []
    for number in range(25):
        more = {"runtimes": {"onnxruntime": "1.32"}} if number >= 15 else {}
        if number == 7:
            more["foreign"] = 0.5
        made.append(nights.record(nights.trials(6.5 if number < 15 else 6.89, rng), number, **more))
    made.append(nights.record([9.0] * 6, 20, confirms=made[20].id, id="again", seconds=99))
    return story.story(made, 0.01)


def test_the_night_and_the_versions_are_told(told):
    (moved,) = told.moved
    assert moved.first.started_at.startswith("2026-01-16")
    assert moved.effect == pytest.approx(0.06, abs=0.01)
    assert moved.causes == ("onnxruntime 1.31.1 → 1.32",)
    text = blocks.markdown(story.page(told))
    assert "- 2026-01-16, run 20260116T020000Z-0000000f: 6.0% slower" in text or "slower (by chance" in text
    assert text.count("onnxruntime 1.31.1 → 1.32") == 2
    assert "noisy" in text
    spark = story.sparkline(told)
    assert len(spark) == 25
    assert spark[7] == "·"
    assert max(spark[:7]) < min(spark[16:])


def test_lines_of_a_story(told):
    line = json.loads(story.as_json(told))
    assert len(line["nights"]) == 25
    assert line["nights"][7]["value"] is None
    assert line["nights"][0]["value"] == pytest.approx(6.5, rel=0.03)
    assert line["changes"][0]["causes"] == ["onnxruntime 1.31.1 → 1.32"]
    assert line["nights"][14]["versions"]["onnxruntime"] == "1.31.1"


def test_a_cell_that_never_worked_has_a_story(nights):
    one = story.story([nights.record([], number) for number in range(3)], 0.01)
    assert one.moved == ()
    assert story.sparkline(one) == ""
    assert "skipped" in blocks.markdown(story.page(one))


def test_the_picture_is_the_same_every_time(told, nights):
    from bench.errors import UsageError

    pytest.importorskip("matplotlib")
    picture = svg(told)
    assert picture == svg(told)
    assert picture.startswith("<?xml")
    assert "squeezenet on ort-cpu" in picture
    with pytest.raises(UsageError, match="nothing to draw"):
        svg(story.story([nights.record([], 1)], 0.01))
