"""Any record in one line, whatever its scenario: its headline with its unit, or its status and why."""

from __future__ import annotations

from bench.record import Record
from bench.report import loaded, soak, words


def published(record: Record) -> bool:
    """Whether what was timed may be shown as a number."""
    return soak.published(record) if record.case.options.scenario == "soak" else words.published(record)


def line(record: Record) -> str:
    """Markdown on one line."""
    if not published(record):
        return f"{record.status}: {words.escape(words.shorten(words.reason(record)))}"
    if record.case.options.scenario == "soak":
        return soak.headline(record)
    return loaded.cell(record, f" {loaded.unit(record)}")
