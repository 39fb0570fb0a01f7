"""The markdown document: medians, how they were timed, how right the answers are, why-nots, machine and versions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from bench.errors import UsageError
from bench.record import Record
from bench.report import loaded, words

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
    facts = [options.threads, options.precision, options.batch, options.scenario, options.cpus]
    if options.scenario != "single-stream":
        facts += [options.streams, options.samples_per_query, options.rate, options.latency_bound_ns]
    return (record.machine, record.case.device, *(json.dumps(f) for f in facts))


def _section(records: list[Record]) -> str:
    measured = [r for r in records if words.published(r)]
    unpublished = [r for r in records if not words.published(r)]
    parts = [_heading(records), _medians(records)]
    if marks := sorted({mark for r in measured for mark in words.marks_of(r)}):
        parts.append("  \n".join(f"{mark} {words.MARKS[mark]}" for mark in marks))
    if measured:
        parts += [_timing(measured, records), _answers(measured, records)]
    if unpublished:
        parts.append(_why_not(unpublished, records))
    parts.append(_footer(records))
    return "\n\n".join(parts) + "\n"


def _heading(records: list[Record]) -> str:
    options, device = records[0].case.options, words.escape(records[0].case.device)
    threads = f"{options.threads} thread{'s' if options.threads != 1 else ''}"
    batch = f", batch {options.batch}" if options.batch else ""
    cpus = f", CPUs {','.join(str(c) for c in options.cpus)}" if options.cpus else ""
    precision = "" if options.precision == "model" else f", precision {options.precision}"
    where = f"Device {device}, {threads}{batch}{cpus}{precision}, {loaded.setting(options)}."
    if loaded.applies(records[0]):
        return f"{loaded.heading(options)} {where}"
    if not any(words.published(r) for r in records):
        return f"**Latency in ms.** {where}"
    return (
        "**Median latency in ms** of one inference, ± its 95 % interval over processes; in brackets, where fewer than "
        "six were run, the lowest and highest median of them. End to end by the host's clock, unless the column says "
        f"otherwise. {where}"
    )


def _medians(records: list[Record]) -> str:
    columns = list(dict.fromkeys(_column(r, records) for r in records))
    rows: dict[str, dict[str, str]] = {}
    for record in records:
        rows.setdefault(_row(record, records), {})[_column(record, records)] = loaded.cell(record)
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
    """The backend's name, told apart by the options that differ, and by what its samples span where that is unusual."""
    extra = record.case.options.extra
    others = [r.case.options.extra for r in records if r.case.backend == record.case.backend]
    differ = [name for name in extra if len({json.dumps(o.get(name)) for o in others}) > 1]
    told = [f"{name}={_option(extra[name])}" for name in differ]
    spans = {(r.latency.scope, r.latency.clock) for r in records if r.case.backend == record.case.backend and r.latency}
    if record.latency and spans != {("end_to_end", "host")}:
        told.append(f"{record.latency.scope.replace('_', ' ')}, {record.latency.clock} clock")
    return words.escape(f"{record.case.backend} ({', '.join(told)})" if told else record.case.backend)


