"""Verdicts in words: a page for people, lines of JSON for programs. The same verdicts make the same bytes."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bench.compare import decide
from bench.compare.verdict import REGRESSIONS, Verdict
from bench.record import Record
from bench.report import words
from bench.report.blocks import Block, Table
from bench.report.sections import setting

QUIET_WORDS = ("same", "new cell", "missing")


def page(verdicts: Sequence[Verdict], title: str) -> list[Block]:
    """What changed and why, then what did not, and what it takes to see a change there."""
    loud = [v for v in verdicts if v.word not in QUIET_WORDS]
    same = [v for v in verdicts if v.word == "same"]
    parts: list[Block] = [f"**{words.escape(title)}**: {summary(verdicts)}."]
    if loud:
        parts.append(_table(loud))
    if named := _causes(loud):
        parts.append(named)
    if same:
        parts += ["The same, and the smallest change that would have been told:", _same(same)]
    if new := [f"{_cell(v)} ({words.escape(v.pair.known.status)})" for v in verdicts if v.word == "new cell"]:
        parts.append(f"New: {', '.join(new)}.")
    if missing := [_cell(v) for v in verdicts if v.word == "missing"]:
        parts.append(f"Missing, not measured this time: {', '.join(missing)}.")
    if any(v.about == "speed" for v in verdicts):
        parts.append(
            f"Slower and faster are said after a re-run; of them on average at most {decide.Q:.0%} are wrong, over all "
            "cells together."
        )
    return parts


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many of each word, the gravest first."""
    counts = Counter(v.word for v in verdicts)
    return ", ".join(f"{count} {word}" for word, count in counts.items()) or "nothing to compare"


def _table(verdicts: Sequence[Verdict]) -> Table:
    rows = [
        (
            f"**{v.word}**" if v.word in REGRESSIONS else v.word,
            *_cells(v),
            words.escape(v.detail) or "–",
        )
        for v in verdicts
    ]
    head = ("verdict", "model", "backend", "setting", "change", "before → now", "could be told", "because")
    return Table(head, rows, right=(4, 6), keys=3)


def _cells(verdict: Verdict) -> tuple[str, ...]:
    """What both tables say of a cell: model, backend, setting, change, levels, and what could be told."""
    known = verdict.pair.known
    named = (known.case.model.name, known.case.backend, _setting(known))
    return (*map(words.escape, named), _change(verdict), _levels(verdict), _share(verdict.floor, ""))


def _same(verdicts: Sequence[Verdict]) -> Table:
    rows = [
        (
            *_cells(v),
            str(len(v.pair.nights)),
            words.escape(v.detail) or "–",
        )
        for v in sorted(verdicts, key=lambda v: (v.pair.known.case.model.name, v.pair.known.case.backend))
    ]
    head = ("model", "backend", "setting", "change", "before → now", "could be told", "nights", "note")
    return Table(head, rows, right=(3, 5, 6), keys=2)


def _causes(verdicts: Sequence[Verdict]) -> str:
    """What else changed, each cell's in a line."""
    lines = [f"- {_cell(v)}: {words.escape('; '.join(v.causes))}" for v in verdicts if v.causes]
    return "\n".join(["Likely causes, by what else changed:", "", *dict.fromkeys(lines)]) if lines else ""


def _cell(verdict: Verdict) -> str:
    case = verdict.pair.known.case
    return words.escape(f"{case.model.name} on {case.backend}")


def _setting(record: Record) -> str:
    return f"{record.case.device}, {setting(record.case.options)}"


def _change(verdict: Verdict) -> str:
    return _share(verdict.effects[0] if verdict.effects else None, "+")


def _share(value: float | None, sign: str) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:{sign}.1%}"


def _levels(verdict: Verdict) -> str:
    if verdict.levels is None:
        return "–"
    before, now = (words.milliseconds(round(value * 1e6)) for value in verdict.levels)
    return f"{before} → {now} {verdict.quantity}"


def as_json(verdict: Verdict) -> str:
    """One line of JSON."""
    pair, known = verdict.pair, verdict.pair.known
    told: dict[str, Any] = {
        "verdict": verdict.word,
        "regression": verdict.regression,
        "about": verdict.about,
        "cell": known.cell,
        "machine": known.machine,
        "model": known.case.model.name,
        "backend": known.case.backend,
        "device": known.case.device,
        "detail": verdict.detail,
        "effect": verdict.effects[0] if verdict.effects else None,
        "effect_again": verdict.effects[1] if len(verdict.effects) > 1 else None,
        "floor": verdict.floor,
        "chance": verdict.chance,
        "quantity": verdict.quantity,
        "before": verdict.levels[0] if verdict.levels else None,
        "now": verdict.levels[1] if verdict.levels else None,
        "nights": len(pair.nights),
        "causes": list(verdict.causes),
        "old": pair.old.id if pair.old else None,
        "new": pair.new.id if pair.new else None,
        "again": pair.again.id if pair.again else None,
    }
    return json.dumps(told, ensure_ascii=False)
