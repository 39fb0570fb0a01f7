"""Which nodes make the error: a bisection over the places where the graph can be cut, and each suspect run alone.

The part from the begin to a place is bad when the reference, going on from there, ends with bad answers. So the first
bad place is found, and the node before it is run alone on the reference's tensors: if that is bad too, the error is
that node's own and not inherited. Then the search goes on behind it, fed by the reference, for others.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from bench.localize.layout import Layout
from bench.localize.probe import Outcome, Prober
from bench.onnxfile import Node
from bench.worker.client import Failure

Kind = Literal["local", "together", "region", "spread", "rounding", "order", "failure"]

# Below this share of its scale, the error of a node is that of honest float32 additions in another order. Measured on
# the zoo, x86-64, November 2026: ONNX Runtime, ncnn and MNN without Winograd stay below 3e-6 of scale for a node alone.
ROUNDING = 4e-6
# A suspect that makes so much of the whole error is its cause, though alone it would still be allowed.
MOST = 0.5
# A cut may itself be what a runtime cannot take; so often another place is tried.
_TRIES = 6
# How far a search must have narrowed before the nodes that are left are tried by themselves, and when that is no more
# worth it.
_SHRUNK, _FEW = 4, 8


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found between two places.

    kind: `local` (the node's own error), `together` (right apart, wrong as one: a fusion), `region` (it could not be
    cut further), `spread` (no node makes most of it), `rounding` (the model makes honest rounding large), `order` (a
    near tie that turned over: classified, not blamed), `failure` (it cannot be converted, loaded or run).
    """

    kind: Kind
    start: int
    end: int
    nodes: tuple[Node, ...]
    outcome: Outcome
    last_only: bool = False
    probes: int = 0

    @property
    def blamed(self) -> bool:
        """Whether these nodes are named as the cause."""
        return self.kind in ("local", "together", "region", "failure")


@dataclass(slots=True)
class Trace:
    """What the search saw on its way from the begin: the error of what crosses a place."""

    measured: dict[int, Outcome] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Say = Callable[[str], None]


def search(
    prober: Prober, whole: Outcome, *, most: int, say: Say = lambda message: None
) -> tuple[list[Finding], Trace]:
    """The findings in running order, at most so many that are blamed. `whole`: what came of the model as it is."""
    trace = Trace()
    seeker = _Failing(prober, whole.failure, trace, say) if whole.failure else _Wrong(prober, trace, say)
    layout = prober.layout
    stops = [] if whole.failure else layout.barriers(0)
    found: list[Finding] = []
    start = 0
    for stop in [*stops, layout.end]:
        begin = whole if start == 0 and stop == layout.end else None
        found += seeker.between(start, stop, most - sum(f.blamed for f in found), begin)
        if stop < layout.end:
            found += seeker.order_sensitive(stop)
        start = stop + 1
    blamed = any(f.blamed for f in found)  # then whatever an order turned over needs no other explanation
    return [f for f in found if f.kind != "order" or not blamed], trace


