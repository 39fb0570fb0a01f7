"""Which records may stand beside one another, and the names that tell them apart.

A section is one machine, device and setting (threads, precision, batch, scenario, CPUs): numbers of two sections are
never compared. Of each cell the newest record counts.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.record import ModelFacts, OptionFacts, Record
from bench.report import loaded, words


@dataclass(frozen=True, slots=True)
class Named:
    """A record with the name of its row (its model) and of its column (its backend)."""

    record: Record
    row: str
    column: str


Section = Sequence[Named]


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each cell on each machine the newest record, in the order of their first appearance."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.machine, record.cell)
        if key not in found or found[key].started_at <= record.started_at:
            found[key] = record
    return list(found.values())


def sections(records: Iterable[Record], *, soaks: bool = False) -> list[Section]:
    """The newest records, section by section, in the order of their first appearance: all but soaks, or these alone."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in latest(records):
        if (record.case.options.scenario == "soak") is not soaks:
            continue
        groups.setdefault(_group(record), []).append(record)
    return [_named(group) for group in groups.values()]


def _group(record: Record) -> tuple[str, ...]:
    options = record.case.options
    facts = [options.threads, options.precision, options.batch, options.scenario, options.cpus]
    if options.scenario != "single-stream":
        facts += [options.streams, options.samples_per_query, options.rate, options.latency_bound_ns, options.soak_s]
    return (record.machine, record.case.device, *(json.dumps(f) for f in facts))


def setting(options: OptionFacts) -> str:
    """How it was measured, in words: `2 threads, batch 8, single-stream`."""
    threads = f"{options.threads} thread{'s' if options.threads != 1 else ''}"
    batch = f", batch {options.batch}" if options.batch else ""
    cpus = f", CPUs {','.join(str(c) for c in options.cpus)}" if options.cpus else ""
    precision = "" if options.precision == "model" else f", precision {words.escape(options.precision)}"
    return f"{threads}{batch}{cpus}{precision}, {loaded.setting(options)}"


def _named(records: list[Record]) -> Section:
    models: dict[str, list[ModelFacts]] = defaultdict(list)
    backends: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        models[record.case.model.name].append(record.case.model)
        backends[record.case.backend].append(record)
    rows = {name: _Twins(twins) for name, twins in models.items()}
    columns = {name: _Kin(kin) for name, kin in backends.items()}
    return [Named(r, rows[r.case.model.name].name(r.case.model), columns[r.case.backend].name(r)) for r in records]


class _Twins:
    """Models that share a name are told apart by what differs."""

    def __init__(self, models: Sequence[ModelFacts]) -> None:
        self._hashes = len({m.sha256 for m in models}) > 1
        self._shapes = len({json.dumps(m.shapes) for m in models}) > 1

    def name(self, model: ModelFacts) -> str:
        name = words.escape(model.name)
        if self._hashes:
            name += f" ({model.sha256[:8]})"
        if self._shapes:
            name += " " + ", ".join("x".join(str(d) for d in shape) for shape in model.shapes.values())
        return name


class _Kin:
    """Records of a backend are told apart by options that differ, by what unusual samples span, and as emulated."""

    def __init__(self, records: Sequence[Record]) -> None:
        values: dict[str, set[str]] = defaultdict(set)
        extras = [r.case.options.extra for r in records]
        for name in {name for extra in extras for name in extra}:
            values[name] = {json.dumps(extra.get(name)) for extra in extras}
        self._differ = {name for name, seen in values.items() if len(seen) > 1}
        spans = {(r.latency.scope, r.latency.clock) for r in records if r.latency}
        self._unusual = spans != {("end_to_end", "host")}

    def name(self, record: Record) -> str:
        extra = record.case.options.extra
        told = [f"{name}={_option(value)}" for name, value in extra.items() if name in self._differ]
        if record.latency and self._unusual:
            told.append(f"{record.latency.scope.replace('_', ' ')}, {record.latency.clock} clock")
        if words.emulated(record):
            told.append("emulated")
        return words.escape(f"{record.case.backend} ({', '.join(told)})" if told else record.case.backend)


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    name, _, digest = str(value).partition(" sha256:")
    return f"{name} {digest[:8]}" if digest else name
