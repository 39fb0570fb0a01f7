"""How often the regression gate cries wolf, and what it finds: nights of 200 cells, simulated with known truth.

    python tests/benchmarks/gate.py [nights, default 1000]

Only durations are made up: the decisions are those of `deploybench compare` (decide.py, nights.py, rank.py of
bench/compare). A false alarm is a cell that is called slower or faster and did not change. A quarter of the cells is:

  steady    between processes a standard deviation of the cell's own (0.2 to 2 %), between nights 0.3 %
  drifting  the same, and the level walks at random by 0.15 % a night
  bimodal   the same, and half of the cells have processes of which 3 in 10 take 5 % longer; the other half have nights
            of which 3 in 10 take 4 % longer
  heavy     between processes and between nights Student's t with 3 degrees of freedom, of these scales

A confirming re-run has processes and a night's effect of its own. Where it is said to share the night's effect, that is
the worst that a re-run at once can do: it sees what tonight did to the machine again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bench.compare import decide, nights, rank

CELLS, TRIALS, NIGHT_SPREAD, WALK = 200, 6, 0.003, 0.0015
KINDS = ("steady", "drifting", "bimodal", "heavy")
THRESHOLD = 0.01
CHUNK = 50

Random = np.random.Generator
Floats = np.ndarray


class World(NamedTuple):
    """Nights of cells, as logarithms: float[nights, cells, trials], and what a re-run in each night sees."""

    trials: Floats
    again: Floats
    again_same_night: Floats


@dataclass(frozen=True)
class Judged:
    """What the gate made of nights, bool[nights, cells], and how many cells it measured again each night."""

    changed: Floats
    suspected: Floats
    rerun: Floats


def world(count: int, kinds: list[str], spread: Floats, rng: Random) -> World:
    """So many nights of cells of these kinds, each with its own spread between processes."""
    kind = np.array(kinds)
    walk = np.where(kind == "drifting", WALK, 0.0) * rng.standard_normal((count, len(kinds)))
    level = np.cumsum(walk, axis=0)
    tonight = level + _nights(count, kind, rng)
    return World(
        tonight[..., None] + _processes(count, kind, spread, rng),
        (level + _nights(count, kind, rng))[..., None] + _processes(count, kind, spread, rng),
        tonight[..., None] + _processes(count, kind, spread, rng),
    )


def _nights(count: int, kind: Floats, rng: Random) -> Floats:
    shape = (count, len(kind))
    normal, heavy = rng.standard_normal(shape), rng.standard_t(3, shape)
    slow = (rng.random(shape) < 0.3) * 0.04 * ((kind == "bimodal") & (np.arange(len(kind)) % 2 == 0))
    return NIGHT_SPREAD * np.where(kind == "heavy", heavy, normal) + slow


def _processes(count: int, kind: Floats, spread: Floats, rng: Random) -> Floats:
    shape = (count, len(kind), TRIALS)
    normal, heavy = rng.standard_normal(shape), rng.standard_t(3, shape)
    slow = (rng.random(shape) < 0.3) * 0.05 * ((kind == "bimodal") & (np.arange(len(kind)) % 2 == 1))[:, None]
    return spread[:, None] * np.where((kind == "heavy")[:, None], heavy, normal) + slow


def gate(now: Floats, again: Floats, before: Floats, family: int = CELLS) -> Judged:
    """The verdicts on float[nights, cells, trials], given float[nights, cells, history, trials] before them.

    Fewer cells than `family` stand for themselves among so many, of which no other is unlikely.
    """
    first, both = _chances(now, None, before), _chances(now, again, before)
    screened = first <= decide.SCREEN
    others = [(0, 0), (0, max(0, family - now.shape[1]))]
    final = np.pad(np.where(screened, both, 1.0), others, constant_values=1.0)
    changed = decide.discoveries(final)[:, : now.shape[1]]
    return Judged(changed, screened & ~changed & (both < 1), screened.sum(axis=1))


def _chances(now: Floats, again: Floats | None, before: Floats) -> Floats:
    known = before.shape[2]
    levels = nights.location(before)
    recent = levels[..., -nights.CENTRE_NIGHTS :]
    centre = np.median(recent, axis=-1)
    looks = [now] if again is None else [now, again]
    effects = np.stack([nights.location(look) - centre for look in looks], axis=-1)
    between = np.sqrt(np.var(before, axis=-1, ddof=1).mean(axis=-1))
    return decide.chance(
        effects,
        rank.two_sided(np.concatenate(looks, axis=-1), before.reshape(*before.shape[:2], -1)),
        spread=nights.pooled(np.var(levels, axis=-1) * known, known - 1, between),
        reach=np.abs(levels - np.median(levels, axis=-1)[..., None]).max(axis=-1),
        nights_known=recent.shape[-1],
        nights_seen=known,
        degrees=known - 1 + nights.ASSUMED_NIGHTS,
        threshold=THRESHOLD,
    )


def judged(seen: World, known: int, *, same_night: bool = False, effect: float = 0.0, since: int = 0) -> Judged:
    """Every night that has `known` nights before it; with an effect that began `since` nights before each."""
    count = seen.trials.shape[0] - known
    parts = [_part(seen, known, same_night, effect, since, range(i, min(i + CHUNK, count))) for i in _steps(count)]
    return Judged(*(np.concatenate([getattr(p, f) for p in parts]) for f in ("changed", "suspected", "rerun")))


def _steps(count: int) -> Iterator[int]:
    yield from range(0, count, CHUNK)


def _part(seen: World, known: int, same_night: bool, effect: float, since: int, which: range) -> Judged:
    begin = np.array(which)
    before = seen.trials[begin[:, None] + np.arange(known)]  # nights, history, cells, trials
    if since:
        before[:, -since:] += effect
    again = seen.again_same_night if same_night else seen.again
    return gate(seen.trials[begin + known] + effect, again[begin + known] + effect, before.swapaxes(1, 2), family=CELLS)


def spreads(rng: Random, count: int) -> Floats:
    """Of processes of each cell: 0.2 to 2 %, most near 0.6 %."""
    return np.exp(rng.uniform(np.log(0.002), np.log(0.02), count))


def matrix(count: int, rng: Random) -> World:
    """The 200 cells that did not change."""
    kinds = [kind for kind in KINDS for _ in range(CELLS // len(KINDS))]
    return world(count, kinds, spreads(rng, CELLS), rng)


def found(kind: str, known: int, effect: float, within: int, count: int, rng: Random, spread: float = 0.01) -> float:
    """How often a cell of this kind with 1 % between processes is found within so many nights of its change."""
    seen = world(count + known, [kind, kind], np.full(2, spread), rng)  # of bimodal: by nights, by processes
    hits = [judged(seen, known, effect=effect, since=since).changed for since in range(within)]
    # Night by night of one change: the same series, moved on by one night each.
    moved = [hit[since : count - within + 1 + since] for since, hit in enumerate(hits)]
    return float(np.any(moved, axis=0).mean())


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"{count} nights x {CELLS} cells, {TRIALS} trials, FDR {decide.Q:.0%}, smallest effect {THRESHOLD:.0%}\n")
    print("| nights known | nights with a false alarm | with the night's effect shared | re-runs a night | of them |")
    print("| ---: | ---: | ---: | ---: | --- |")
    for known in (1, 3, 5, 10, 20):
        seen = matrix(count + known, np.random.default_rng(known))
        own, shared = judged(seen, known), judged(seen, known, same_night=True)
        per_kind = own.changed.reshape(count, len(KINDS), -1).any(axis=-1).mean(axis=0)
        each = ", ".join(f"{kind} {share:.1%}" for kind, share in zip(KINDS, per_kind, strict=True))
        alarms, worse = own.changed.any(axis=1).mean(), shared.changed.any(axis=1).mean()
        print(f"| {known} | {alarms:.1%} | {worse:.1%} | {own.rerun.mean():.1f} | {each} |", flush=True)
    print("\n| nights known | kind | 5 %, first night | 3 %, first night | 3 %, within three | 10 %, first night |")
    print("| ---: | --- | ---: | ---: | ---: | ---: |")
    for known in (1, 3, 5, 10, 20):
        for number, kind in enumerate(KINDS):
            rng = np.random.default_rng((known, number))
            each = [found(kind, known, *what, count, rng) for what in ((0.05, 1), (0.03, 1), (0.03, 3), (0.10, 1))]
            print(f"| {known} | {kind} | {' | '.join(f'{share:.1%}' for share in each)} |", flush=True)


if __name__ == "__main__":
    main()
