"""Several devices side by side: one table per setting, for a run that was made to see them so. Nothing is compared."""

from __future__ import annotations

import json
from collections.abc import Iterable

from bench.record import OptionFacts, Record
from bench.report import loaded
from bench.report.blocks import Block, Table
from bench.report.markdown import anchor, cell, footnotes
from bench.report.sections import Section, sections, setting

ABOUT = (
    "Each device is measured and judged by itself; how, and with what evidence, is said below. Between devices nothing "
    "is tested."
)


def side_by_side(records: Iterable[Record]) -> list[Block]:
    """Models as rows, backends on devices as columns; empty where no setting has two devices."""
    groups: dict[str, list[Section]] = {}
    for section in sections(records):
        groups.setdefault(_alike(section[0].record.case.options), []).append(section)
    several = [group for group in groups.values() if len({_where(section) for section in group}) > 1]
    return [block for group in several for block in _together(group)]


def _alike(options: OptionFacts) -> str:
    """What two sections share that stand in one table. Which CPUs they run on is each device's own."""
    facts = [options.threads, options.precision, options.batch, options.scenario, options.streams]
    return json.dumps([*facts, options.samples_per_query, options.rate, options.latency_bound_ns])


def _where(section: Section) -> tuple[str, str]:
    return section[0].record.machine, section[0].record.case.device


def _together(group: list[Section]) -> list[Block]:
    rows: dict[str, dict[str, str]] = {}
    columns: dict[str, None] = {}
    for section in group:
        for named in section:
            options, device = named.record.case.options, named.record.case.device
            cpus = f", CPUs {','.join(str(c) for c in options.cpus)}" if options.cpus else ""
            column = f"{named.column}, {device}{cpus}"
            columns[column] = None
            rows.setdefault(named.row, {})[column] = cell(named.record, lambda record: f"#{anchor(record)}")
    table = Table(
        ["model", *columns],
        [[row, *(found.get(column, "–") for column in columns)] for row, found in rows.items()],
        right=range(1, len(columns) + 1),
    )
    first = group[0][0].record
    what = "Median latency in ms." if not loaded.applies(first) else loaded.heading(first.case.options)
    head = f"**Devices side by side.** {what} {setting(first.case.options)}. {ABOUT}"
    return [head, table, *footnotes([named for section in group for named in section])]
