"""What changed from the record that a cell had before to its newest one: a list for people, not a verdict.

`deploybench compare` judges; here a number has changed where the intervals of both records lie apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bench.record import Record
from bench.report import causes, shown, words
from bench.report.blocks import Block
from bench.report.figure import figure
from bench.report.sections import sections

# Runs of one night begin within so many hours of each other; what was last measured before is no news.
NIGHT = timedelta(hours=18)
# A peak that moved by less is seldom worth a sentence. Rule of thumb; `deploybench compare` has the test.
MEMORY_MATTERS = 0.1
NOTHING = "Nothing that can be told from noise."


@dataclass(frozen=True, slots=True)
class Change:
    """A sentence about a cell; `worse` puts it in front."""

    worse: bool
    text: str


def listed(records: Sequence[Record], before: Sequence[Record]) -> list[Block]:
    """The list as markdown: first what got worse."""
    found = changed(records, before)
    if not before:
        return ["There is no run before to compare with."]
    return ["\n".join(f"- {c.text}" for c in sorted(found, key=lambda c: not c.worse))] if found else [NOTHING]


def changed(records: Sequence[Record], before: Sequence[Record]) -> list[Change]:
    """Every change of the cells that were measured in their machine's last night."""
    old = {(r.machine, r.cell): r for r in before}
    last: dict[str, datetime] = {}
    for record in records:
        last[record.machine] = max(last.get(record.machine, _time(record)), _time(record))
    found = []
    for section in (*sections(records), *sections(records, soaks=True)):
        for named in section:
            new = named.record
            previous = old.get((new.machine, new.cell))
            if previous and last[new.machine] - _time(new) < NIGHT:
                title = f"{named.row} on {named.column} ({words.escape(f'{new.case.device} of {new.machine}')})"
                found += [Change(worse, f"{title}: {text}") for worse, text in _of(previous, new)]
    return found


def _time(record: Record) -> datetime:
    return datetime.fromisoformat(record.started_at)


def _of(old: Record, new: Record) -> list[tuple[bool, str]]:
    because = _because(old, new)
    if shown.published(old) != shown.published(new):
        text = f"{shown.line(old)} → {shown.line(new)}{because}"
        return [(shown.published(old), text)]
    if not shown.published(new):
        return [(False, f"{shown.line(old)} → {shown.line(new)}{because}")] if old.status != new.status else []
    return [(worse, f"{text}{because}") for worse, text in (*_speed(old, new), *_memory(old, new), *_parity(old, new))]


def _speed(old: Record, new: Record) -> list[tuple[bool, str]]:
    was, now = figure(old), figure(new)
    if was is None or now is None or was.kind != now.kind or not (was.beats(now) or now.beats(was)):
        return []
    slower = now.value > was.value
    ratio = now.value / was.value if slower else was.value / now.value
    return [(slower, f"{shown.line(old)} → {shown.line(new)}, ×{ratio:.2f} {'slower' if slower else 'faster'}")]


def _memory(old: Record, new: Record) -> list[tuple[bool, str]]:
    was = old.memory.peak_rss_bytes if old.memory else None
    now = new.memory.peak_rss_bytes if new.memory else None
    if not was or not now or abs(now - was) < MEMORY_MATTERS * was:
        return []
    return [(now > was, f"peak memory {words.megabytes(was)} → {words.megabytes(now)} MiB")]


def _parity(old: Record, new: Record) -> list[tuple[bool, str]]:
    if not old.parity or not new.parity or old.parity.grade == new.parity.grade:
        return []
    return [(False, f"its answers pass {words.escape(new.parity.grade)}, and passed {words.escape(old.parity.grade)}")]


def _because(old: Record, new: Record) -> str:
    """What else is not as it was."""
    found = causes.changed(old, new)
    return f" (with {words.escape('; '.join(found))})" if found else ""
