"""What soaks say in a table and on pages of their own: latency, clocks and heat over time."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.record import Record, SoakFacts, SpanFacts
from bench.report import words
from bench.report.blocks import Block, Table, markdown
from bench.report.sections import Named, Section, setting

SPARK_WIDTH = 24
# The lowest bar is the fastest slice, the highest at least so much slower: noise of a percent looks flat.
SPARK_RANGE = 0.2
HOW_TO_DRAW = (
    'No picture: matplotlib is not installed. `pip install "deploybench[pictures]"`, then '
    "`deploybench report --soaks results/tables`."
)


def published(record: Record) -> bool:
    """Whether what the soak showed may be printed."""
    return record.status == "ok" and record.soak is not None and record.parity is not None


def headline(record: Record) -> str:
    """The soak in one line: first against last, or why these cannot be compared."""
    soak = record.soak
    assert soak is not None
    compared = f"{words.milliseconds(soak.begin_p50_ns)} → {words.milliseconds(soak.end_p50_ns)} ms"
    if soak.sustained is None:
        return f"{words.milliseconds(soak.p50_ns)} ms over {words.duration(soak.measured_s)}; {soak.sustained_reason}"
    return f"{compared} ({change(soak)}) in {words.duration(soak.measured_s)}"


def change(soak: SoakFacts) -> str:
    """How much slower the end was than the begin, in percent; `–` where that cannot be said."""
    return "–" if soak.sustained is None else f"{soak.sustained - 1:+.1%}"


def tables(section: Section) -> list[Block]:
    """The heading and the table of a section of soaks."""
    record = section[0].record
    lasts = words.duration(record.case.options.soak_s or 0.0)
    heading = (
        f"**Sustained load**: inference after inference in one process for {lasts}. Device "
        f"{words.escape(record.case.device)}, {setting(record.case.options)}."
    )
    shown = [n for n in section if published(n.record)]
    if not shown:
        return [heading]
    head = ["model", "backend", "first ms", "last ms", "change", "p99 ms", "p99.9 ms", "longest ms", "per s"]
    head += ["inferences", "throttled", "hottest °C", "slowest MHz", "CPU used by others", "over time"]
    about = (
        "First, last: the median latency of the first and of the last minute, or third of the time where that is less; "
        "change: the last against the first. Throttled: slices during which the CPU was. Over time: the median of each "
        f"slice, from the fastest (▁) to one {SPARK_RANGE:.0%} slower, or the slowest (█)."
    ) + words.slowing(n.record for n in shown)
    return [heading, about, Table(head, [_row(n) for n in shown], right=range(2, len(head) - 1), keys=2)]


def _row(named: Named) -> list[str]:
    record, soak = named.record, named.record.soak
    assert soak is not None
    seen = record.evidence.observed
    clock = seen.frequency_mhz[0] if seen and seen.frequency_mhz else None
    heat = seen.temperature_c if seen else None
    return [
        named.row,
        named.column,
        words.milliseconds(soak.begin_p50_ns),
        words.milliseconds(soak.end_p50_ns) + "".join(words.marks_of(record)),
        change(soak),
        *(words.milliseconds(_at(soak, q)) for q in (words.P99, words.P999)),
        words.milliseconds(soak.max_ns),
        f"{soak.per_s:.4g}" if soak.per_s < 1000 else f"{soak.per_s:.0f}",
        str(soak.n),
        _throttled(record, soak),
        "–" if heat is None else f"{heat:.0f}",
        "–" if clock is None else str(clock),
        _others(record, soak),
        sparkline([s.p50_ns for s in soak.spans]),
    ]


def _others(record: Record, soak: SoakFacts) -> str:
    """What they did on the whole, and in how many slices it was more than is accepted: a tail may be theirs."""
    busy = sum(words.disturbed(s) for s in soak.spans)
    return words.others(record.evidence) + (f", busy in {busy} of {len(soak.spans)} slices" if busy else "")


def _at(soak: SoakFacts, q: float) -> int | None:
    return next((p.ns for p in soak.percentiles if p.q == q), None)


def _throttled(record: Record, soak: SoakFacts) -> str:
    seen = record.evidence.observed
    if soak.throttled_s:
        return f"{len(soak.throttled_s)} of {len(soak.spans)}"
    return "0" if seen and seen.throttled is False else "–"


def sparkline(values: Sequence[int | None], width: int = SPARK_WIDTH) -> str:
    """The values as bars, at most so many: of neighbours the highest stands for all. Blank where none is known."""
    size = max(1, -(-len(values) // width))
    groups = [values[at : at + size] for at in range(0, len(values), size)]
    highest = [max((v for v in group if v is not None), default=None) for group in groups]
    known = [v for v in values if v is not None]
    reach = max(max(known) - min(known), SPARK_RANGE * min(known)) if known else 0.0
    return words.bars(highest, reach)


def page(record: Record, picture: str | None) -> str:
    """All of a published soak: the whole, and slice by slice. `picture`: the file beside the page, None without one."""
    soak, options = record.soak, record.case.options
    assert soak is not None
    title = f"# {words.escape(record.case.model.name)} on {words.escape(record.case.backend)}, sustained load"
    seen = f"![Latency, clocks and heat over time]({picture})" if picture else HOW_TO_DRAW
    about = (
        f"Inference after inference in one process for {words.duration(soak.measured_s)}. Device "
        f"{words.escape(record.case.device)}, {setting(options)}. Run {record.run}, record {record.id}."
    )
    slices = (
        "Slice by slice. Times in ms; p50 takes 11 inferences, p99 662. Clock: the lowest that was seen of the CPUs "
        "it ran on. Memory: of the process at the slice's end."
    ) + words.slowing([record])
    blocks: list[Block] = [title, about, seen, f"`{sparkline([s.p50_ns for s in soak.spans])}`", _whole(record, soak)]
    if absent := _absent(record):
        blocks.append(absent)
    return markdown([*blocks, slices, _slices(soak.spans)])


def _whole(record: Record, soak: SoakFacts) -> Table:
    span = words.duration(soak.compared_s)
    rows = [
        [f"median of the first {span}", f"{words.milliseconds(soak.begin_p50_ns)} ms"],
        [f"median of the last {span}", f"{words.milliseconds(soak.end_p50_ns)} ms"],
        ["change", change(soak) if soak.sustained is not None else words.escape(soak.sustained_reason)],
        *(
            [f"p{100 * p.q:g}", f"{words.milliseconds(p.ns)} ms" if p.ns else f"– ({soak.n} of {p.needs} inferences)"]
            for p in soak.percentiles
        ),
        ["longest", f"{words.milliseconds(soak.max_ns)} ms"],
        *([f"longer than {t.times} x the median", f"{t.n} of {soak.n}"] for t in soak.tail),
        ["inferences per second", f"{soak.per_s:.4g}"],
        ["throttled", words.escape(_events(record, soak))],
        ["CPU used by others", _others(record, soak)],
        ["error of scale", words.error_of_scale(record)],
    ]
    return Table(["the whole", ""], rows, right=(1,))


def _events(record: Record, soak: SoakFacts) -> str:
    seen = record.evidence.observed
    if soak.throttled_s:
        at = ", ".join(words.duration(s) for s in soak.throttled_s[:5])
        return f"{_throttled(record, soak)} slices, from {at}{', …' * (len(soak.throttled_s) > 5)} on"
    return "no" if seen and seen.throttled is False else (seen.not_available.get("throttled", "–") if seen else "–")


def _absent(record: Record) -> str:
    """In words, what the machine did not tell."""
    seen = record.evidence.observed
    reasons = seen.not_available if seen else {}
    told = {"frequency_mhz": "clock", "temperature_c": "temperature"}
    return "  \n".join(f"No {word}: {words.escape(reasons[name])}" for name, word in told.items() if name in reasons)


def _slices(spans: Sequence[SpanFacts]) -> Table:
    head = ["from", "p50", "p99", "longest", "inferences", "per s", "MHz", "°C", "MiB"]
    head += ["CPU used by others", "throttled"]
    rows = [
        [
            clock_time(s.at_s),
            words.milliseconds(s.p50_ns),
            words.milliseconds(s.p99_ns),
            words.milliseconds(s.max_ns),
            str(s.n),
            f"{s.per_s:.4g}",
            "–" if s.frequency_mhz is None else str(s.frequency_mhz),
            "–" if s.temperature_c is None else f"{s.temperature_c:.1f}",
            words.megabytes(s.rss_bytes),
            words.others(s),
            words.escape(s.throttle) or "–",
        ]
        for s in spans
    ]
    return Table(head, rows, right=range(len(head) - 1))


def clock_time(seconds: float) -> str:
    """`0:05`, `12:30`, `1:00:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def name(record: Record) -> str:
    """What the files of this soak are called, without their ending."""
    words_ = [record.case.model.name, record.case.backend, record.id[:6]]
    return f"{record.run}-soak-{'-'.join(re.sub(r'[^A-Za-z0-9.]+', '-', w).strip('-') for w in words_)}"
