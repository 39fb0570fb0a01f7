"""The tables of records: medians, how they were timed, how right the answers are, why-nots, machine and versions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence

from bench.record import Record
from bench.report import loaded, soak, words
from bench.report.blocks import Block, Table, markdown
from bench.report.figure import fastest, figure
from bench.report.sections import Named, Section, sections, setting

BEGIN, END = "<!-- deploybench table: begin -->", "<!-- deploybench table: end -->"
# From a record without a number to the place that says why, as the target of a link.
Link = Callable[[Record], str]
MEDIAN = (
    "**Median latency in ms** of one inference, ± its 95 % interval over processes; in brackets, where fewer than six "
    "were run, the lowest and highest median of them. End to end by the host's clock, unless the column says otherwise."
)
FASTEST = (
    "**Bold**: the fastest of its row for sure, or all that cannot be told from it, where another one is slower for "
    "sure (their intervals do not overlap, or where they have none, nor their four or more trials, even had the CPU "
    "been as fast for both)."
)


def document(records: Iterable[Record]) -> str:
    """The whole text, one section per machine and setting; empty for no records."""
    return markdown(blocks(records))


def blocks(records: Iterable[Record]) -> list[Block]:
    """The paragraphs and tables of the document; soaks, whose numbers mean something else, at its end."""
    known = list(records)
    found = [block for section in sections(known) for block in of_section(section)]
    return found + [block for section in sections(known, soaks=True) for block in of_soaks(section)]


def overview(records: Iterable[Record]) -> list[Block]:
    """What a person looks at first, where there are many: the numbers, and why there are none."""
    known = list(records)
    found = [b for s in sections(known) for b in (*matrix(s, lambda r: f"#{anchor(r)}"), *why_not(s))]
    return found + [block for section in sections(known, soaks=True) for block in of_soaks(section)]


def of_soaks(section: Section) -> list[Block]:
    """All there is to say of one machine, device and setting under sustained load."""
    unpublished = [n for n in section if not soak.published(n.record)]
    return [*soak.tables(section), *why_not(unpublished), footer([n.record for n in section])]


def anchor(record: Record) -> str:
    """The name of the place that says why the cell has no number: the same every night."""
    return f"cell-{hashlib.sha256(f'{record.machine} {record.cell}'.encode(errors='replace')).hexdigest()[:10]}"


def of_section(section: Section) -> list[Block]:
    """All there is to say of one machine, device and setting."""
    measured = [n for n in section if words.published(n.record)]
    parts = matrix(section, lambda record: f"#{anchor(record)}")
    if measured:
        parts += timing(measured) + answers(measured)
    return [*parts, *why_not(section), footer([n.record for n in section])]


def matrix(section: Section, link: Link) -> list[Block]:
    """Models as rows, backends as columns, with the footnotes that its numbers need."""
    cells, any_bold = _cells(section, link)
    columns = list(dict.fromkeys(n.column for n in section))
    rows = [[row, *(found.get(c, "–") for c in columns)] for row, found in cells.items()]
    table = Table(["model", *columns], rows, right=range(1, len(columns) + 1))
    return [_heading(section), table, *footnotes(section, FASTEST if any_bold else "")]


def footnotes(section: Section, first: str = "") -> list[Block]:
    """What the marks at its numbers mean, after `first`, as a paragraph; empty where nothing is marked."""
    marks = sorted({mark for n in section if words.published(n.record) for mark in words.marks_of(n.record)})
    notes = [*([first] if first else []), *(f"{mark} {words.MARKS[mark]}" for mark in marks)]
    return ["  \n".join(notes)] if notes else []


def _cells(section: Section, link: Link) -> tuple[dict[str, dict[str, str]], bool]:
    """Row by row the text of each column, and whether any is in bold."""
    rows: dict[str, dict[str, Record]] = {}
    for named in section:
        rows.setdefault(named.row, {})[named.column] = named.record
    cells: dict[str, dict[str, str]] = {}
    bold = False
    for row, records in rows.items():
        figures = {column: found for column, record in records.items() if (found := figure(record))}
        best = fastest(figures)
        bold = bold or bool(best)
        cells[row] = {c: cell(record, link, best=c in best) for c, record in records.items()}
    return cells, bold


def cell(record: Record, link: Link, *, best: bool = False) -> str:
    """The text of a record in a table: its number, or its status with a link to the reason."""
    text = loaded.cell(record)
    if not words.published(record):
        return f"[{record.status}]({link(record)}){text.removeprefix(record.status)}"
    return f"**{text}**" if best else text


def _heading(section: Section) -> str:
    record = section[0].record
    where = f"Device {words.escape(record.case.device)}, {setting(record.case.options)}."
    if loaded.applies(record):
        return f"{loaded.heading(record.case.options)} {where}"
    if not any(words.published(n.record) for n in section):
        return f"**Latency in ms.** {where}"
    return f"{MEDIAN} {where}"


def timing(measured: Section) -> list[Block]:
    """How the published numbers were timed."""
    if loaded.applies(measured[0].record):
        return _loaded_timing(measured)
    tail = _with_tail(measured)
    head = ["model", "backend", "p50", "95 % of p50", "p90", "p99", *(["p99.9"] if tail else [])]
    head += ["samples", "trials", "CPU used by others"]
    about = (
        "Timing in ms. The interval of p50 is over processes of the time in which the trials began, and takes six of "
        f"them; p90 takes 64 samples, p99 662{', p99.9 6636' if tail else ''}. Noisy trials are left out."
        + words.slowing(n.record for n in measured)
    )
    return [about, Table(head, [_timing_row(n, tail=tail) for n in measured], right=range(2, len(head)), keys=2)]


def _with_tail(measured: Section) -> bool:
    """Whether any of them has samples enough for p99.9: it has a column then."""
    return any(words.percentile(n.record, words.P999) is not None for n in measured)


def _loaded_timing(measured: Section) -> list[Block]:
    columns = [loaded.timing(n.record, tail=_with_tail(measured)) for n in measured]
    head = ["model", "backend", *columns[0], "trials", "CPU used by others"]
    rows = [
        [n.row, n.column, *found.values(), _trials(n.record), words.others(n.record.evidence)]
        for n, found in zip(measured, columns, strict=True)
    ]
    about = loaded.about(measured[0].record.case.options)
    return [about + words.slowing(n.record for n in measured), Table(head, rows, right=range(2, len(head)), keys=2)]


def _trials(record: Record) -> str:
    evidence = record.evidence
    quiet = evidence.trials - evidence.trials_noisy
    over = f" in {words.duration(evidence.trials_over_s)}" if evidence.trials_over_s else ""
    return (f"{quiet} of {evidence.trials}" if evidence.trials_noisy else str(quiet)) + over


def _timing_row(named: Named, *, tail: bool) -> list[str]:
    record, latency = named.record, named.record.latency
    assert latency is not None
    interval = "–".join(words.milliseconds(ns) for ns in latency.p50_ci_ns or ()) or "–"
    return [
        named.row,
        named.column,
        words.milliseconds(latency.p50_ns),
        interval,
        *(words.milliseconds(words.percentile(record, q)) for q in (0.9, words.P99, *([words.P999] if tail else []))),
        str(latency.n),
        _trials(record),
        words.others(record.evidence),
    ]


def answers(measured: Section) -> list[Block]:
    """How right the published cases were, and what they cost."""
    head = ["model", "backend", "error", "passes", "judged by", "load ms", "first run ms", "peak MiB"]
    head += ["GFLOP/s", "of peak"]
    about = (
        "Answers and cost. Error: the largest difference from the reference, as a share of the largest value of that "
        "output. Passes: the tightest tolerance that every output meets. GFLOP/s: as if every convolution were direct, "
        "so fast algorithms may come out above the machine's peak, a matrix product in fp32 with as many threads. "
        "Load, first run: medians over the trials. Peak: the whole process, Python included, in the largest trial."
    )
    if any(named.record.parity and named.record.parity.reference.noise for named in measured):
        about += " Noise: what float32 itself costs the model, whoever computes it."
    with_task = any(named.record.task for named in measured)
    head += ["task (reference)"] if with_task else []
    rows = [_answers_row(n, with_task=with_task) for n in measured]
    return [about, Table(head, rows, right=(2, *range(5, len(head))), keys=2)]


def _answers_row(named: Named, *, with_task: bool) -> list[str]:
    record = named.record
    parity, cold = record.parity, record.cold_start
    assert parity is not None
    return [
        named.row,
        named.column,
        words.error_and_noise(record),
        words.escape(parity.grade if parity.grade != "wrong" else parity.tolerance.name),
        words.escape(words.judges(parity.reference)),
        words.median_ms(cold.load_s if cold else None),
        words.median_ms(cold.first_run_s if cold else None),
        words.megabytes(record.memory.peak_rss_bytes if record.memory else None),
        words.gigaflops(record),
        words.of_peak(record),
        *([words.escape(words.task(record))] if with_task else []),
    ]


def why_not(section: Section) -> list[Block]:
    """The cells without a number, each with its whole reason; empty where there are none."""
    lines = [
        f'- <a id="{anchor(n.record)}"></a>{n.row} on {n.column}: {n.record.status}. {sentence(n.record)}'
        for n in section
        if not words.published(n.record)
    ]
    return ["Not published", "\n".join(lines)] if lines else []


def sentence(record: Record) -> str:
    """The reason and the next step."""
    hint = record.error.hint if record.error and record.status != "wrong" else ""
    return words.escape(f"{words.reason(record)}{'; ' + hint if hint else ''}")


def footer(records: Sequence[Record]) -> str:
    """Machine, versions and dates."""
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
