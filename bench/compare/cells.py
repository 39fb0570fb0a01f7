"""Which record is held against which: pairs of one cell, with the earlier nights that say what is usual for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from bench.record import Record
from bench.report import causes, words
from bench.scan import CONFIRMS

# Statuses that say nothing of the cell: it was not measured, or not in peace.
UNTOLD = frozenset({"noisy", "skipped"})


@dataclass(frozen=True, slots=True)
class Pair:
    """A cell before and now. `nights`: everything known of it before NEW on that machine, oldest first, OLD included.

    `again` is the re-run that was to confirm NEW; `not_again` says why there is none. `differs`: in words, why the two
    cannot be compared.
    """

    old: Record | None
    new: Record | None
    nights: tuple[Record, ...] = ()
    again: Record | None = None
    not_again: str = ""
    differs: str = ""

    @property
    def known(self) -> Record:
        """The record that says which cell it is."""
        found = self.new or self.old
        assert found is not None
        return found


@dataclass(frozen=True, slots=True)
class Costs:
    """What a record's trials cost, as logarithms, larger is worse; and whose figure it is."""

    quantity: str
    trials: tuple[float, ...]


def confirms(record: Record) -> str | None:
    """The id of the record that this one was measured to confirm."""
    return next((note.removeprefix(CONFIRMS) for note in record.notes if note.startswith(CONFIRMS)), None)


def costs(record: Record) -> Costs | None:
    """The trials of a published record; None where nothing is published, or what was published has no trials."""
    if not words.published(record) or words.emulated(record):
        return None
    options, server = record.case.options, record.server
    values: Sequence[float | None]
    if options.scenario == "offline" and record.throughput:
        quantity, sign, values = "samples per s", -1, record.throughput.trial_per_s
    elif server and options.latency_bound_ns is not None:
        quantity, sign, values = "queries per s", -1, server.trial_rates
    elif server and server.overloaded:
        return None
    elif record.latency:
        latency = record.latency
        scope = "" if latency.scope == "end_to_end" else f" of {latency.scope}"
        clock = "" if latency.clock == "host" else f" by the {latency.clock}'s clock"
        quantity, sign, values = f"ms{scope}{clock}", 1, latency.trial_p50_ns
    else:
        return None
    known = [v for v in values if v is not None and v > 0]
    if not known or len(known) < len(values):
        return None
    return Costs(quantity, tuple(sign * math.log(v) for v in known))


def in_order(records: Iterable[Record]) -> list[Record]:
    """Oldest first, each once."""
    return sorted({r.id: r for r in records}.values(), key=lambda r: (r.started_at, r.run, r.id))


def pairs(
    old: Iterable[Record], new: Iterable[Record], history: Iterable[Record] = (), *, last: int | None = None
) -> list[Pair]:
    """Every cell of both sides. The newest record of a cell counts; what is older is its history, `last` nights of it.

    Cells that only one side has are held against each other where the model, the backend and the device are the same:
    then it is said what differs.
    """
    looks = {ident: r for r in in_order([*old, *new, *history]) if (ident := confirms(r))}
    before, now = _by_cell(old), _by_cell(new)
    earlier = _by_cell([*old, *history])
    found, lone = [], []
    for key, records in now.items():
        newest = records[-1]
        if key not in before:
            lone.append(newest)
            continue
        previous = before[key][-1]
        nights = [r for r in earlier[key] if r.started_at <= previous.started_at and r.id != newest.id]
        nights = nights if last is None else nights[-last:]
        found.append(Pair(previous, newest, tuple(nights), looks.get(newest.id), differs=difference(previous, newest)))
    gone = [records[-1] for key, records in before.items() if key not in now]
    return found + _leftovers(gone, lone)


def _by_cell(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
    found: dict[tuple[str, str], list[Record]] = {}
    for record in in_order(records):
        if confirms(record) is None:
            found.setdefault((record.machine, record.cell), []).append(record)
    return found


def _leftovers(gone: list[Record], lone: list[Record]) -> list[Pair]:
    """What is missing, what is new, and what is the same but for something that forbids to compare."""
    found = []
    for new in lone:
        same_cell = [r for r in gone if r.cell == new.cell]
        akin = same_cell or [r for r in gone if _name(r) == _name(new) and r.machine == new.machine]
        if len(akin) == 1:
            gone.remove(akin[0])
            found.append(Pair(akin[0], new, differs=difference(akin[0], new)))
        else:
            found.append(Pair(None, new))
    return found + [Pair(old, None) for old in gone]


def _name(record: Record) -> tuple[str, str, str]:
    return (record.case.model.name, record.case.backend, record.case.device)


def difference(old: Record, new: Record) -> str:
    """In words, why two records cannot be compared; empty where they can."""
    if reason := causes.other_machine(old, new):
        return reason
    first, second = old.case, new.case
    if first.model.sha256 != second.model.sha256:
        return f"the model is another: {first.model.sha256[:12]}, now {second.model.sha256[:12]}"
    if first.model.shapes != second.model.shapes:
        return f"the shapes are others: {_shapes(old)}, now {_shapes(new)}"
    for name in first.options.__struct_fields__:
        before, now = getattr(first.options, name), getattr(second.options, name)
        if before != now:
            return f"the options are others: {name} {_option(before, now)}, now {_option(now, before)}"
    quantities = [c.quantity for c in (costs(old), costs(new)) if c]
    if len(quantities) == 2 and quantities[0] != quantities[1]:
        return f"another figure was taken: {quantities[0]}, now {quantities[1]}"
    return ""


def _shapes(record: Record) -> str:
    return ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in record.case.model.shapes.items())


def _option(value: object, other: object) -> str:
    """Of a backend's own options only those that the other does not have so."""
    if not isinstance(value, dict) or not isinstance(other, dict):
        return "none" if value is None or value == [] else str(value)
    return ", ".join(f"{k}={v}" for k, v in value.items() if other.get(k) != v) or "default"
