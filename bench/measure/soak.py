"""One stretch of a soak: inference after inference for a given time, kept as a histogram. It runs inside the child.

However long a soak lasts, memory stays as it is: of a stretch is kept how many durations fell into each bin, and the
longest of them. None is left out. A bin is a thousandth of its duration wide, and one nanosecond below 2 us.
Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from time import perf_counter_ns
from typing import Any

import numpy as np

from bench.interface import Array, Feeds, Outputs, Plan, Session
from bench.measure import loop

# The number of a duration's bin is the upper part of its float64: exponent and ten bits, so that it rises with it.
BITS = 10
_SHIFT = 52 - BITS
_FIRST = 1023 << BITS  # the bin of one nanosecond
_BINS = 53 << BITS  # up to 2^53 ns, a hundred days
# Durations are put into bins this often: it takes about 0.1 ms, outside of what is timed. Rule of thumb.
FOLD_NS = 250_000_000
# At most so many looks in a stretch: every fold of one of five seconds, and a bounded number however long it is.
LOOKS = 20


def bins_of(samples_ns: Any) -> Array:
    """The number of each duration's bin. What is not positive is in bin 0."""
    bits = np.maximum(np.asarray(samples_ns, np.float64), 0.5).view(np.int64) >> _SHIFT
    return np.asarray(np.clip(bits - _FIRST + 1, 0, _BINS - 1))


def middle_ns(bins: Any) -> Array:
    """The whole nanosecond in the middle of each bin: off from any duration in it by at most a part in 2048."""
    edges = np.asarray(bins, np.int64) - 1 + _FIRST
    low = (edges << _SHIFT).view(np.float64)
    high = np.ceil(((edges + 1) << _SHIFT).view(np.float64)) - 1
    return np.where(np.asarray(bins) > 0, (np.ceil(low) + high) // 2, 0).astype(np.int64)


class Histogram:
    """Counts of durations by bin, their number, sum, and extremes."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self.n = 0
        self.sum_ns = 0.0
        self.min_ns = self.max_ns = 0

    def add(self, samples_ns: Array) -> None:
        """Count these, at least one."""
        self._counts += np.bincount(bins_of(samples_ns), minlength=_BINS)
        low, high = int(samples_ns.min()), int(samples_ns.max())
        self.min_ns, self.max_ns = (min(self.min_ns, low), max(self.max_ns, high)) if self.n else (low, high)
        self.n += samples_ns.size
        self.sum_ns += float(np.sum(samples_ns, dtype=np.float64))

    def bins(self) -> tuple[list[int], list[int]]:
        """The bins that are not empty, ascending, and their counts."""
        keys = np.flatnonzero(self._counts)
        return keys.tolist(), self._counts[keys].tolist()


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a stretch leaves. `fits`: the durations are positive and add up to no more than the harness's bracket."""

    histogram: Histogram
    scope: str
    clock: str
    bracket_ns: int
    fits: bool
    outputs: Outputs
    feed_index: int


def warm_up(session: Session, feeds: Sequence[Feeds], plan: Plan) -> loop.WarmUp:
    """Before the first stretch: run until the durations are steady, as before any timed loop."""
    with loop.no_garbage_collection():
        return loop.warm_up(session.run, feeds, plan)


def stretch(
    session: Session, feeds: Sequence[Feeds], seconds: float, look: Callable[[], object] = loop.undisturbed
) -> Stretch:
    """Inference after inference for so long, at least one, by the session's own clock if it has one.

    `look`: called now and then between two inferences, which nothing is timed during; never by a clock of its own.

    Raises:
        RunError: the backend gave no outputs, or its own clock gave samples that cannot be read.
    """
    histogram = Histogram()
    with loop.no_garbage_collection():
        begin = perf_counter_ns()
        own = session.measure(feeds, Plan(1, seconds, seconds, 1, 0.0, 0.0, None))
        if own is None:
            outputs, last, bracket_ns = _timed(session.run, feeds, seconds, histogram, look)
            return _stretch(histogram, "end_to_end", "host", bracket_ns, outputs, last)
        bracket_ns = perf_counter_ns() - begin
    loop.check(own, len(feeds))
    headline = own.series[0]
    histogram.add(np.asarray(headline.samples_ns, np.int64))
    return _stretch(histogram, headline.scope, headline.clock, bracket_ns, own.outputs, own.feed_index)


def _stretch(
    histogram: Histogram, scope: str, clock: str, bracket_ns: int, outputs: Outputs, feed_index: int
) -> Stretch:
    fits = histogram.min_ns > 0 and histogram.sum_ns <= bracket_ns + loop.BRACKET_SLACK_NS
    return Stretch(histogram, scope, clock, bracket_ns, fits, outputs, feed_index)


def _timed(
    run: Callable[[Feeds], Outputs],
    feeds: Sequence[Feeds],
    seconds: float,
    histogram: Histogram,
    look: Callable[[], object],
) -> tuple[Outputs, int, int]:
    """The last outputs, which feed made them, and how long it took in nanoseconds, the looks left out."""
    rotation = cycle(feeds)
    chunk, limit_ns = 1, seconds * 1e9
    look_every_ns = look_at_ns = limit_ns / LOOKS
    begin = perf_counter_ns()
    while True:
        taken = array("q")
        outputs: Outputs = {}  # freed: beside the next outputs it would be memory that a deployed model does not take
        outputs = loop.chunk_of(run, islice(rotation, chunk), taken.append)
        histogram.add(np.frombuffer(taken, np.int64))
        elapsed = perf_counter_ns() - begin
        if elapsed >= limit_ns:
            return outputs, (histogram.n - 1) % len(feeds), elapsed
        if elapsed >= look_at_ns:
            look()
            look_at_ns = elapsed + look_every_ns
            begin = perf_counter_ns() - elapsed
        typical = max(1.0, elapsed / histogram.n)
        chunk = int(max(1, min(loop.MAX_CHUNK, min(FOLD_NS, limit_ns - elapsed) // typical)))
