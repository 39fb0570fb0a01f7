"""Has the memory of a cell's processes changed? By the peak of each of them, without statistics but counting.

A cell has grown where every process of both looks, the run and its re-run, peaks beyond every one of the nights before,
by enough to matter; and where they are so many that in random order they would seldom lie so. What processes differ by
is in it, and so is what nights differ by, once some are known.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.compare import rank
from bench.record import Record

# Memory is steady: what matters must be beyond every process of every night by so much.
# Source: three processes each of 23 cases of results/records range over 1 % in most, 11 % at most.
SHARE, BYTES = 0.05, 1 << 20


def peaks(record: Record | None) -> list[int]:
    """The peak of each process of a case."""
    return record.memory.trial_peak_rss_bytes if record and record.memory else []


def side(now: Sequence[int], before: Sequence[int]) -> int:
    """1 where all are larger than all before, by enough to matter; -1 where all are smaller; else 0."""
    if not now or not before:
        return 0
    if min(now) - max(before) > max(BYTES, SHARE * max(before)):
        return 1
    return -1 if min(before) - max(now) > max(BYTES, SHARE * min(before)) else 0


def nearest(found: Sequence[int], way: int) -> int:
    """Of peaks that are larger (1) or smaller (-1) than others, the one that shows it least."""
    return min(found) if way > 0 else max(found)


def chance(now: Sequence[int], again: Sequence[int], before: Sequence[int]) -> float:
    """How often processes in random order would all lie on one side of those before."""
    return rank.least(len(now) + len(again), len(before))