class _Seeker:
    """What both searches share: bisect, then prove."""

    def __init__(self, prober: Prober, trace: Trace, say: Say) -> None:
        self._prober, self._trace, self._say = prober, trace, say

    @property
    def _layout(self) -> Layout:
        return self._prober.layout

    def _bad(self, outcome: Outcome, limit: float) -> bool | None:
        """Whether it shows the fault; None where the cut made something else go wrong."""
        raise NotImplementedError

    def _limit(self, whole: Outcome) -> float:
        return 1.0

    def between(self, start: int, stop: int, most: int, whole: Outcome | None = None) -> list[Finding]:
        """Every finding between two places."""
        found: list[Finding] = []
        while start < stop and sum(f.blamed for f in found) < most:
            before = self._prober.prepared
            begun = whole or self._probe(start, stop, stop)
            whole = None
            bad = self._bad(begun, 1.0)
            if bad is None:
                start = self._beyond(start, stop, begun)
                continue
            if not bad:
                break
            finding = self._first(start, stop, begun)
            if finding is None:
                self._trace.notes.append(f"what begins behind {self._name(start)} is right as a part of its own")
                break
            found.append(
                Finding(
                    finding.kind,
                    finding.start,
                    finding.end,
                    finding.nodes,
                    finding.outcome,
                    finding.last_only,
                    self._prober.prepared - before,
                )
            )
            self._say(f"found: {', '.join(node.label for node in finding.nodes[:3]) or finding.kind}")
            start = finding.end
        return found

    def _beyond(self, start: int, stop: int, begun: Outcome) -> int:
        """Where to go on when the rest of the model cannot be fed at a place."""
        why = begun.failure.message if begun.failure else ""
        later = [p for p in range(start + 1, stop) if self._layout.cost(p) == 1]
        if not later or len(self._trace.notes) > _TRIES:
            self._trace.notes.append(f"what lies behind {self._name(start)} could not be tried: {why}")
            return stop
        self._trace.notes.append(f"the model cannot be fed behind {self._name(start)}: {why}")
        return later[0]

    def _name(self, place: int) -> str:
        return self._layout.nodes[place - 1].label if place else "its inputs"

    def _probe(self, start: int, end: int, horizon: int, *, last_only: bool = False, fresh: bool = False) -> Outcome:
        outcome = self._prober.probe(start, end, horizon, last_only=last_only, fresh=fresh or last_only)
        if start == 0 and not last_only and outcome.failure is None:
            self._trace.measured[end] = outcome
        return outcome

    def _first(self, start: int, stop: int, whole: Outcome) -> Finding | None:
        """The first place where the part from `start` shows the fault, and what stands there; None: it does not last.

        Where few nodes are left they are tried by themselves: if they fail so, what lies before them need not be
        prepared any more. If they do not, that tells nothing of a single one: errors also cancel each other.
        """
        limit = self._limit(whole)
        good, bad = start, stop
        effects = {start: 0.0, stop: whole.effect}
        unknown: set[int] = set()
        width, apart = stop - start, True
        while len(unknown) < _TRIES and (place := self._middle(good, bad, unknown)) is not None:
            left = math.ceil(math.log2(bad - good)) + 1
            self._say(f"{bad - good} nodes left, about {left} parts; trying up to {self._name(place)}")
            outcome = self._probe(start, place, stop)
            verdict = self._bad(outcome, limit)
            if verdict is None:
                unknown.add(place)
                continue
            effects[place] = outcome.effect
            good, bad = (good, place) if verdict else (place, bad)
            if apart and good > start and _FEW < bad - good <= width / _SHRUNK:
                width = bad - good
                alone = self._probe(good, bad, stop)
                if self._bad(alone, limit):
                    start, effects[good], effects[bad] = good, 0.0, alone.effect
                else:
                    apart = False
        return self._suspect(start, good, bad, stop, effects, limit)

    def _middle(self, good: int, bad: int, unknown: set[int]) -> int | None:
        """The best place to cut near the middle: where a single tensor crosses, if there is one."""
        places = [p for p in range(good + 1, bad) if p not in unknown]
        if not places:
            return None
        middle, width = (good + bad) / 2, (bad - good) / 8
        near = [p for p in places if abs(p - middle) <= width] or places
        return min(near, key=lambda p: (self._layout.cost(p), abs(p - middle)))

    def _suspect(
        self, start: int, good: int, bad: int, stop: int, effects: dict[int, float], limit: float
    ) -> Finding | None:
        """The nodes between the last good and the first bad place, run alone on the reference's tensors."""
        nodes = self._layout.nodes[good:bad]
        self._say(f"running {', '.join(node.label for node in nodes[:3])} alone")
        outcome = self._probe(good, bad, stop, fresh=True)
        verdict = self._bad(outcome, limit)
        if verdict is None:
            return Finding("region", good, bad, nodes, outcome)
        if verdict:
            return self._guilty(good, bad, nodes, outcome)
        return self._innocent(start, good, bad, stop, effects, outcome, limit)

    def _guilty(self, good: int, bad: int, nodes: tuple[Node, ...], outcome: Outcome) -> Finding:
        return Finding("local" if len(nodes) == 1 else "region", good, bad, nodes, outcome)

    def _innocent(
        self, start: int, good: int, bad: int, stop: int, effects: dict[int, float], outcome: Outcome, limit: float
    ) -> Finding | None:
        """Nodes that are right alone, though the part that ends with them is wrong: cutting makes the fault vanish."""
        return self._together(start, good, bad, stop, limit)

    def _together(self, start: int, good: int, bad: int, stop: int, limit: float) -> Finding | None:
        """The smallest part that ends with these nodes and still fails whole.

        None where even all of it, as a part in a fresh process, does not: then the fault was in the model as it is,
        uncut, or in what a process had run before.
        """
        self._say(f"{self._layout.nodes[bad - 1].label} is right alone: looking for what it is wrong together with")
        lo, hi, best = good, good, None
        step = 1
        while hi > start:  # ever larger parts, until one fails
            hi = max(start, hi - step)
            outcome = self._probe(hi, bad, stop, last_only=True)
            if self._bad(outcome, limit):
                best = (hi, outcome)
                break
            lo, step = hi, step * 2
        if best is None:
            proof = self._probe(start, bad, stop, fresh=True)
            return (
                Finding("region", start, bad, self._layout.nodes[start:bad], proof) if self._bad(proof, limit) else None
            )
        while lo - best[0] > 1:  # then the smallest of them
            place = (lo + best[0]) // 2
            outcome = self._probe(place, bad, stop, last_only=True)
            if self._bad(outcome, limit):
                best = (place, outcome)
            else:
                lo = place
        nodes = self._layout.span(best[0], bad, last_only=True).nodes
        return Finding("together", best[0], bad, nodes, best[1], last_only=True)


