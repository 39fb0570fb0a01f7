"""What records of parallel streams say in tables: throughput, p99 of queries, rates."""

from __future__ import annotations

from bench.record import OptionFacts, Record
from bench.report import words


def applies(record: Record) -> bool:
    """Whether its headline is anything but the median of one inference after another."""
    return record.case.options.scenario != "single-stream"


def heading(options: OptionFacts) -> str:
    """What the numbers of the first table are, with their unit."""
    if options.scenario == "offline":
        return (
            "**Throughput** in samples per second, of as many streams (parallel sessions) as said; in brackets the "
            "lowest and highest of the trials, each a fresh process."
        )
    if options.scenario == "multi-stream":
        return f"**p99 latency in ms** of a query of {options.samples_per_query} samples, spread over the streams."
    if options.latency_bound_ns is not None:
        bound = words.milliseconds(options.latency_bound_ns)
        return (
            f"**Highest rate** in queries per second whose p99 latency stays within {bound} ms in every trial; in "
            "brackets the lowest and highest of the trials. Latency counts from the scheduled arrival."
        )
    return (
        f"**p99 latency in ms** from the scheduled arrival, at {options.rate:g} queries per second that arrive at "
        "random (Poisson); or overloaded, and how many per second are answered."
    )


def setting(options: OptionFacts) -> str:
    """The scenario with its number of streams, where that was given."""
    if options.soak_s is not None:
        return "one inference after another"
    return options.scenario if options.streams is None else f"{options.scenario}, {_streams(options.streams)}"


def cell(record: Record, unit: str = "") -> str:
    """The text of any record's cell: its headline with marks, or the status and why. `unit` as in `words.cell`."""
    if not applies(record) or not words.published(record):
        return words.cell(record, unit)
    return f"{_headline(record)}{unit}{''.join(words.marks_of(record))}"


def _headline(record: Record) -> str:
    throughput, server = record.throughput, record.server
    assert throughput is not None
    if record.case.options.scenario == "offline":
        return f"{rate(throughput.per_s)}{_range(throughput.trial_per_s)}, {_streams(throughput.streams)}"
    if server and record.case.options.latency_bound_ns is not None:
        if server.rate is None:
            return f"none: {words.escape(words.shorten(_stopped_by(record)))}"
        return f"{rate(server.rate)}{_range([r for r in server.trial_rates if r is not None])}"
    if server and server.overloaded:
        return f"overloaded: answers {rate(throughput.per_s)}"
    return p99(record)


def p99(record: Record) -> str:
    """In ms, or what it takes."""
    found = next((p for p in record.latency.percentiles if p.q == words.P99), None) if record.latency else None
    if found is None or record.latency is None:
        return "–"
    return words.milliseconds(found.ns) if found.ns is not None else f"– ({record.latency.n} of {found.needs} queries)"


def unit(record: Record) -> str:
    """What stands behind the figure where no heading says it."""
    if not applies(record):
        return "ms"
    if record.case.options.scenario == "offline":
        return "(samples per s)"
    if record.server and (record.server.overloaded or record.case.options.latency_bound_ns is not None):
        return "(queries per s)"
    return "ms p99"


def timing(record: Record, *, tail: bool) -> dict[str, str]:
    """The columns of the second table, by their heads; `tail`: p99.9 is one."""
    latency, throughput, server = record.latency, record.throughput, record.server
    assert throughput is not None
    found = {"per s": rate(throughput.per_s), "streams": str(throughput.streams)}
    if record.case.options.scenario == "offline":
        tried = ", ".join(f"{s.streams}: {rate(s.per_s)}" for s in throughput.sweep) or "–"
        return found | {"inferences": str(throughput.inferences), "s": f"{throughput.seconds:.2f}", "tried": tried}
    # While a queue grows, latencies say only how long it was watched.
    settled = latency if not (server and server.overloaded) else None
    found |= {
        "p50": words.milliseconds(settled.p50_ns if settled else None),
        "p99": p99(record) if settled else "–",
        **({"p99.9": words.milliseconds(words.percentile(record, words.P999) if settled else None)} if tail else {}),
        "queries": str(latency.n if latency else 0),
    }
    if server:
        found["late"] = words.milliseconds(server.late_ns)
    if server and record.case.options.latency_bound_ns is not None:
        found["tried"] = ", ".join(f"{rate(p.rate)} {'held' if p.held else 'missed'}" for p in server.probes) or "–"
    return found


def about(options: OptionFacts) -> str:
    """What the columns of the second table mean."""
    noisy = "Noisy trials are left out."
    if options.scenario == "offline":
        return f"Of the trial in the middle. Tried: samples per second by streams, before it was measured. {noisy}"
    p99s = "Times in ms. Per s: inferences done, of the trial in the middle. p99 takes 662 queries, p99.9 6636."
    if options.scenario == "multi-stream":
        return f"{p99s} {noisy}"
    late = (
        "Late: how much after its arrival a query began when a stream was idle (median), which is the harness's part."
    )
    return f"{p99s} {late} {noisy}"


def rate(per_s: float) -> str:
    """At least three significant digits, never an exponent."""
    return words.milliseconds(round(per_s * 1e6))


def _streams(count: int) -> str:
    return f"{count} stream{'s' if count != 1 else ''}"


def _range(values: list[float]) -> str:
    return f" ({rate(min(values))}–{rate(max(values))})" if len(values) > 1 else ""


def _stopped_by(record: Record) -> str:
    return record.server.stopped_by if record.server else ""
