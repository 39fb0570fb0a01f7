"""Parallel streams over trials: one throughput, one rate."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bench.record import ServerFacts, SweepFacts, ThroughputFacts, TrialLine


def throughput(trials: Sequence[TrialLine], batch: int) -> ThroughputFacts | None:
    """Of the trial in the middle, the slower one of two."""
    rates = [(t.throughput.inferences * batch / t.throughput.seconds, t.throughput) for t in trials if t.throughput]
    if not rates:
        return None
    per_s, middle = sorted(rates, key=lambda r: r[0])[(len(rates) - 1) // 2]
    return ThroughputFacts(
        per_s=per_s,
        batch=batch,
        streams=middle.streams,
        seconds=middle.seconds,
        inferences=middle.inferences,
        sweep=[SweepFacts(streams=s.streams, per_s=s.per_s * batch) for s in middle.sweep],
        trial_per_s=[rate for rate, _ in rates],
    )


def server(trials: Sequence[TrialLine]) -> ServerFacts | None:
    """Of the trial with the lowest rate: every trial held the bound at it, or at a higher one."""
    known = [(t.server, t.stopped_by) for t in trials if t.server]
    if not known:
        return None
    lowest, stopped_by = min(known, key=lambda k: k[0].rate or 0.0)
    return msgspec.structs.replace(
        lowest,
        overloaded=any(s.overloaded for s, _ in known),
        trial_rates=[s.rate for s, _ in known],
        stopped_by=stopped_by,
    )
