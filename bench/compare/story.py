"""All nights of a cell: what it was each night, when its level moved, and what changed with that night."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.compare import nights
from bench.compare.cells import confirms, costs, difference, in_order
from bench.compare.changes import Change, change_points
from bench.record import Record
from bench.report import causes, words
from bench.report.blocks import Block, Table
from bench.report.sections import setting

SPARK_WIDTH = 80
ABOUT = (
    "A night is where the figures of its trials lie (Hodges and Lehmann), which may be a little off their median in "
    "other tables. Trials: half of what the lowest and the highest of them differ by; no interval."
)


@dataclass(frozen=True, slots=True)
class Night:
    """One record of the cell; `level` is the logarithm of what it cost, None where nothing is published."""

    record: Record
    level: float | None


@dataclass(frozen=True, slots=True)
class Moved:
    """The level moved with this night, whose record is `first`, and what changed since `before`, the night before."""

    before: Record
    first: Record
    effect: float
    chance: float
    causes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Story:
    """A cell's nights on one machine, oldest first; confirming re-runs are none."""

    quantity: str
    nights: tuple[Night, ...]
    moved: tuple[Moved, ...]

    @property
    def newest(self) -> Record:
        """The record that names the cell."""
        return self.nights[-1].record


def story(records: Sequence[Record], smallest: float) -> Story:
    """The story of one cell on one machine: changes by less than `smallest`, a share, are not told.

    Nights whose hardware, clock or scope are others than the newest ones' have no level.
    """
    own = [r for r in in_order(records) if confirms(r) is None]
    last = next((r for r in reversed(own) if costs(r)), own[-1])
    quantity = found.quantity if (found := costs(last)) else ""
    told = tuple(Night(r, _level(r, last)) for r in own)
    numbered = [n for n in told if n.level is not None]
    changes = change_points([n.level for n in numbered if n.level is not None], smallest)
    return Story(quantity, told, tuple(_moved(numbered, change) for change in changes))


def _level(record: Record, like: Record) -> float | None:
    found = costs(record)
    return float(nights.location(found.trials)) if found and not difference(record, like) else None


def _moved(numbered: Sequence[Night], change: Change) -> Moved:
    before, first = numbered[change.index - 1].record, numbered[change.index].record
    return Moved(before, first, change.effect, change.chance, tuple(causes.changed(before, first)))


def value(story: Story, level: float | None) -> float | None:
    """A level in the quantity's own unit, ms or per second."""
    if level is None:
        return None
    return math.exp(level) / 1e6 if story.quantity.startswith("ms") else math.exp(-level)


def sparkline(story: Story) -> str:
    """One sign per night, the newest at the right; a dot where nothing is published. Higher is slower."""
    levels = [n.level for n in story.nights[-SPARK_WIDTH:]]
    known = [x for x in levels if x is not None]
    return words.bars(levels, max(known) - min(known), "·") if known else ""


def page(story: Story) -> list[Block]:
    """The story for people."""
    case = story.newest.case
    name = words.escape(f"{case.model.name} on {case.backend}, {case.device}, {setting(case.options)}")
    heading = f"**{name}** (cell {story.newest.cell}, {words.escape(story.newest.machine)})"
    parts: list[Block] = [heading]
    if spark := sparkline(story):
        known = [v for n in story.nights[-SPARK_WIDTH:] if (v := value(story, n.level)) is not None]
        middle = f"{_figure(min(known))} to {_figure(max(known))} {story.quantity}"
        parts.append(f"`{spark}` {middle}, higher is slower")
    parts += [_table(story), ABOUT, _changes(story)]
    return parts


def _changes(story: Story) -> str:
    if not story.moved:
        return "No night moved the level by more than chance does."
    lines = [
        f"- {moved.first.started_at[:10]}, run {moved.first.run}: {_direction(moved.effect)} "
        f"(by chance at most {moved.chance:.1%}); {words.escape('; '.join(moved.causes)) or 'no version changed'}"
        for moved in story.moved
    ]
    return "\n".join(["The level moved with:", "", *lines])


def _direction(effect: float) -> str:
    return f"{abs(effect):.1%} {'slower' if effect > 0 else 'faster'}"


def _table(story: Story) -> Table:
    moved = {m.first.id: _direction(m.effect) for m in story.moved}
    rows = []
    for before, night in zip((None, *story.nights), story.nights, strict=False):
        record, figure = night.record, value(story, night.level)
        changed = causes.versions_changed(before.record, record) if before else []
        rows.append(
            (
                record.started_at[:16].replace("T", " "),
                record.run,
                record.status if figure is None else _figure(figure),
                _spread(record),
                words.error_of_scale(record),
                words.megabytes(record.memory.peak_rss_bytes if record.memory else None),
                moved.get(record.id, "–"),
                words.escape("; ".join(changed)) or "–",
            )
        )
    head = (
        "night",
        "run",
        story.quantity or "figure",
        "trials ±",
        "error",
        "peak MiB",
        "level",
        "versions that changed",
    )
    return Table(head, rows, right=(2, 3, 4, 5), keys=1)


def _figure(figure: float) -> str:
    return words.milliseconds(round(figure * 1e6))


def _spread(record: Record) -> str:
    found = costs(record)
    if found is None or len(found.trials) < 2:
        return "–"
    return f"{float(np.ptp(found.trials)) / 2:.1%}"


def as_json(story: Story) -> str:
    """One line of JSON."""
    told: dict[str, Any] = {
        "cell": story.newest.cell,
        "machine": story.newest.machine,
        "model": story.newest.case.model.name,
        "backend": story.newest.case.backend,
        "device": story.newest.case.device,
        "quantity": story.quantity,
        "nights": [
            {
                "id": n.record.id,
                "run": n.record.run,
                "started_at": n.record.started_at,
                "status": n.record.status,
                "value": value(story, n.level),
                "versions": causes.versions(n.record),
            }
            for n in story.nights
        ],
        "changes": [
            {
                "id": m.first.id,
                "run": m.first.run,
                "started_at": m.first.started_at,
                "effect": m.effect,
                "chance": m.chance,
                "causes": list(m.causes),
            }
            for m in story.moved
        ],
    }
    return json.dumps(told, ensure_ascii=False)
