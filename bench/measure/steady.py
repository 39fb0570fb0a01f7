"""When warming up has ended, told from the durations so far. Pure; runs in the child.

Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Medians of two stretches that differ by less than this are alike: the precision that a run aims at by default.
ALIKE = 0.01
# A median of normal noise has 1.2533 times the standard error of a mean; 1.4826 times the median deviation is a
# standard deviation. Twice the standard error of the difference is what noise does 19 times in 20.
_NOISE = 2 * 1.2533 * 1.4826 * 2**0.5
# Two values on either side cannot show a trend, but an inference of half a second leaves no time for many more.
MIN_STRETCH = 2


def steady(durations: Sequence[float], period: int = 1) -> bool:
    """Whether the last third of these durations is as fast as the third before it, but for noise.

    The stretches grow with the time spent, so a change is seen at whatever scale it happens: warming that took t is
    left behind, in the first third, by about 3 t. Inputs that rotate and differ in cost have a `period`; a stretch
    holds whole ones where it can.
    """
    length = len(durations) // 3
    length -= length % period if length >= period else 0
    if length < MIN_STRETCH:
        return False
    values = np.asarray(durations[-2 * length :], dtype=np.float64).reshape(2, length)
    before, after = np.median(values, axis=1)
    difference = abs(after - before)
    # Stretches that do not even overlap are no noise, however small the difference: a slow decay looks like that.
    if values[0].min() > values[1].max() or values[0].max() < values[1].min():
        return bool(difference <= ALIKE / 4 * before)
    spread = np.median(np.abs(values - np.array([[before], [after]])))
    return bool(difference <= max(ALIKE * before, _NOISE * spread / length**0.5))