class _Wrong(_Seeker):
    """The search for wrong values."""

    def _bad(self, outcome: Outcome, limit: float) -> bool | None:
        return None if outcome.failure else outcome.effect >= limit

    def _limit(self, whole: Outcome) -> float:
        """Half of an error that is only just too large, so that the noise of cutting decides nothing."""
        return 1.0 if whole.effect >= 2 else max(whole.effect / 2, 0.5)

    def _guilty(self, good: int, bad: int, nodes: tuple[Node, ...], outcome: Outcome) -> Finding:
        if outcome.size <= ROUNDING:
            return Finding("rounding", good, bad, nodes, outcome)
        return super()._guilty(good, bad, nodes, outcome)

    def _innocent(
        self, start: int, good: int, bad: int, stop: int, effects: dict[int, float], outcome: Outcome, limit: float
    ) -> Finding | None:
        nodes = self._layout.nodes[good:bad]
        if outcome.effect >= MOST * effects[stop] and outcome.size > ROUNDING:
            return self._guilty(good, bad, nodes, outcome)
        grown = effects[bad] - effects.get(good, 0.0)
        if grown - outcome.effect < MOST * limit:  # the nodes do not add so much: many before them add up
            return Finding("spread", start, bad, (), outcome)
        return self._together(start, good, bad, stop, limit)

    def order_sensitive(self, place: int) -> list[Finding]:
        """What the order-sensitive node behind a place does with the reference's tensors."""
        before = self._prober.prepared
        outcome = self._probe(place, place + 1, place + 1, fresh=True)
        node = self._layout.nodes[place]
        kind: Kind = "local" if self._bad(outcome, 1.0) else "order"
        if outcome.failure:
            self._trace.notes.append(f"{node.label} could not be run alone: {outcome.failure.message}")
            return []
        return [Finding(kind, place, place + 1, (node,), outcome, False, self._prober.prepared - before)]


class _Failing(_Seeker):
    """The search for what cannot be converted, loaded or run."""

    def __init__(self, prober: Prober, failure: Failure, trace: Trace, say: Say) -> None:
        super().__init__(prober, trace, say)
        self._failure = failure

    def _bad(self, outcome: Outcome, limit: float) -> bool | None:
        if outcome.failure is None:
            return False
        return True if self._same(outcome.failure) else None

    def _same(self, failure: Failure) -> bool:
        """Whether a part fails as the model does. What a runtime says of the cut itself is another failure."""
        whole = self._failure
        if (failure.phase, failure.kind, failure.signal) != (whole.phase, whole.kind, whole.signal):
            return False
        named = {name for name in re.findall(r"'([^']+)'", failure.message) if name in self._layout.made}
        return named <= {*self._layout.outputs, *self._layout.through[0], *re.findall(r"'([^']+)'", whole.message)}

    def _middle(self, good: int, bad: int, unknown: set[int]) -> int | None:
        """A runtime that fails may fail at what it cannot be fed or asked for, too: cut where that cannot be."""
        awkward = {p for p in range(good + 1, bad) if self._layout.awkward(p)}
        return super()._middle(good, bad, unknown | awkward)

    def _guilty(self, good: int, bad: int, nodes: tuple[Node, ...], outcome: Outcome) -> Finding:
        return Finding("failure", good, bad, nodes, outcome)

    def _together(self, start: int, good: int, bad: int, stop: int, limit: float) -> Finding | None:
        found = super()._together(start, good, bad, stop, limit)
        if found is None:
            return None
        return Finding("failure", found.start, found.end, found.nodes, found.outcome, found.last_only)

    def order_sensitive(self, place: int) -> list[Finding]:
        """Nothing: order decides values alone."""
        return []