def _option(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    name, _, digest = str(value).partition(" sha256:")
    return f"{name} {digest[:8]}" if digest else name


def _timing(measured: list[Record], records: list[Record]) -> str:
    if loaded.applies(records[0]):
        return _loaded_timing(measured, records)
    head = ["model", "backend", "p50", "95 % of p50", "p90", "p99", "samples", "trials", "CPU used by others"]
    about = (
        "Timing in ms. The interval of p50 is over processes and takes six trials; p90 takes 64 samples, p99 662. "
        "Noisy trials are left out."
    )
    return f"{about}\n\n{table(head, [_timing_row(r, records) for r in measured], right=range(2, len(head)))}"


def _loaded_timing(measured: list[Record], records: list[Record]) -> str:
    columns = [loaded.timing(r) for r in measured]
    head = ["model", "backend", *columns[0], "trials", "CPU used by others"]
    rows = [
        [_row(r, records), _column(r, records), *found.values(), _trials(r), _others(r)]
        for r, found in zip(measured, columns, strict=True)
    ]
    return f"{loaded.about(records[0].case.options)}\n\n{table(head, rows, right=range(2, len(head)))}"


def _trials(record: Record) -> str:
    evidence = record.evidence
    quiet = evidence.trials - evidence.trials_noisy
    return f"{quiet} of {evidence.trials}" if evidence.trials_noisy else str(quiet)


def _others(record: Record) -> str:
    share = record.evidence.foreign_cpu
    return "unknown" if share is None else f"{share:.1%}"


def _timing_row(record: Record, records: list[Record]) -> list[str]:
    latency = record.latency
    assert latency is not None
    at = {p.q: p.ns for p in latency.percentiles}
    interval = "–".join(words.milliseconds(ns) for ns in latency.p50_ci_ns or ()) or "–"
    return [
        _row(record, records),
        _column(record, records),
        words.milliseconds(latency.p50_ns),
        interval,
        words.milliseconds(at.get(0.9)),
        words.milliseconds(at.get(0.99)),
        str(latency.n),
        _trials(record),
        _others(record),
    ]


def _answers(measured: list[Record], records: list[Record]) -> str:
    head = ["model", "backend", "error", "passes", "judged by", "load ms", "first run ms", "peak MiB"]
    head += ["GFLOP/s", "of peak"]
    about = (
        "Answers and cost. Error: the largest difference from the reference, as a share of the largest value of that "
        "output. Passes: the tightest tolerance that every output meets. GFLOP/s: as if every convolution were direct, "
        "so fast algorithms may come out above the machine's peak, a matrix product in fp32 with as many threads."
    )
    return f"{about}\n\n{table(head, [_answers_row(r, records) for r in measured], right=(2, *range(5, len(head))))}"


def _answers_row(record: Record, records: list[Record]) -> list[str]:
    parity, cold = record.parity, record.cold
    assert parity is not None
    return [
        _row(record, records),
        _column(record, records),
        words.error_of_scale(record),
        words.escape(parity.grade if parity.grade != "wrong" else parity.tolerance.name),
        words.escape(f"{parity.reference.producer} {parity.reference.version}"),
        words.milliseconds(_ns(cold.load_s if cold else None)),
        words.milliseconds(_ns(cold.first_run_s if cold else None)),
        words.megabytes(record.memory.peak_rss_bytes if record.memory else None),
        words.gigaflops(record),
        words.of_peak(record),
    ]


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else round(seconds * 1e9)


def _why_not(unpublished: list[Record], records: list[Record]) -> str:
    lines = [f"- {_row(r, records)} on {_column(r, records)}: {r.status}. {_sentence(r)}" for r in unpublished]
    return "Not published\n\n" + "\n".join(lines)


def _sentence(record: Record) -> str:
    hint = record.error.hint if record.error and record.status != "wrong" else ""
    return words.escape(f"{words.reason(record)}{'; ' + hint if hint else ''}")


def _footer(records: list[Record]) -> str:
    known = [r for r in records if r.environment.get("machine")]
    runtimes = sorted({f"{n} {v}" for r in known for n, v in r.environment.get("runtimes", {}).items()})
    converters = sorted(
        {f"{n} {v}" for r in known if r.prepare for n, v in r.prepare.converter.items()} - set(runtimes)
    )
    machines = sorted({_machine_words(r) for r in known}) or sorted({r.machine for r in records})
    dates = sorted(r.started_at[:10] for r in records)
    date = dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}"
    ours = sorted({f"deploybench {r.environment['deploybench']}" for r in known if "deploybench" in r.environment})
    versions = words.escape(", ".join([*runtimes, *converters, *ours]))
    lines = [f"Machine: {words.escape(m)}" for m in machines]
    lines += [f"Versions: {versions}"] if versions else []
    return "  \n".join([*lines, f"Measured: {date}"])


def _machine_words(record: Record) -> str:
    e = record.environment
    memory = f"{e['memory_bytes'] / 2**30:.0f} GiB" if e.get("memory_bytes") else ""
    cores, python = e.get("cores"), e.get("python")
    facts = (
        e.get("cpu"),
        f"{cores} cores" if cores else "",
        memory,
        e.get("os"),
        e.get("kernel"),
        f"Python {python}" if python else "",
    )
    return ", ".join(str(f) for f in facts if f)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Iterable[int]) -> str:
    """A markdown table, padded so that it reads well as plain text too."""
    to_right = set(right)
    lines = [list(head), *[list(r) for r in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def text(line: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
        )
        return f"| {' | '.join(padded)} |"

    rule = (("-" * (w - 1) + ":") if i in to_right else "-" * w for i, w in enumerate(widths))
    return "\n".join([text(lines[0]), f"| {' | '.join(rule)} |", *(text(line) for line in lines[1:])])


def insert(path: Path, text: str) -> None:
    """Replace what stands between the two marks in a file.

    Raises:
        UsageError: the file or its marks are missing, or it cannot be written.
    """
    try:
        before, rest = path.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError):
        raise UsageError(
            f"{path} has no place for the table", f"write these two lines into it: {BEGIN} and {END}"
        ) from None
    whole = f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"
    try:
        path.write_text(whole, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
