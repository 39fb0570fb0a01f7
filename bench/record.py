"""What a run writes down: lines of a journal, and the record that they fold into.

A run's file holds one JSON object per line: a `case` line when a case is begun, a `trial` line the moment a trial ends,
an `end` line when no more will come. `bench.fold` makes the record.
Field by field: results/README.md. Schema history: 1, the first.
"""

from __future__ import annotations

import base64
import zlib
from typing import Any, Literal

import msgspec
import numpy as np

from bench.errors import RecordError

SCHEMA = 1
Status = Literal[
    "ok", "wrong", "unsupported", "unavailable", "failed", "crashed", "timeout", "noisy", "implausible", "skipped"
]
FAILING: frozenset[str] = frozenset({"wrong", "failed", "crashed", "timeout", "implausible"})
# Above this share of all cores used by others, a two-thread median was seen to inflate two- to fifty-fold.
# Source: measured on a 2-core x86-64 virtual machine, 2026-11; quiet runs stay below 0.01.
MAX_FOREIGN_CPU = 0.03


class _Value(msgspec.Struct, frozen=True, kw_only=True):
    """Frozen values. Absent facts are null."""


class ModelFacts(_Value, frozen=True):
    name: str
    sha256: str
    opset: int
    precision: str
    shapes: dict[str, list[int]]


class OptionFacts(_Value, frozen=True):
    threads: int
    precision: str
    cpus: list[int]
    batch: int | None
    scenario: str
    extra: dict[str, str | int | float | bool | None]
    streams: int | None = None
    samples_per_query: int | None = None
    rate: float | None = None
    latency_bound_ns: int | None = None


class CaseFacts(_Value, frozen=True):
    model: ModelFacts
    backend: str
    device: str
    options: OptionFacts


class ToleranceFacts(_Value, frozen=True):
    name: str
    rtol: float
    atol_of_scale: float
    reason: str
    relaxed: bool


class PrepareFacts(_Value, frozen=True):
    seconds: float
    cache: Literal["hit", "miss", "none"]
    artefact_bytes: int
    artefact_sha256: str
    converter: dict[str, str]


class ReferenceFacts(_Value, frozen=True):
    producer: str
    version: str
    settings: str
    sha256: str
    moved: float | None


class ErrorFacts(_Value, frozen=True):
    phase: str
    kind: str
    error: str
    message: str
    hint: str = ""
    signal: str | None = None
    log_tail: str = ""


class ColdFacts(_Value, frozen=True):
    start_s: float
    import_s: float
    load_s: float | None = None
    first_run_s: float | None = None


class Series(_Value, frozen=True):
    scope: str
    clock: str
    samples_ns: list[int]


class OutputFacts(_Value, frozen=True):
    name: str
    passed: bool
    problem: str
    max_abs: float | None
    max_rel_scale: float | None
    rms: float | None
    cosine: float | None
    exceed: float | None
    share_out: float | None
    worst: list[int] | None
    worst_got: float | None
    worst_expected: float | None
    nan: int
    shape_ok: bool


class JudgedFacts(_Value, frozen=True):
    """The worst parity of a trial, and where it was seen."""

    passed: bool
    grade: str
    at: Literal["first_run", "verify"]
    feed: int
    problem: str
    outputs: list[OutputFacts]


class LoadFacts(_Value, frozen=True):
    wall_s: float
    foreign_cpu: float | None
    steal: float | None
    involuntary_switches: int
    major_faults: int
    reason: str = ""


class ObservedFacts(_Value, frozen=True):
    """What was seen of the machine from outside the process; absent figures have their reason in `not_available`."""

    seconds: float
    frequency_mhz: tuple[int, int] | None
    governor: str | None
    turbo: bool | None
    temperature_c: float | None
    temperature_of: str
    throttled: bool | None
    throttle: str
    energy_j: float | None
    timeline: list[tuple[float, int | None, float | None]]
    not_available: dict[str, str]


class WaitedFacts(_Value, frozen=True):
    """How waiting for a quiet and cool machine ended; `quiet` is false where the limit came first."""

    waited_s: float
    quiet: bool | None
    foreign_cpu: float | None
    temperature_c: float | None
    reason: str = ""


class MemoryFacts(_Value, frozen=True):
    loaded_rss_bytes: int | None
    peak_rss_bytes: int | None
    peak_gpu_bytes: int | None = None


class SweepFacts(_Value, frozen=True):
    streams: int
    per_s: float


