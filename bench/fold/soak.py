"""A soak from its slices: the whole, the begin against the end, and what every slice showed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from bench.fold.core import longer
from bench.interface import Array
from bench.measure import stats
from bench.measure.soak import middle_ns
from bench.record import CaseLine, PercentileFacts, SliceLine, SoakFacts, SpanFacts, TailFacts

# The first minute against the last; a third of it where all of it is shorter than three.
COMPARED_S = 60.0
TAIL_TIMES = (2, 5, 10, 100)


def soak_of(case: CaseLine, slices: Sequence[SliceLine], fastest: float | None = None) -> SoakFacts | None:
    """What the slices, in their order, say together; None without any.

    `fastest`: what the yardstick's readings are held against.
    """
    asked_s = case.case.options.soak_s
    if not slices or asked_s is None:
        return None
    measured_s = sum(s.seconds for s in slices)
    whole = _Counts(slices)
    p50 = whole.percentile(0.5)
    compared_s = min(COMPARED_S, measured_s / 3)
    begin, end = _until(slices, compared_s), _until(list(reversed(slices)), compared_s)
    begin_p50, end_p50 = _Counts(begin).percentile(0.5).ns, _Counts(end).percentile(0.5).ns
    reason = _incomparable(begin, end, begin_p50, end_p50, case.max_foreign_cpu, fastest)
    ratio = end_p50 / begin_p50 if begin_p50 and end_p50 and not reason else None
    return SoakFacts(
        asked_s=asked_s,
        scope=slices[0].scope,
        clock=slices[0].clock,
        measured_s=measured_s,
        n=whole.n,
        per_s=whole.n / measured_s,
        p50_ns=p50.ns,
        percentiles=[whole.percentile(q) for q in stats.QUANTILES],
        max_ns=max(s.max_ns for s in slices),
        tail=[TailFacts(times=t, n=whole.above(t * p50.ns)) for t in TAIL_TIMES] if p50.ns else [],
        begin_p50_ns=begin_p50,
        end_p50_ns=end_p50,
        compared_s=compared_s,
        sustained=None if ratio is None else round(ratio, 6),
        sustained_reason=reason,
        throttled_s=[s.at_s for s in slices if s.observed and s.observed.throttled],
        spans=[_span(s, fastest) for s in slices],
    )


class _Counts:
    """The durations of several slices, as counts of bins."""

    def __init__(self, slices: Iterable[SliceLine]) -> None:
        total: Counter[int] = Counter()
        for one in slices:
            total.update(dict(zip(one.bins.keys, one.bins.counts, strict=True)))
        keys = sorted(total)
        self._ns: Array = middle_ns(np.array(keys, np.int64))
        self._upto: Array = np.cumsum(np.array([total[k] for k in keys], np.int64))
        self.n = int(self._upto[-1]) if keys else 0

    def percentile(self, q: float) -> PercentileFacts:
        """By nearest rank, to the width of a bin; null where there are fewer than it needs."""
        needs = stats.min_count(q)
        if self.n < needs:
            return PercentileFacts(q=q, ns=None, needs=needs)
        rank = np.searchsorted(self._upto, max(1, np.ceil(q * self.n)))
        return PercentileFacts(q=q, ns=int(self._ns[rank]), needs=needs)

    def above(self, ns: float) -> int:
        """How many took longer."""
        index = int(np.searchsorted(self._ns, ns, side="right"))
        return self.n - (int(self._upto[index - 1]) if index else 0)


def _until(slices: Sequence[SliceLine], seconds: float) -> list[SliceLine]:
    """The first slices that last so long together, to within half of one; at least one."""
    found: list[SliceLine] = []
    passed = 0.0
    for one in slices:
        if found and passed + one.seconds / 2 > seconds:
            break
        found.append(one)
        passed += one.seconds
    return found


def _incomparable(
    begin: Sequence[SliceLine],
    end: Sequence[SliceLine],
    begin_p50: int | None,
    end_p50: int | None,
    allowed: float,
    fastest: float | None,
) -> str:
    """Why the begin and the end cannot be held against each other; empty where they can."""
    if len(begin) == len(end) and begin[0].number == end[-1].number:
        return "it was too short to have a begin and an end"
    for name, part, p50 in (("first", begin, begin_p50), ("last", end, end_p50)):
        span = f"the {name} {sum(s.seconds for s in part):.0f} s"
        if p50 is None:
            return f"{span} hold fewer inferences than a median takes ({stats.min_count(0.5)})"
        others = [s.load.foreign_cpu for s in part]
        if allowed < 1 and any(x is None for x in others):
            return f"it is not known what others used of the CPU in {span}"
        if (used := _mean((s.load.foreign_cpu, s.seconds) for s in part)) > allowed:
            return f"others used {used:.0%} of the CPU in {span}"
        if allowed < 1 and (taken := _mean((longer(s.core_ns, fastest), s.seconds) for s in part)) > allowed:
            return f"the CPU was {taken:.0%} slower than it can be in {span}: a neighbour, or its clock"
    return ""


def _mean(shares: Iterable[tuple[float | None, float]]) -> float:
    """Of shares with the time that each held for; one that is not known counts as nothing."""
    known = list(shares)
    return sum((share or 0.0) * seconds for share, seconds in known) / sum(seconds for _, seconds in known)


def _span(one: SliceLine, fastest: float | None) -> SpanFacts:
    counts, seen = _Counts([one]), one.observed
    return SpanFacts(
        at_s=round(one.at_s, 3),
        seconds=one.seconds,
        n=counts.n,
        per_s=counts.n / one.seconds,
        p50_ns=counts.percentile(0.5).ns,
        p99_ns=counts.percentile(0.99).ns,
        max_ns=one.max_ns,
        foreign_cpu=one.load.foreign_cpu,
        frequency_mhz=seen.frequency_mhz[0] if seen and seen.frequency_mhz else None,
        temperature_c=seen.temperature_c if seen else None,
        throttle=seen.throttle if seen else "",
        rss_bytes=one.rss_bytes,
        core_slowed=longer(one.core_ns, fastest),
    )
