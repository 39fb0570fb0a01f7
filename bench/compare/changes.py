"""Change points: after which nights a cell's level moved, over its whole history.

E-divisive: the series is cut where the energy distance between its two sides is largest; a permutation test says
whether chance would cut so well; then each side is cut in turn. It knows nothing of any distribution, and finds changes
of spread and shape as well as of level.
Source: Matteson and James, "A nonparametric approach for multiple change point analysis of multivariate data", 2014;
for benchmarks in continuous integration: Daly et al., "The use of change point detection to identify software
performance regressions in a continuous integration system", 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
CHANCE, PERMUTATIONS, SEED = 0.01, 499, 20261120
# A change is one that lasted: the night of one bad neighbour is none. Three nights on either side, at the least, are
# needed besides for the test to find anything among few.
FEWEST = 3
# Of longer series the permutations would take minutes.
MOST = 365


@dataclass(frozen=True, slots=True)
class Change:
    """The level moved with the night of this index: by `effect`, a share of the level before, positive is more.

    `chance`: how often chance alone makes so clear a cut, by the permutation test.
    """

    index: int
    effect: float
    chance: float


def change_points(levels: Sequence[float], smallest: float = 0.0) -> list[Change]:
    """The changes in a series of logarithms of nights' levels, oldest first, but for those smaller than `smallest`.

    The same series gives the same answer: permutations are seeded. Of more than `MOST` nights only the newest are cut.
    """
    values = np.asarray(levels, dtype=np.float64)
    skipped = max(0, values.size - MOST)
    values = values[skipped:]
    cuts = dict(_cut(values, 0, np.random.default_rng(SEED)))
    edges = [0, *sorted(cuts), values.size]
    found = []
    for before, at, after in zip(edges, edges[1:], edges[2:], strict=False):
        effect = float(np.expm1(np.median(values[at:after]) - np.median(values[before:at])))
        if abs(effect) >= smallest:
            found.append(Change(at + skipped, effect, cuts[at]))
    return found


def _cut(values: Floats, offset: int, rng: np.random.Generator) -> list[tuple[int, float]]:
    """Where these are cut, by their place in the whole series, and the chance of it."""
    if values.size < 2 * FEWEST:
        return []
    distances = np.abs(values[:, None] - values[None, :])
    gains = _gains(distances)
    at = int(np.argmax(gains)) + FEWEST
    best = float(gains[at - FEWEST]) * (1 - 1e-9)
    beaten = 0
    for _ in range(PERMUTATIONS):
        order = rng.permutation(values.size)
        beaten += bool(_gains(distances[np.ix_(order, order)]).max() >= best)
        if beaten + 1 > CHANCE * (PERMUTATIONS + 1):
            return []
    chance = (beaten + 1) / (PERMUTATIONS + 1)
    left, right = _cut(values[:at], offset, rng), _cut(values[at:], offset + at, rng)
    return [*left, (offset + at, chance), *right]


def _gains(distances: Floats) -> Floats:
    """The energy distance of the two sides, weighted by their sizes, for every place to cut that leaves enough nights.

    With sums over all pairs within the first t nights, W(t), over those after them, V(t), and across, B(t), it is
    t m / (t + m) times 2 B / (t m) - W / t^2 - V / m^2, m being the nights after.
    """
    n = distances.shape[0]
    sums = distances.cumsum(axis=0).cumsum(axis=1)
    t = np.arange(FEWEST, n - FEWEST + 1)
    m = n - t
    within = sums[t - 1, t - 1]
    across = sums[t - 1, n - 1] - within
    after = sums[n - 1, n - 1] - within - 2 * across
    return t * m / n * (2 * across / (t * m) - within / t**2 - after / m**2)  # type: ignore[no-any-return]  # numpy gives Any
