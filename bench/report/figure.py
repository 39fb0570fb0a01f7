"""The number that a record competes with, and who is faster for sure.

Two figures differ where all that the one's trials showed lies on one side of all that the other's did, and there are
trials enough that chance alone orders them so at most 1 time in 20. Everything else is a tie. Where the CPU was slower
for the one than for the other, that much of the difference is nobody's merit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from bench.record import Record
from bench.report import loaded, words

Key = TypeVar("Key")
# Of n and m trials of one distribution, all n lie on one side of all m with the chance 2 / C(n + m, n): 4 and 4 do.
ORDERS = 40


@dataclass(frozen=True, slots=True)
class Figure:
    """A cost: the smaller the better. Nanoseconds, or for a rate its inverse, in seconds.

    `lo`, `hi`: the interval over processes, or with fewer than six trials the lowest and highest of them. `kind`: only
    figures of one kind are compared (what samples span, whose clock, which tolerance was asked of the answers).
    `core`: how fast the CPU was meanwhile.
    """

    value: float
    lo: float
    hi: float
    trials: int
    kind: tuple[str, str, str]
    core: words.Core | None = None

    def beats(self, other: Figure) -> bool:
        """Whether it is the smaller one for sure."""
        return self.hi * self.ahead_of(other) < other.lo and self.enough(other)

    def ahead_of(self, other: Figure) -> float:
        """How many times as fast the CPU was for it as for the other; 1 where it was not faster, or nobody knows."""
        return max(1.0, words.times_as_slow(other.core, self.core) or 1.0)

    def enough(self, other: Figure) -> bool:
        """Whether both have so many trials that their order says something."""
        return math.comb(self.trials + other.trials, self.trials) >= ORDERS


def figure(record: Record) -> Figure | None:
    """What the record competes with; None where it has no published number, or one that may not be held against others.

    It may not where others used more of the CPU than is usually accepted, or the machine was an emulator.
    """
    if not words.published(record) or record.parity is None or {"ᶜ", "ʰ"} & set(words.marks_of(record)):
        return None
    latency, found = record.latency, _cost(record)
    if found is None:
        return None
    value, lo, hi = found
    spans = (latency.scope, latency.clock) if latency else ("end_to_end", "host")
    trials = record.evidence.trials - record.evidence.trials_noisy
    return Figure(value, lo, hi, trials, (*spans, record.parity.tolerance.name), words.core_of(record))


def _cost(record: Record) -> tuple[float, float, float] | None:
    options, latency, server = record.case.options, record.latency, record.server
    if options.scenario == "offline" and record.throughput:
        return _of_rates(record.throughput.per_s, record.throughput.trial_per_s)
    if server and options.latency_bound_ns is not None:
        rates = [rate for rate in server.trial_rates if rate is not None]
        return _of_rates(server.rate, rates) if server.rate and len(rates) == len(server.trial_rates) else None
    if latency is None or (server and server.overloaded):
        return None
    if loaded.applies(record):
        p99 = next((p for p in latency.percentiles if p.q == words.P99), None)
        if p99 is None or p99.ns is None or p99.lo is None or p99.hi is None:
            return None
        return p99.ns, p99.lo, p99.hi
    lo, hi = latency.p50_ci_ns or (min(latency.trial_p50_ns), max(latency.trial_p50_ns))
    return (latency.p50_ns, lo, hi) if lo > 0 else None


def _of_rates(value: float, rates: list[float]) -> tuple[float, float, float] | None:
    known = [*rates, value]
    return (1 / value, 1 / max(known), 1 / min(known)) if min(known) > 0 else None


def fastest(figures: Mapping[Key, Figure]) -> set[Key]:
    """The best of figures of one row, with all that cannot be told from it; empty where nothing is beaten for sure."""
    found: set[Key] = set()
    for kind in {f.kind for f in figures.values()}:
        rivals = {key: f for key, f in figures.items() if f.kind == kind}
        best = min(rivals.values(), key=lambda f: f.value)
        tied = {key for key, f in rivals.items() if not best.beats(f)}
        found |= tied if len(tied) < len(rivals) else set()
    return found
