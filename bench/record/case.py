"""Facts of a case, known before its first trial, and its line."""

from __future__ import annotations

from typing import Literal

from bench.record.value import Value


class ModelFacts(Value, frozen=True):
    name: str
    sha256: str
    opset: int
    precision: str
    shapes: dict[str, list[int]]


class OptionFacts(Value, frozen=True):
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
    soak_s: float | None = None


class CaseFacts(Value, frozen=True):
    model: ModelFacts
    backend: str
    device: str
    options: OptionFacts


class ToleranceFacts(Value, frozen=True):
    name: str
    rtol: float
    atol_of_scale: float
    reason: str
    relaxed: bool


class PrepareFacts(Value, frozen=True):
    seconds: float
    cache: Literal["hit", "miss", "none"]
    artefact_bytes: int
    artefact_sha256: str
    converter: dict[str, str]


class NoiseFacts(Value, frozen=True):
    """What float32 costs the model, for one output. Shares of its scale; absent where that could not be measured."""

    name: str
    snr_db: float
    max_rel_scale: float
    optimised: float | None = None
    nudged: float | None = None
    own: float | None = None
    float64: float | None = None


class TaskFacts(Value, frozen=True):
    """A task metric of the backend and of the reference on the same labelled inputs; absent values have a `reason`."""

    metric: str
    samples: int
    value: float | None
    reference: float | None
    reason: str = ""


class ReferenceFacts(Value, frozen=True):
    producer: str
    version: str
    settings: str
    sha256: str
    moved: float | None
    precision: str = ""
    seed: int | None = None
    noise: list[NoiseFacts] = []
    noise_reason: str = ""
    constant: bool = False


class CountFacts(Value, frozen=True):
    """What one inference computes, counted from the model's shapes; `least_macs` by the fastest known algorithms."""

    macs: int
    least_macs: int
    bytes: int
    parameters: int
    uncounted: list[str]


class PeakFacts(Value, frozen=True):
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
    core_ns: int | None = None
    virtual: bool = False


class PlanFacts(Value, frozen=True):
    """How long and how often a trial measures, and over how long the trials are spread."""

    min_count: int
    min_s: float
    max_s: float
    spread_s: float | None = None


class CaseLine(Value, frozen=True, tag="case"):
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
    looks: list[int] | None = None
    plan: PlanFacts | None = None
    replaces: str | None = None
    prepare: PrepareFacts | None = None
    reference: ReferenceFacts | None = None
    counts: CountFacts | None = None
    peaks: PeakFacts | None = None
    work_reason: str = ""
    task: TaskFacts | None = None
    notes: list[str] = []
