"""Whether two outputs rank the classes alike. Reported, never decides. Pure numpy, Python 3.10."""

from __future__ import annotations

import math

import numpy as np

from bench.interface import Array
from bench.parity.numbers import Numbers

# Fewer classes hardly rank, and more elements are no classifier's answer (and sorting them would take longer than
# comparing them).
FEWEST, MOST = 5, 1 << 20
BEST = 5


def agreement(expected: Numbers, got: Numbers) -> tuple[float | None, float | None]:
    """Shares of rows: the same best class, and, on average, the reference's best five found among the best five.

    An output ranks when it is real, one row of at least five classes per sample ([N, C], or with trailing ones as
    [N, C, 1, 1]), and finite. Whether it holds logits, probabilities or an embedding cannot be told and does not
    matter: so these two figures decide nothing. Classes that are exactly as good as the best count as the best.
    """
    shape = expected.shape
    if len(shape) < 2 or shape[1] < FEWEST or expected.kind == "c" or not 0 < expected.size <= MOST:
        return None, None
    if math.prod(shape[2:]) != 1:
        return None, None
    rows, values = (n.part(0, n.size).reshape(shape[0], shape[1]) for n in (expected, got))
    if not (np.isfinite(rows).all() and np.isfinite(values).all()):
        return None, None
    chosen = np.argmax(values, axis=1)[:, None]
    top1 = float(np.mean(np.take_along_axis(rows, chosen, axis=1)[:, 0] >= rows.max(axis=1)))
    return top1, _best_five(rows, values) if shape[1] > BEST else None


def _best_five(rows: Array, values: Array) -> float:
    """How many of the five that `values` put first are no worse than the fifth best of `rows`."""
    chosen = np.argpartition(values, -BEST, axis=1)[:, -BEST:]
    fifth = np.partition(rows, -BEST, axis=1)[:, -BEST][:, None]
    return float(np.mean(np.take_along_axis(rows, chosen, axis=1) >= fifth))
