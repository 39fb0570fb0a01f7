"""The gate: from what was seen of cells to which of them changed. Arrays in, arrays out, so that it can be simulated.

A cell has changed only if all of this holds for both looks, the run and its confirming re-run:
1. all trials together are slower (or faster) than those of its level, by the exact rank test;
2. they are farther off than nights of this cell get by chance, given how well its noise is known;
3. they are half as far again off as any night of its history was, and by no less than the smallest effect of interest;
   while few nights are known, by no less than a mode can be worth that none of them happened to show.
The larger of the first two chances is the cell's; over all cells of the comparison the false discovery rate is held by
Benjamini and Hochberg's rule.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bench.compare import nights

Floats = npt.NDArray[np.float64]
Q = 0.01
# A cell this unlikely to be unchanged, by itself, is measured again. Two looks that are each at the limit of what two
# can reject among 200 cells are at about 0.01 alone; what is missed here is missed by the gate.
SCREEN = 0.01
# A night in a mode that a few earlier nights were in is a little farther off than these half of the time.
MARGIN = 1.5
# A mode that three nights in ten are in is missed by fifteen nights less than once in 200 times (0.7^15). Until then a
# change must be larger than what processes of one runtime on one quiet machine were seen to differ by.
# Source: ncnn, squeezenet, 12 processes ranged over 5.3 %; 2-core x86-64 virtual machine, 2026-11.
ENOUGH_NIGHTS, UNSEEN = 15, 0.05


def chance(
    effects: npt.ArrayLike,
    rank_chance: npt.ArrayLike,
    *,
    spread: npt.ArrayLike,
    reach: npt.ArrayLike,
    nights_known: int,
    nights_seen: int,
    degrees: int,
    threshold: float,
) -> Floats:
    """The chance that stands for cells, by their effects float[..., looks]: 1 where a condition does not hold.

    `rank_chance`, `spread` and `reach` are float[...]; effects are the looks' distances from the level, which has so
    many `nights_known`, of `nights_seen` on all levels.
    """
    seen = np.asarray(effects, dtype=np.float64)
    looks: Any = seen.shape[-1]
    agree = np.abs(np.sign(seen).sum(axis=-1)) == looks
    smallest = np.where(agree, np.abs(seen).min(axis=-1), 0.0)
    by_night = nights.chance(smallest / np.asarray(spread), nights_known, degrees, looks)
    counts = (smallest > MARGIN * np.asarray(reach)) & (smallest >= least(nights_seen, threshold))
    return np.where(counts, np.maximum(by_night, np.asarray(rank_chance)), 1.0)


def least(nights_seen: int, threshold: float) -> float:
    """The smallest effect that can be told with so many nights, however steady they were."""
    return threshold if nights_seen >= ENOUGH_NIGHTS else max(threshold, UNSEEN)


def discoveries(chances: npt.ArrayLike, q: float = Q) -> npt.NDArray[np.bool_]:
    """Which of float[..., cells] may be called changed, so that on average at most a share q of these is not.

    Source: Benjamini and Hochberg, "Controlling the false discovery rate", 1995.
    """
    values = np.asarray(chances, dtype=np.float64)
    count = values.shape[-1]
    if not count:
        return np.zeros(values.shape, dtype=bool)
    ordered = np.sort(values, axis=-1)
    holds = ordered <= q * np.arange(1, count + 1) / count
    last = np.where(holds.any(axis=-1), count - 1 - np.argmax(holds[..., ::-1], axis=-1), -1)
    limit = np.where(last >= 0, np.take_along_axis(ordered, np.maximum(last, 0)[..., None], -1)[..., 0], -1.0)
    return values <= limit[..., None]
