"""From pairs to verdicts: pure, so that they can be given again from the same records years later."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from bench.compare import decide, memory
from bench.compare.cells import UNTOLD, Pair, costs
from bench.compare.speed import BLUNT, Speed, another, speed, usable
from bench.parity.compare import TOLERANCES
from bench.record import ParityFacts, Record
from bench.report import causes, words

Word = Literal[
    "slower",
    "parity worse",
    "memory grown",
    "newly failing",
    "suspected",
    "cannot tell",
    "not comparable",
    "still failing",
    "missing",
    "faster",
    "memory shrunk",
    "newly working",
    "new cell",
    "same",
]
REGRESSIONS: frozenset[Word] = frozenset({"slower", "parity worse", "memory grown", "newly failing"})
THRESHOLD = 0.01
# Errors are rounding: they move with the versions of kernels. Doubled, and a tenth of what is tolerated, is more.
PARITY_FACTOR, PARITY_SHARE = 2.0, 0.1


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one cell, in one respect. Effects and `floor` are shares; positive is slower, or larger.

    `effects`: of NEW and of its confirming re-run. `floor`: the smallest effect that would have been told. `levels`:
    what the quantity was, by its earlier nights, and is now.
    """

    word: Word
    about: Literal["speed", "parity", "memory", "run"]
    pair: Pair
    detail: str
    effects: tuple[float, ...] = ()
    floor: float | None = None
    chance: float | None = None
    quantity: str = ""
    levels: tuple[float, float] | None = None
    causes: tuple[str, ...] = ()

    @property
    def regression(self) -> bool:
        """Whether it is a confirmed change for the worse."""
        return self.word in REGRESSIONS


def judge(pairs: Sequence[Pair], threshold: float = THRESHOLD) -> list[Verdict]:
    """The verdicts on all pairs, worst first; the false discovery rate of `slower` and `faster` is held over all."""
    found = [v for pair in pairs for v in _without_speed(pair)]
    told = {id(v.pair) for v in found if v.about == "run"}
    timed = [(pair, speed(pair, threshold)) for pair in pairs if id(pair) not in told]
    known = [(pair, s) for pair, s in timed if s is not None]
    changed = decide.discoveries([s.chance for _, s in known])
    found += [
        _speed_verdict(pair, s, bool(c), len(known), threshold) for (pair, s), c in zip(known, changed, strict=True)
    ]
    found += [Verdict("cannot tell", "speed", pair, _no_number(pair)) for pair, s in timed if s is None]
    order = {word: number for number, word in enumerate(Word.__args__)}  # type: ignore[attr-defined]
    return sorted(found, key=lambda v: (order[v.word], -abs(v.effects[0]) if v.effects else 0.0, _name(v.pair.known)))


def worth_another_look(verdicts: Sequence[Verdict]) -> list[Pair]:
    """The pairs whose NEW should be measured again, the gravest first, each once: no re-run of them counts yet."""
    loud = [v.pair for v in verdicts if v.regression or v.word == "suspected"]
    found = [pair for pair in loud if pair.again is None or another(pair)]
    return list({id(pair): pair for pair in found}.values())


def _name(record: Record) -> tuple[str, ...]:
    return (record.case.model.name, record.case.backend, record.case.device, record.machine, record.cell)


def _without_speed(pair: Pair) -> Iterator[Verdict]:
    """Whatever needs no statistics. A verdict about the `run` stands alone."""
    if pair.new is None:
        yield Verdict("missing", "run", pair, "not measured this time")
    elif pair.differs:
        yield Verdict("not comparable", "run", pair, pair.differs, causes=_causes(pair))
    elif pair.old is None:
        yield Verdict("new cell", "run", pair, f"{pair.new.status}, for the first time")
    elif pair.new.status in UNTOLD:
        yield Verdict("cannot tell", "run", pair, f"{pair.new.status}: {pair.new.why}")
    elif verdict := _worked(pair, pair.new):
        yield verdict
    else:
        yield from _parity(pair)
        yield from _memory(pair)


def _worked(pair: Pair, new: Record) -> Verdict | None:
    """Whether it works now and did before; None where it works and did, so that figures can be compared."""
    before = [r for r in pair.nights if r.status not in UNTOLD]
    if not before:
        return None if new.status == "ok" else Verdict("still failing", "run", pair, _why(new))
    last = before[-1]
    if new.status == "ok":
        if last.status == "ok":
            return None
        return Verdict("newly working", "run", pair, f"was {_why(last)}", causes=_causes(pair))
    if last.status != "ok":
        other = "" if last.status == new.status else f"; was {last.status}"
        return Verdict("still failing", "run", pair, f"{_why(new)}{other}")
    if new.status == "wrong":
        return _confirmed("parity worse", "parity", pair, f"fails now: {words.reason(new)}")
    return _confirmed("newly failing", "run", pair, _why(new))


def _why(record: Record) -> str:
    return f"{record.status}: {words.reason(record)}"


def _confirmed(
    word: Word, about: Literal["parity", "memory", "run"], pair: Pair, detail: str, *, seen_again: bool | None = None
) -> Verdict:
    """A failure stands unless a re-run worked: then it comes and goes, which is worth knowing but is not confirmed."""
    again = pair.again
    if again is not None and not another(pair):
        if seen_again is None:
            seen_again = again.status != "ok"
        if not seen_again:
            return Verdict(
                "suspected", "run", pair, f"{word}: {detail}; the re-run did not show it", causes=_causes(pair)
            )
        detail = f"{detail}; the re-run showed it too"
    return Verdict(word, "run" if about == "run" else about, pair, detail, causes=_causes(pair))