class StreamsFacts(_Value, frozen=True):
    """What parallel streams of one trial did in its window."""

    streams: int
    inferences: int
    seconds: float
    sweep: list[SweepFacts] = []


class ProbeFacts(_Value, frozen=True):
    """A rate that was tried."""

    rate: float
    queries: int
    p99_ns: int | None
    held: bool


class ServerFacts(_Value, frozen=True):
    """How a server did at a rate; null where no rate held the bound. The last two are of records alone."""

    rate: float | None
    scheduled: int
    overloaded: bool
    late_ns: int | None
    seed: int
    probes: list[ProbeFacts] = []
    trial_rates: list[float | None] = []
    stopped_by: str = ""


class ThroughputFacts(_Value, frozen=True):
    """Of the trial in the middle."""

    per_s: float
    batch: int
    streams: int
    seconds: float
    inferences: int
    sweep: list[SweepFacts]
    trial_per_s: list[float]


class PlacementFacts(_Value, frozen=True):
    device: str
    precision: str
    nodes: dict[str, int] | None
    affinity: list[int]


class CountFacts(_Value, frozen=True):
    """What one inference computes, counted from the model's shapes; `least_macs` by the fastest known algorithms."""

    macs: int
    least_macs: int
    bytes: int
    parameters: int
    uncounted: list[str]


class PeakFacts(_Value, frozen=True):
    """What the machine was measured to do at most, in fp32 and with so many threads, and what bounds it."""

    threads: int
    flop_per_s: float | None
    copy_bytes_per_s: float | None
    arch: str
    clock_hz: float | None
    features: list[str]
    numpy: str
    foreign_cpu: float | None
    reason: str = ""


class CaseLine(_Value, frozen=True, tag="case"):
    schema: int
    id: str
    run: str
    cell: str
    machine: str
    started_at: str
    case: CaseFacts
    source: str
    trials_wanted: int
    max_foreign_cpu: float
    tolerance: ToleranceFacts
    target: float | None = None
    trials_max: int | None = None
    prepare: PrepareFacts | None = None
    reference: ReferenceFacts | None = None
    counts: CountFacts | None = None
    peaks: PeakFacts | None = None
    work_reason: str = ""
    notes: list[str] = []


class TrialLine(_Value, frozen=True, tag="trial"):
    schema: int
    id: str
    index: int
    started_at: str
    environment: dict[str, Any]
    runtimes: dict[str, str]
    error: ErrorFacts | None = None
    cold: ColdFacts | None = None
    warmup_count: int = 0
    warmup_ended_by: str = ""
    stopped_by: str = ""
    bracket_ns: int | None = None
    fits: bool | None = None
    series: list[Series] = []
    throughput: StreamsFacts | None = None
    server: ServerFacts | None = None
    parity: JudgedFacts | None = None
    load: LoadFacts | None = None
    waited: WaitedFacts | None = None
    observed: ObservedFacts | None = None
    memory: MemoryFacts | None = None
    placement: PlacementFacts | None = None


class EndLine(_Value, frozen=True, tag="end"):
    schema: int
    id: str
    stopped_by: str
    error: ErrorFacts | None = None


Line = CaseLine | TrialLine | EndLine


class PercentileFacts(_Value, frozen=True):
    q: float
    ns: int | None
    needs: int
    lo: int | None = None
    hi: int | None = None


class LatencyFacts(_Value, frozen=True):
    scope: str
    clock: str
    n: int
    p50_ns: int
    p50_ci_ns: tuple[int, int] | None
    p50_ci_reason: str
    trial_p50_ns: list[int]
    percentiles: list[PercentileFacts]
    stopped_by: str
    samples_ns: list[int]
    p50_ci_relative: float | None = None
    within_process_ci_ns: tuple[int, int] | None = None
    autocorrelation: float | None = None
    effective_n: int | None = None
    drift_within_trial: float | None = None
    drift_over_trials: float | None = None


class ParityFacts(_Value, frozen=True):
    passed: bool
    grade: str
    independent: bool
    at: str
    feed: int
    problem: str
    reference: ReferenceFacts
    tolerance: ToleranceFacts
    outputs: list[OutputFacts]


class EvidenceFacts(_Value, frozen=True):
    foreign_cpu: float | None
    max_foreign_cpu: float
    steal: float | None
    load_reason: str
    involuntary_switches: int
    major_faults: int
    placement: PlacementFacts | None
    trials: int
    trials_wanted: int
    trials_noisy: int
    complete: bool
    target: float | None = None
    stopped_by: str = ""
    observed: ObservedFacts | None = None
    energy_per_inference_j: float | None = None
    energy_reason: str = ""
    waited_s: float = 0.0


