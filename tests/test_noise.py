"""The noise of float32: which figures make the floor, and when float64 is not believed."""

from __future__ import annotations

import numpy as np
import pytest

from bench.datasets import DataSet
from bench.parity.compare import OutputParity
from bench.parity.precision import QUIETEST_DB
from bench.reference import noise


def parity(snr_db, max_rel_scale=1e-6):
    return OutputParity("y", True, snr_db=snr_db, max_rel_scale=max_rel_scale, cosine=1.0)


def test_the_loudest_way_is_the_floor():
    found = noise._joined("y", {"optimised": {"y": parity(120)}, "nudged": {"y": parity(110, 3e-6)}, "own": {}})
    assert (found.snr_db, found.max_rel_scale) == (110, 3e-6)
    assert (found.optimised, found.nudged, found.own, found.float64) == (1e-6, 3e-6, None, None)


def test_the_floor_is_never_below_the_rounding_of_float32():
    found = noise._joined("y", {"optimised": {"y": parity(None, 0.0)}, "own": {"y": parity(180)}})
    assert found.snr_db == QUIETEST_DB


@pytest.mark.parametrize(
    ("double", "others", "contradicts"),
    [
        (100, (110, 105), False),
        (60, (110, 115), False),
        (40, (110, 115), True),
        (20, (30, 60), False),
        (80, (None,), True),
    ],
)
def test_float64_is_not_believed_where_rounding_cannot_be_why(double, others, contradicts):
    assert noise._contradicts(parity(double), *(parity(o) for o in others)) is contradicts


def test_nudged_inputs_are_the_same_numbers_to_a_last_place():
    ids = np.arange(5)
    x = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    nudged = noise._nudged(DataSet({"x": x, "ids": ids})).feeds
    assert nudged["ids"] is ids
    assert nudged["x"].dtype == np.float32
    assert 0 < np.count_nonzero(nudged["x"] != x) < 1000
    np.testing.assert_array_max_ulp(nudged["x"], x, 1)
