"""Leader boards: which backend is fastest how often, and by how much. What cannot be told apart is a tie."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.report import words
from bench.report.blocks import Block, Table
from bench.report.figure import Figure, fastest, figure
from bench.report.sections import Section

ABOUT = (
    "**Leaders.** A backend is fastest on a model where all others there are slower for sure, and tied where it cannot "
    "be told from the fastest: their intervals over processes overlap (with fewer than six trials, their lowest and "
    "highest), or they have fewer than four trials each. Slower: how many times as long as the first backend takes, "
    "the geometric mean over the models that all backends with numbers have; in brackets, if every figure were at the "
    "wrong end of its interval, and the CPU as fast for all: a tie where that may be 1, and of few trials where a "
    "figure has fewer than four."
)
Figures = Mapping[str, Mapping[str, Figure]]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How many times as long as another backend takes, and within which bounds; `few`: of too few trials for any."""

    value: float
    lo: float
    hi: float
    few: bool

    def __str__(self) -> str:
        tie = ", a tie" if self.lo <= 1 <= self.hi else ", of few trials" if self.few else ""
        return f"×{self.value:.2f} (×{self.lo:.2f}–×{self.hi:.2f}{tie})"


def board(section: Section) -> list[Block]:
    """The leader board of a section; empty where fewer than two backends have a figure of one model."""
    by_model: dict[str, dict[str, Figure]] = {}
    for named in section:
        found = figure(named.record)
        if found:
            by_model.setdefault(named.row, {})[named.column] = found
    kinds = sorted({f.kind for figures in by_model.values() for f in figures.values()})
    blocks: list[Block] = []
    for kind in kinds:
        alike = {row: {c: f for c, f in figures.items() if f.kind == kind} for row, figures in by_model.items()}
        blocks += _of_kind({row: figures for row, figures in alike.items() if figures}, section)
    return blocks


def _of_kind(figures: Figures, section: Section) -> list[Block]:
    columns = list(dict.fromkeys(c for of_model in figures.values() for c in of_model))
    rivals = {row: of_model for row, of_model in figures.items() if len(of_model) > 1}
    if not rivals:
        return []
    common = [row for row, of_model in figures.items() if len(of_model) == len(columns)]
    times = {c: _geometric_mean([figures[row][c].value for row in common]) for c in columns}
    best = {row: fastest(of_model) for row, of_model in rivals.items()}
    ordered = sorted(columns, key=lambda c: (times[c], -_wins(c, best), c))
    rows = [_row(c, ordered[0], rivals, best, [figures[row] for row in common], section) for c in ordered]
    head = ["backend", "fastest", "tied", "slower", "no number", f"slower, {_models(len(common))} that all have"]
    return [Table(head, rows, right=range(1, 5))]


def _row(
    column: str,
    leader: str,
    rivals: Figures,
    best: Mapping[str, set[str]],
    common: Sequence[Mapping[str, Figure]],
    section: Section,
) -> list[str]:
    contests = [row for row, of_model in rivals.items() if column in of_model]
    wins = sum(best[row] == {column} for row in contests)
    behind = sum(bool(best[row]) and column not in best[row] for row in contests)
    without = sum(n.column == column and not words.published(n.record) for n in section)
    if not common:
        ratio = "–"
    else:
        ratio = "×1.00" if column == leader else str(_ratio([(f[column], f[leader]) for f in common]))
    return [column, str(wins), str(len(contests) - wins - behind), str(behind), str(without), ratio]


def _wins(column: str, best: Mapping[str, set[str]]) -> int:
    return sum(found == {column} for found in best.values())


def _ratio(pairs: Sequence[tuple[Figure, Figure]]) -> Ratio:
    return Ratio(
        _geometric_mean([a.value / b.value for a, b in pairs]),
        _geometric_mean([a.lo / b.hi / b.ahead_of(a) for a, b in pairs]),
        _geometric_mean([a.hi / b.lo * a.ahead_of(b) for a, b in pairs]),
        any(not a.enough(b) for a, b in pairs),
    )


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(math.fsum(map(math.log, values)) / len(values)) if values else math.inf


def _models(count: int) -> str:
    return f"{count} model{'s' if count != 1 else ''}"
