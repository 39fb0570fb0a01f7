"""What the lines of a case fold into: statuses, figures over its trials, and the record."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from bench.record.case import CaseFacts, PeakFacts, PlanFacts, PrepareFacts, ReferenceFacts, TaskFacts, ToleranceFacts
from bench.record.codec import check_schema, decode, encode
from bench.record.trial import (
    ColdFacts,
    ErrorFacts,
    MemoryFacts,
    ObservedFacts,
    OutputFacts,
    PlacementFacts,
    ServerFacts,
    SweepFacts,
)
from bench.record.value import Value

Status = Literal[
    "ok", "wrong", "unsupported", "unavailable", "failed", "crashed", "timeout", "noisy", "implausible", "skipped"
]
FAILING: frozenset[str] = frozenset({"wrong", "failed", "crashed", "timeout", "implausible"})
# Above this share of all cores used by others, a two-thread median was seen to inflate two- to fifty-fold.
# Source: measured on a 2-core x86-64 virtual machine, 2026-11; quiet runs stay below 0.01.
MAX_FOREIGN_CPU = 0.03


class SpreadFacts(Value, frozen=True):
    """The median of several, and the lowest and the highest."""

    median: float
    low: float
    high: float
    n: int


class ColdStartFacts(Value, frozen=True):
    """What it took to the first answer, over all trials that came so far."""

    start_s: SpreadFacts | None
    import_s: SpreadFacts | None
    load_s: SpreadFacts | None
    first_run_s: SpreadFacts | None


class NewShapesFacts(Value, frozen=True):
    """What a new input shape costs; `extra_s` is the first inference less the second. `reason`: why there is none."""

    shapes: list[dict[str, list[int]]]
    first_s: SpreadFacts | None
    second_s: SpreadFacts | None
    extra_s: SpreadFacts | None
    reason: str = ""


class ThroughputFacts(Value, frozen=True):
    """Of the trial in the middle."""

    per_s: float
    batch: int
    streams: int
    seconds: float
    inferences: int
    sweep: list[SweepFacts]
    trial_per_s: list[float]


class PercentileFacts(Value, frozen=True):
    q: float
    ns: int | None
    needs: int
    lo: int | None = None
    hi: int | None = None


class TailFacts(Value, frozen=True):
    """So many inferences took longer than so many times the median."""

    times: int
    n: int


class SpanFacts(Value, frozen=True):
    """One slice of a soak, as tables and pictures show it. Absent figures are null."""

    at_s: float
    seconds: float
    n: int
    per_s: float
    p50_ns: int | None
    p99_ns: int | None
    max_ns: int
    foreign_cpu: float | None
    frequency_mhz: int | None
    temperature_c: float | None
    throttle: str
    rss_bytes: int | None
    core_slowed: float | None = None


class SoakFacts(Value, frozen=True):
    """How a case did under load for a long time: as a whole, at its begin, at its end, and slice by slice."""

    asked_s: float
    scope: str
    clock: str
    measured_s: float
    n: int
    per_s: float
    p50_ns: int | None
    percentiles: list[PercentileFacts]
    max_ns: int
    tail: list[TailFacts]
    begin_p50_ns: int | None
    end_p50_ns: int | None
    compared_s: float
    sustained: float | None
    sustained_reason: str
    throttled_s: list[float]
    spans: list[SpanFacts]


class LatencyFacts(Value, frozen=True):
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


class ParityFacts(Value, frozen=True):
    passed: bool
    grade: str
    independent: bool
    at: str
    feed: int
    problem: str
    reference: ReferenceFacts
    tolerance: ToleranceFacts
    outputs: list[OutputFacts]
    reached: str = ""
    required: tuple[float, float] | None = None


class EvidenceFacts(Value, frozen=True):
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
    emulated: str = ""
    trials_max: int | None = None
    plan: PlanFacts | None = None
    trials_over_s: float | None = None
    core_slowed: float | None = None
    core_ns: int | None = None


class WorkFacts(Value, frozen=True):
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


class Record(Value, frozen=True):
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
    cold_start: ColdStartFacts | None = None
    new_shapes: NewShapesFacts | None = None
    soak: SoakFacts | None = None
    task: TaskFacts | None = None

    def to_json(self) -> bytes:
        """One line of JSON; `from_json` is its inverse."""
        return encode(msgspec.to_builtins(self))

    @staticmethod
    def from_json(data: bytes) -> Record:
        """A record from its JSON.

        Raises:
            RecordError: it is not a record of this schema.
        """
        check_schema(decode(data, dict, "a record"), "a record")
        return decode(data, Record, "a record")  # type: ignore[no-any-return]