class WorkFacts(_Value, frozen=True):
    """How much was computed how fast, and the least time that it can take; absent figures have their `reason`."""

    flop: int
    flop_per_s: float | None
    share_of_peak: float | None
    bytes: int
    share_of_copy: float | None
    parameters: int
    uncounted: list[str]
    least_flop: int
    least_ns: int | None
    most_flop_per_s: float | None
    peaks: PeakFacts | None
    reason: str = ""


class Record(_Value, frozen=True):
    """One case of one run: everything that is known of it. `latency` is null unless samples were taken."""

    schema: int
    id: str
    cell: str
    run: str
    machine: str
    started_at: str
    status: Status
    why: str
    case: CaseFacts
    prepare: PrepareFacts | None
    cold: ColdFacts | None
    latency: LatencyFacts | None
    latencies: list[LatencyFacts]
    throughput: ThroughputFacts | None
    memory: MemoryFacts | None
    parity: ParityFacts | None
    evidence: EvidenceFacts
    environment: dict[str, Any]
    error: ErrorFacts | None
    notes: list[str]
    work: WorkFacts | None = None
    server: ServerFacts | None = None

    def to_json(self) -> bytes:
        """One line of JSON; `from_json` is its inverse."""
        return _encode(msgspec.to_builtins(self))

    @staticmethod
    def from_json(data: bytes) -> Record:
        """A record from its JSON.

        Raises:
            RecordError: it is not a record of this schema.
        """
        _check_schema(_decode(data, dict, "a record"), "a record")
        return _decode(data, Record, "a record")  # type: ignore[no-any-return]


def encode_line(line: Line) -> bytes:
    """A journal line without its newline. Samples are stored as int64 deltas, deflated, in base64."""
    data = msgspec.to_builtins(line)
    for series in data.get("series", ()):
        samples = np.array(series.pop("samples_ns"), dtype="<i8")
        deltas = np.diff(samples, prepend=np.int64(0))
        series["n"] = int(samples.size)
        series["delta_zlib_base64"] = base64.b64encode(zlib.compress(deltas.tobytes(), 6)).decode()
    return _encode(data)


def _encode(data: Any) -> bytes:
    """JSON. Bytes that are no text (a file's name, a log) became lone surrogates on the way in; JSON has none."""
    try:
        return msgspec.json.encode(data)
    except UnicodeEncodeError:
        return msgspec.json.encode(_as_text(data))


def _as_text(data: Any) -> Any:
    if isinstance(data, str):
        return data.encode("utf-8", "replace").decode()
    if isinstance(data, dict):
        return {_as_text(key): _as_text(value) for key, value in data.items()}
    return [_as_text(value) for value in data] if isinstance(data, (list, tuple)) else data


def decode_line(text: bytes) -> Line:
    """The inverse of `encode_line`.

    Raises:
        RecordError: not a line of this schema; the message says what is wrong with it.
    """
    data = _decode(text, dict, "a journal line")
    _check_schema(data, "a journal line")
    try:
        for series in data.get("series", ()):
            series["samples_ns"] = _samples(series.pop("delta_zlib_base64"), series.pop("n"))
    except (KeyError, TypeError, AttributeError, ValueError, zlib.error) as error:
        raise RecordError(f"a journal line's samples cannot be read: {error!r}") from error
    try:
        return msgspec.convert(data, Line)  # type: ignore[no-any-return]
    except msgspec.ValidationError as error:
        raise RecordError(f"a journal line cannot be read: {error}") from error


def _samples(text: str, count: int) -> list[int]:
    deltas = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype="<i8")
    if deltas.size != count:
        raise ValueError(f"{deltas.size} samples, {count} expected")
    return np.cumsum(deltas).tolist()  # type: ignore[no-any-return]


def _check_schema(data: dict[str, Any], what: str) -> None:
    schema = data.get("schema")
    if isinstance(schema, bool) or schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        hint = "use a newer deploybench" if newer else "it was not written by deploybench"
        raise RecordError(f"{what} has the schema {schema!r}, this version reads {SCHEMA}", hint)


def _decode(data: bytes, kind: Any, what: str) -> Any:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{what} cannot be read: {error}") from error
