"""CSV: one row per record, one column per fact, in the units of their names. results/README.md says what each is."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from bench.record import Record
from bench.report import shown, words

Value = str | int | float | bool | None


def _option(name: str) -> Callable[[Record], Value]:
    return lambda record: getattr(record.case.options, name)


def _of(part: str, name: str) -> Callable[[Record], Value]:
    """A field of a part of the record; empty where the record has no such part."""
    return lambda record: getattr(getattr(record, part), name, None)


def _cold(name: str) -> Callable[[Record], Value]:
    return lambda record: getattr(getattr(record.cold_start, name, None), "median", None)


def _percentile(q: float) -> Callable[[Record], Value]:
    return lambda record: words.percentile(record, q)


def _versions(record: Record) -> str:
    runtimes = record.environment.get("runtimes", {})
    return " ".join(f"{name}=={version}" for name, version in sorted(runtimes.items()))


def _error(record: Record) -> Value:
    known = [o.max_rel_scale for o in record.parity.outputs if o.max_rel_scale is not None] if record.parity else []
    return max(known, default=None)


def _interval(end: int) -> Callable[[Record], Value]:
    return lambda record: record.latency.p50_ci_ns[end] if record.latency and record.latency.p50_ci_ns else None


def _observed(name: str, end: int | None = None) -> Callable[[Record], Value]:
    def found(record: Record) -> Value:
        value: Any = getattr(record.evidence.observed, name, None)
        seen: Value = value if end is None or value is None else value[end]
        return seen

    return found


COLUMNS: dict[str, Callable[[Record], Value]] = {
    "id": lambda r: r.id,
    "cell": lambda r: r.cell,
    "run": lambda r: r.run,
    "started_at": lambda r: r.started_at,
    "machine": lambda r: r.machine,
    "device": lambda r: r.case.device,
    "emulated": lambda r: r.evidence.emulated,
    "model": lambda r: r.case.model.name,
    "model_sha256": lambda r: r.case.model.sha256,
    "shapes": lambda r: json.dumps(r.case.model.shapes, separators=(",", ":")),
    "backend": lambda r: r.case.backend,
    "backend_options": lambda r: json.dumps(r.case.options.extra, separators=(",", ":"), sort_keys=True),
    "versions": _versions,
    "threads": _option("threads"),
    "precision": _option("precision"),
    "batch": _option("batch"),
    "cpus": lambda r: " ".join(map(str, r.case.options.cpus)),
    "scenario": _option("scenario"),
    "streams_asked": _option("streams"),
    "rate_asked": _option("rate"),
    "latency_bound_ns": _option("latency_bound_ns"),
    "status": lambda r: r.status,
    "why": lambda r: r.why,
    "published": shown.published,
    "scope": _of("latency", "scope"),
    "clock": _of("latency", "clock"),
    "samples": _of("latency", "n"),
    "trials": lambda r: r.evidence.trials,
    "trials_noisy": lambda r: r.evidence.trials_noisy,
    "p50_ns": _of("latency", "p50_ns"),
    "p50_lo_ns": _interval(0),
    "p50_hi_ns": _interval(1),
    "p90_ns": _percentile(0.9),
    "p99_ns": _percentile(0.99),
    "p999_ns": _percentile(0.999),
    "per_s": _of("throughput", "per_s"),
    "streams": _of("throughput", "streams"),
    "server_rate": _of("server", "rate"),
    "overloaded": _of("server", "overloaded"),
    "parity_passed": _of("parity", "passed"),
    "grade": _of("parity", "grade"),
    "error_of_scale": _error,
    "independent": _of("parity", "independent"),
    "prepare_s": _of("prepare", "seconds"),
    "artefact_bytes": _of("prepare", "artefact_bytes"),
    "start_s": _cold("start_s"),
    "import_s": _cold("import_s"),
    "load_s": _cold("load_s"),
    "first_run_s": _cold("first_run_s"),
    "peak_rss_bytes": _of("memory", "peak_rss_bytes"),
    "peak_gpu_bytes": _of("memory", "peak_gpu_bytes"),
    "flop_per_s": _of("work", "flop_per_s"),
    "share_of_peak": _of("work", "share_of_peak"),
    "energy_per_inference_j": lambda r: r.evidence.energy_per_inference_j,
    "foreign_cpu": lambda r: r.evidence.foreign_cpu,
    "core_slowed": lambda r: r.evidence.core_slowed,
    "core_ns": lambda r: r.evidence.core_ns,
    "frequency_mhz_min": _observed("frequency_mhz", 0),
    "frequency_mhz_max": _observed("frequency_mhz", 1),
    "temperature_c": _observed("temperature_c"),
}
# Empty unless the case is published: in a sheet nobody looks at the status before taking a mean.
MEASURED = frozenset(
    {"p50_ns", "p50_lo_ns", "p50_hi_ns", "p90_ns", "p99_ns", "p999_ns", "per_s", "streams", "server_rate", "flop_per_s"}
    | {"share_of_peak", "energy_per_inference_j"}
)


def rows(records: Iterable[Record]) -> Iterator[str]:
    """The head, then a line per record, as RFC 4180 has them. What was timed stands only where it is published."""
    yield _line(list(COLUMNS))
    for record in records:
        hidden = frozenset[str]() if shown.published(record) else MEASURED
        yield _line([_text(None if name in hidden else value(record)) for name, value in COLUMNS.items()])


def _line(values: list[str]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow(values)
    return buffer.getvalue()


def _text(value: Value) -> str:
    """Empty for what is not known. A text that spreadsheets would run as a formula is disarmed by an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f"'{value}" if value[:1] in "=+-@\t\r" and value else value
    return repr(value)
