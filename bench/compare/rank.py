"""The exact rank-sum test (Wilcoxon, Mann and Whitney): is one set of trials slower or faster than another?

Distribution-free: it knows only which trial took longer than which. A trial is a fresh process, so what processes
differ by is in it. It knows nothing of what nights differ by: that is `nights`.
Source: Mann and Whitney, "On a test of whether one of two random variables is stochastically larger", 1947.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def two_sided(new: npt.ArrayLike, old: npt.ArrayLike) -> Floats:
    """The chance that trials in random order differ as consistently as float[..., m] and float[..., n] do.

    Pairs of equal values count for neither side, which makes it err on the high side.
    """
    first, second = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    if not first.shape[-1] or not second.shape[-1]:
        return np.ones(np.broadcast_shapes(first.shape[:-1], second.shape[:-1]))
    ordered = np.sort(second, axis=-1)[..., None, :]
    above = (first[..., :, None] > ordered).sum(axis=(-1, -2))
    below = (first[..., :, None] < ordered).sum(axis=(-1, -2))
    chances = _at_least(min(first.shape[-1], second.shape[-1]), max(first.shape[-1], second.shape[-1]))
    return np.minimum(1.0, 2 * chances[np.maximum(above, below)])  # type: ignore[no-any-return]  # numpy gives Any


def least(m: int, n: int) -> float:
    """The smallest chance that so many trials against so many can show: all of one side beyond all of the other."""
    return 1.0 if not m or not n else min(1.0, 2 / math.comb(m + n, m))


@lru_cache(maxsize=256)
def _at_least(m: int, n: int) -> Floats:
    """The chance of u or more won pairs, for every u from 0 to m n, under random order.

    The orders with u won pairs are the coefficients of a Gaussian binomial: a product of (1 - q^(n+i)) / (1 - q^i).
    """
    ways: list[Any] = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            ways[u] -= ways[u - n - i]
        for u in range(i, m * n + 1):
            ways[u] += ways[u - i]
    total, left = math.comb(m + n, m), 0
    chances = np.empty(m * n + 1)
    for u in range(m * n, -1, -1):
        left += ways[u]
        chances[u] = left / total
    return chances
