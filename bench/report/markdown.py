"""The markdown document: a table of medians, a table of details, why-nots, machine and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench import __version__
from bench.errors import UsageError
from bench.record import Record
from bench.report import words

BEGIN, END = "<!-- deploybench table: begin -->", "<!-- deploybench table: end -->"


def latest(records: Iterable[Record]) -> list[Record]:
    """Of each cell on each machine the newest record, in the order of their first appearance."""
    found: dict[tuple[str, str], Record] = {}
    for record in records:
        key = (record.machine, record.cell)
        if key not in found or found[key].started_at <= record.started_at:
            found[key] = record
    return list(found.values())


def document(records: Sequence[Record]) -> str:
    """The whole text, one section per machine and setting; empty for no records."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for record in latest(records):
        groups.setdefault(_group(record), []).append(record)
    return "\n".join(_section(group) for group in groups.values())


def _group(record: Record) -> tuple[str, ...]:
    options = record.case.options
    facts = (options.threads, options.precision, options.batch, options.scenario, options.cpus)
    return (record.machine, record.case.device, *(json.dumps(f) for f in facts))


def _section(records: list[Record]) -> str:
    parts = [_heading(records), _medians(records)]
    marks = sorted({mark for r in records if words.published(r) for mark in words.marks_of(r)})
    parts += ["\n".join(f"{mark} {words.MARKS[mark]}  " for mark in marks)] if marks else []
    measured = [r for r in records if words.published(r)]
    if measured:
        parts.append(_details(measured))
    if unpublished := [r for r in records if not words.published(r)]:
        parts.append(_why_not(unpublished))
    parts.append(_footer(records))
    return "\n\n".join(parts) + "\n"


def _heading(records: list[Record]) -> str:
    options, device = records[0].case.options, records[0].case.device
    threads = f"{options.threads} thread{'s' if options.threads != 1 else ''}"
    batch = f", batch {options.batch}" if options.batch else ""
    cpus = f", CPUs {','.join(str(c) for c in options.cpus)}" if options.cpus else ""
    precision = "" if options.precision == "model" else f", precision {options.precision}"
    return (
        f"**Latency in ms**: median of one inference, {options.scenario}, end to end, host clock; in brackets the lowest and "
        f"highest median of the trials. Device {device}, {threads}{batch}{cpus}{precision}."
    )


def _medians(records: list[Record]) -> str:
    columns = list(dict.fromkeys(_column(r, records) for r in records))
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        rows.setdefault(_row(record, records), {})[_column(record, records)] = words.cell(record)
    lines = [[model, *(cells.get(c, "–") for c in columns)] for model, cells in rows.items()]
    return table(["model", *columns], lines, right=range(1, len(columns) + 1))


def _row(record: Record, records: list[Record]) -> str:
    """The model's name, told apart by what differs where two models share it."""
    model = record.case.model
    twins = [r.case.model for r in records if r.case.model.name == model.name]
    name = words.escape(model.name)
    if len({t.sha256 for t in twins}) > 1:
        name += f" ({model.sha256[:8]})"
    if len({json.dumps(t.shapes) for t in twins}) > 1:
        name += " " + ", ".join("x".join(str(d) for d in shape) for shape in model.shapes.values())
    return name


def _column(record: Record, records: list[Record]) -> str:
    """The backend's name, told apart by the options that differ."""
    extra = record.case.options.extra
    others = [r.case.options.extra for r in records if r.case.backend == record.case.backend]
    differ = [name for name in extra if len({json.dumps(o.get(name)) for o in others}) > 1]
    told = ", ".join(f"{name}={_option(extra[name])}" for name in differ)
    return f"{record.case.backend} ({told})" if told else record.case.backend


def _option(value: object) -> str:
    return {True: "on", False: "off"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def _details(records: list[Record]) -> str:
    head = ["model", "backend", "p50 ms", "p90 ms", "p99 ms", "samples", "trials", "load ms", "first run ms", "peak MiB"]
    head += ["error of scale", "as good as", "reference", "foreign CPU"]
    return "Details\n\n" + table(head, [_detail(r, records) for r in records], right=[*range(2, 11), 13])


def _detail(record: Record, records: list[Record]) -> list[str]:
    latency, parity, cold = record.latency, record.parity, record.cold
    assert latency is not None
    assert parity is not None
    at = {p.q: p.ns for p in latency.percentiles}
    load = None if cold is None or cold.load_s is None else int(cold.load_s * 1e9)
    first = None if cold is None or cold.first_run_s is None else int(cold.first_run_s * 1e9)
    foreign = record.evidence.foreign_cpu
    return [
        _row(record, records),
        _column(record, records),
        words.milliseconds(at.get(0.5)),
        words.milliseconds(at.get(0.9)),
        words.milliseconds(at.get(0.99)),
        str(latency.n),
        str(record.evidence.trials - record.evidence.trials_noisy),
        words.milliseconds(load),
        words.milliseconds(first),
        words.megabytes(record.memory.peak_rss_bytes if record.memory else None),
        words.error_of_scale(record),
        parity.grade,
        " ".join(filter(None, (parity.reference.producer, parity.reference.version))),
        "–" if foreign is None else f"{foreign:.1%}",
    ]


def _why_not(records: list[Record]) -> str:
    lines = [f"- {_row(r, records)} on {_column(r, records)}: {r.status}. {_sentence(r)}" for r in records]
    return "Not published\n\n" + "\n".join(lines)


def _sentence(record: Record) -> str:
    hint = record.error.hint if record.error else ""
    text = " ".join(f"{words.reason(record)}{'; ' + hint if hint else ''}".split())
    return words.escape(text)


def _footer(records: list[Record]) -> str:
    known = [r for r in records if r.environment.get("machine")]
    runtimes = sorted({f"{n} {v}" for r in known for n, v in r.environment.get("runtimes", {}).items()})
    converters = sorted({f"{n} {v}" for r in known if r.prepare for n, v in r.prepare.converter.items()} - set(runtimes))
    machines = sorted({_machine_words(r) for r in known})
    dates = sorted(r.started_at[:10] for r in records)
    date = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    what = ", ".join([*runtimes, *converters, f"deploybench {__version__}"])
    return "  \n".join([*(f"Machine: {m}" for m in machines), f"Versions: {what}", f"Date: {date}"])


def _machine_words(record: Record) -> str:
    e = record.environment
    memory = f", {e['memory_bytes'] / 2**30:.0f} GiB" if e.get("memory_bytes") else ""
    return f"{e['cpu']}, {e['cores']} cores{memory}, {e['os']}, {e['kernel']}, Python {e['python']}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int]) -> str:
    """A markdown table, padded so that it reads well as plain text too."""
    to_right = set(right)
    lines = [list(head), *[list(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def text(line: Sequence[str]) -> str:
        padded = (c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True)))
        return f"| {' | '.join(padded)} |"

    rule = (("-" * (w - 1) + ":") if i in to_right else "-" * w for i, w in enumerate(widths))
    return "\n".join([text(lines[0]), f"| {' | '.join(rule)} |", *(text(line) for line in lines[1:])])


def insert(path: Path, text: str) -> None:
    """Replace what stands between the two marks in a file.

    Raises:
        UsageError: the file or its marks are missing.
    """
    try:
        before, rest = path.read_text().split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError):
        raise UsageError(f"{path} has no place for the table", f"write these two lines into it: {BEGIN} and {END}") from None
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}")