def _parity(pair: Pair) -> Iterator[Verdict]:
    """Whether it needs a wider tolerance than it ever did with the same reference."""
    new = pair.new.parity if pair.new else None
    if new is None:
        return
    sha = new.reference.sha256
    before = [r.parity for r in pair.nights if r.status == "ok" and r.parity and r.parity.reference.sha256 == sha]
    if not before:
        return
    again = pair.again.parity if pair.again else None
    if problem := _worse(before, new):
        yield _confirmed("parity worse", "parity", pair, problem, seen_again=bool(again and _worse(before, again)))


def _worse(before: Sequence[ParityFacts], new: ParityFacts) -> str:
    """In words, how its answers are worse than they ever were; empty where they are not."""
    grades = [*TOLERANCES, "wrong"]
    worst = max((p.grade for p in before), key=grades.index)
    if grades.index(new.grade) > grades.index(worst):
        return f"passes {new.grade} now, passed {worst} before"
    known, now = [_error(p) for p in before], _error(new)
    most = max((e for e in known if e is not None), default=None)
    exceed = max((o.exceed for o in new.outputs if o.exceed is not None), default=0.0)
    if most is None or now is None or now <= PARITY_FACTOR * most or exceed < PARITY_SHARE:
        return ""
    return (
        f"the error is {now:.1e} of the output's scale, was at most {most:.1e}; it uses {exceed:.0%} of the tolerance"
    )


def _error(parity: ParityFacts) -> float | None:
    return max((o.max_rel_scale for o in parity.outputs if o.max_rel_scale is not None), default=None)


def _memory(pair: Pair) -> Iterator[Verdict]:
    """Whether every process peaks beyond every one of the nights before; those of the re-run must, too."""
    now = memory.peaks(pair.new)
    before = [peak for r in usable(pair) for peak in memory.peaks(r)]
    side = memory.side(now, before)
    if not side:
        return
    again = memory.peaks(pair.again) if not another(pair) else []
    near, new = memory.nearest(before, -side), memory.nearest(now, side)
    took = "more than {} MiB before, all at least {} now" if side > 0 else "less than {} MiB before, all at most {} now"
    detail = f"no process took {took.format(words.megabytes(near), words.megabytes(new))}"
    effects = tuple(memory.nearest(peaks, side) / near - 1 for peaks in (now, again) if peaks)
    chance = memory.chance(now, again, before)
    word: Word = "suspected"
    if not again:
        detail = f"{detail}; not confirmed: {another(pair) or 'not re-run'}"
    elif memory.side(again, before) != side:
        detail = f"{detail}; the re-run did not show it"
    elif chance > decide.Q:
        detail = f"{detail}; so few processes may differ so by chance"
    else:
        word = "memory grown" if side > 0 else "memory shrunk"
    levels = (near / 2**20, new / 2**20)
    yield Verdict(word, "memory", pair, detail, effects, memory.SHARE, chance, "MiB", levels, _causes(pair))


def _speed_verdict(pair: Pair, seen: Speed, changed: bool, cells: int, threshold: float) -> Verdict:
    floor = seen.floor(cells, threshold)
    effects = tuple(math.expm1(e) for e in seen.effects)
    word: Word = "same"
    detail = ""
    if changed:
        word = "slower" if effects[0] > 0 else "faster"
        detail = f"again {effects[1]:+.1%}"
    elif seen.screened and len(effects) == 2 and seen.both < 1:
        word, detail = "suspected", f"again {effects[1]:+.1%}, but {_too_few(seen)}"
    elif seen.screened and len(effects) == 2:
        detail = f"first {effects[0]:+.1%}, but again {effects[1]:+.1%}"
    elif seen.screened:
        word, detail = "suspected", f"not confirmed: {another(pair) or 'not re-run'}"
    elif seen.cpu and abs(seen.effects[0]) > floor:
        word, detail = "cannot tell", f"{effects[0]:+.1%}, but {causes.cpu(math.exp(seen.cpu))}"
    elif floor > max(BLUNT, threshold):
        word, detail = "cannot tell", _needs(seen, cells, threshold)
    return Verdict(
        word,
        "speed",
        pair,
        detail,
        effects,
        math.expm1(floor) if math.isfinite(floor) else None,
        seen.first if len(effects) == 1 else seen.both,
        seen.quantity,
        _levels(seen),
        _causes(pair) if word not in ("same", "cannot tell") else (),
    )


def _too_few(seen: Speed) -> str:
    return f"with {seen.noise.seen} night{'s' * (seen.noise.seen != 1)} known that may be chance among so many cells"


def _needs(seen: Speed, cells: int, threshold: float) -> str:
    more = seen.nights_wanted(cells, threshold)
    if more is None:
        usual = f"trials differ, or nights did, by up to {math.expm1(seen.noise.reach):.1%}"
        return f"not even 10 % would be seen: {usual}; more trials or a quieter machine would help"
    return f"not even 10 % would be seen: needs {more} more night{'s' * (more != 1)}"


def _levels(seen: Speed) -> tuple[float, float]:
    """Before and now, in the quantity's own unit: costs are logarithms of nanoseconds, or of rates with their sign."""
    scale, sign = (1e6, 1) if seen.quantity.startswith("ms") else (1.0, -1)
    before, now = (math.exp(sign * c) / scale for c in (seen.noise.centre, seen.noise.centre + seen.effects[0]))
    return before, now


def _no_number(pair: Pair) -> str:
    if pair.new is None or costs(pair.new) is None:
        return "the newer record has no figure that could be compared"
    return "no earlier night of the cell has a number"


def _causes(pair: Pair) -> tuple[str, ...]:
    """What changed since the last night that worked, or since the last at all."""
    if pair.new is None:
        return ()
    worked = [r for r in pair.nights if r.status == "ok"]
    last = (worked or ([pair.old] if pair.old else []))[-1:]
    return tuple(causes.changed(last[0], pair.new)) if last else ()
