"""What the gate needs of one cell: how far off it is at each look, its noise, and the chances."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import numpy as np

from bench.compare import decide, nights, rank
from bench.compare.cells import UNTOLD, Pair, costs, difference
from bench.compare.nights import Looks, Noise
from bench.record import MAX_FOREIGN_CPU, Record
from bench.report import words
from bench.report.causes import versions, versions_changed

# Not even a change by so much would be seen: then `same` would say nothing.
BLUNT = math.log(1.10)
MOST_NIGHTS = 60
# A CPU that is slower by less is as fast: the most that a trial's may be before the trial is noisy.
SAME_CPU = math.log1p(MAX_FOREIGN_CPU)


@dataclass(frozen=True, slots=True)
class Speed:
    """A cell's figures, as logarithms.

    `effects`: of NEW, and of its re-run if there is one that counts; positive is slower. `first` is the chance of the
    first look alone, `both` of both (1 where there is one only). `cpu`: how much slower the CPU was for NEW than it
    usually is, 0 where it was as fast or nobody knows; so much of an effect is granted before its chance is told.
    """

    quantity: str
    noise: Noise
    effects: tuple[float, ...]
    trials: tuple[int, int]
    first: float
    both: float
    cpu: float = 0.0

    @property
    def screened(self) -> bool:
        """Whether the first look is unlikely enough for another."""
        return self.first <= decide.SCREEN

    @property
    def chance(self) -> float:
        """What the false discovery rate is controlled by: of both looks, and 1 for whatever was not looked at twice."""
        return self.both if self.screened else 1.0

    def floor(self, cells: int, threshold: float, more: int = 0) -> float:
        """The smallest effect that would be told of one cell among so many, if `more` nights were known."""
        known = min(nights.CENTRE_NIGHTS, self.noise.nights + more)
        spreads = nights.distance(decide.Q / cells, known, self.noise.degrees + more, 2)
        old, new = self.trials
        if rank.least(2 * new, old * (self.noise.nights + more) // self.noise.nights) > decide.Q / cells:
            return math.inf
        least = decide.least(self.noise.seen + more, threshold)
        return max(spreads * self.noise.spread, decide.MARGIN * self.noise.reach, least)

    def nights_wanted(self, cells: int, threshold: float) -> int | None:
        """How many more nights like these it takes to see a change by 10 %; None where none are enough."""
        return next((n for n in range(MOST_NIGHTS + 1) if self.floor(cells, threshold, n) <= BLUNT), None)


def usable(pair: Pair) -> list[Record]:
    """The nights before NEW that have a number which can be held against it, oldest first."""
    new = pair.new
    return [r for r in pair.nights if new and costs(r) and not difference(r, new)]


def speed(pair: Pair, threshold: float) -> Speed | None:
    """The figures of a pair, or None where NEW or every night before has no number."""
    now = costs(pair.new) if pair.new else None
    before = usable(pair)
    if now is None or not before:
        return None
    levels = _levels(before)
    taken = [[_trials(r) for r in level] for level in levels]
    between = nights.process_spread([t for level in taken for t in level])
    noise = nights.learn([[float(nights.location(t)) for t in level] for level in taken], between)
    usual_cpu = levels[-1][-nights.CENTRE_NIGHTS :]
    seen, slower = [now.trials], [_slower_cpu(pair.new, usual_cpu)]
    if pair.again and not another(pair) and (more := costs(pair.again)):
        seen.append(more.trials)
        slower.append(_slower_cpu(pair.again, usual_cpu))
    looks = [_granted(trials, noise.centre, cpu) for trials, cpu in zip(seen, slower, strict=True)]
    usual = float(np.mean([len(t) for level in taken for t in level]))
    noise = replace(noise, spread=_of_looks(noise.spread, between, usual, min(map(len, looks))))
    old = [t for trials in taken[-1] for t in trials]
    first = _chance(looks[:1], old, noise, threshold)
    return Speed(
        quantity=now.quantity,
        noise=noise,
        effects=tuple(float(nights.location(trials)) - noise.centre for trials in seen),
        trials=(len(old), len(now.trials)),
        first=first,
        both=_chance(looks, old, noise, threshold) if len(looks) == 2 else 1.0,
        cpu=slower[0],
    )


def _slower_cpu(record: Record | None, usual: Sequence[Record]) -> float:
    """How many times as long the CPU took for the same as in these nights, as a logarithm; 0 where that is nothing."""
    own = words.core_of(record) if record else None
    factors = [factor for r in usual if (factor := words.times_as_slow(own, words.core_of(r))) is not None]
    found = math.log(statistics.median(factors)) if factors else 0.0
    return found if abs(found) > SAME_CPU else 0.0


def _granted(trials: Sequence[float], centre: float, cpu: float) -> tuple[float, ...]:
    """The trials nearer to the level by what the CPU's own speed may have done, and no nearer than on it."""
    off = float(nights.location(trials)) - centre
    share = min(cpu, max(off, 0.0)) if cpu > 0 else max(cpu, min(off, 0.0))
    return tuple(t - share for t in trials)


def another(pair: Pair) -> str:
    """In words, why the re-run is no second look at NEW; empty where it is one.

    One that was cut short is none: so few trials lie far off more easily.
    """
    if pair.again is None or pair.new is None:
        return pair.not_again
    if pair.again.status in UNTOLD:
        return f"the re-run was {pair.again.status}: {pair.again.why}"
    if 2 * pair.again.evidence.trials < pair.new.evidence.trials and pair.again.status == "ok":
        return f"the re-run was cut short after {pair.again.evidence.trials} trials"
    if other := versions_changed(pair.new, pair.again):
        return f"the re-run was of other versions: {'; '.join(other)}"
    return difference(pair.new, pair.again)


def _trials(record: Record) -> tuple[float, ...]:
    found = costs(record)
    return found.trials if found else ()


def _of_looks(spread: float, between: float, usual: float, fewest: int) -> float:
    """The spread of a look that has fewer trials than a night usually has."""
    return math.sqrt(spread**2 + between**2 * max(0.0, 1 / fewest - 1 / usual))


def _levels(before: Sequence[Record]) -> list[list[Record]]:
    """Stretches of nights with equal versions."""
    return [list(group) for _, group in groupby(before, key=versions)]


def _chance(looks: Sequence[Sequence[float]], old: Sequence[float], noise: Noise, threshold: float) -> float:
    count: Looks = 1 if len(looks) == 1 else 2
    effects = [float(nights.location(look)) - noise.centre for look in looks]
    found = decide.chance(
        effects[:count],
        rank.two_sided([t for look in looks for t in look], old),
        spread=noise.spread,
        reach=noise.reach,
        nights_known=noise.nights,
        nights_seen=noise.seen,
        degrees=noise.degrees,
        threshold=threshold,
    )
    return float(found)
