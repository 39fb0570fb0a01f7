"""Facts of a trial, of a stretch of a soak, and of a case's end, and their lines."""

from __future__ import annotations

from typing import Any, Literal

from bench.record.value import Value


class ErrorFacts(Value, frozen=True):
    phase: str
    kind: str
    error: str
    message: str
    hint: str = ""
    signal: str | None = None
    log_tail: str = ""


class ColdFacts(Value, frozen=True):
    start_s: float
    import_s: float
    load_s: float | None = None
    first_run_s: float | None = None


class Series(Value, frozen=True):
    scope: str
    clock: str
    samples_ns: list[int]


class OutputFacts(Value, frozen=True):
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
    snr_db: float | None = None
    top1: float | None = None
    top5: float | None = None


class JudgedFacts(Value, frozen=True):
    """The worst parity of a trial, and where it was seen."""

    passed: bool
    grade: str
    at: Literal["first_run", "verify"]
    feed: int
    problem: str
    outputs: list[OutputFacts]


class LoadFacts(Value, frozen=True):
    wall_s: float
    foreign_cpu: float | None
    steal: float | None
    involuntary_switches: int
    major_faults: int
    reason: str = ""


class CoreFacts(Value, frozen=True):
    """How long a fixed piece of arithmetic took before, in and after the timed loop (bench/evidence/yardstick.py)."""

    readings_ns: list[int]
    waited_s: float = 0.0
    void_s: float = 0.0


class ClusterFacts(Value, frozen=True):
    """The CPUs of one kind, used or not: their lowest and highest clock, and who set it."""

    cpus: list[int]
    core: str
    frequency_mhz: tuple[int, int] | None
    governor: str | None


class GpuFacts(Value, frozen=True):
    """An NVIDIA GPU during a measurement; absent figures have their reason in `not_available`."""

    name: str
    capability: str
    driver: str
    sm_mhz: tuple[int, int] | None
    sm_mhz_most: int | None
    memory_mhz: tuple[int, int] | None
    power_w: tuple[float, float] | None
    power_limit_w: float | None
    energy_j: float | None
    temperature_c: float | None
    throttled: bool | None
    throttle: str
    limited_by: str
    peak_process_bytes: int | None
    foreign: int | None
    ecc: bool | None
    ecc_errors: int | None
    mig: bool | None
    timeline: list[tuple[float, int | None, float | None, float | None]]
    not_available: dict[str, str]


class ObservedFacts(Value, frozen=True):
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
    clusters: list[ClusterFacts] = []
    gpu: GpuFacts | None = None


class WaitedFacts(Value, frozen=True):
    """How waiting for a quiet and cool machine ended; `quiet` is false where the limit came first."""

    waited_s: float
    quiet: bool | None
    foreign_cpu: float | None
    temperature_c: float | None
    reason: str = ""


class MemoryFacts(Value, frozen=True):
    loaded_rss_bytes: int | None
    peak_rss_bytes: int | None
    peak_gpu_bytes: int | None = None
    trial_peak_rss_bytes: list[int] = []


class SweepFacts(Value, frozen=True):
    streams: int
    per_s: float


class StreamsFacts(Value, frozen=True):
    """What parallel streams of one trial did in its window."""

    streams: int
    inferences: int
    seconds: float
    sweep: list[SweepFacts] = []


class ProbeFacts(Value, frozen=True):
    """A rate that was tried."""

    rate: float
    queries: int
    p99_ns: int | None
    held: bool


class ServerFacts(Value, frozen=True):
    """How a server did at a rate; null where no rate held the bound. The last two are of records alone."""

    rate: float | None
    scheduled: int
    overloaded: bool
    late_ns: int | None
    seed: int
    probes: list[ProbeFacts] = []
    trial_rates: list[float | None] = []
    stopped_by: str = ""


class PlacementFacts(Value, frozen=True):
    device: str
    precision: str
    nodes: dict[str, int] | None
    affinity: list[int]
    elsewhere: list[str] = []
    facts: dict[str, str] = {}
    emulated: str = ""


class TrialLine(Value, frozen=True, tag="trial"):
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
    core: CoreFacts | None = None
    waited: WaitedFacts | None = None
    observed: ObservedFacts | None = None
    memory: MemoryFacts | None = None
    placement: PlacementFacts | None = None


class BinsFacts(Value, frozen=True):
    """How often durations were seen: `counts` of the bins numbered `keys` (bench/measure/soak.py)."""

    keys: list[int]
    counts: list[int]


class SliceLine(Value, frozen=True, tag="slice"):
    """A stretch of a soak, written the moment it ends."""

    schema: int
    id: str
    index: int
    number: int
    began_at: str
    at_s: float
    seconds: float
    scope: str
    clock: str
    max_ns: int
    bins: BinsFacts
    fits: bool
    load: LoadFacts
    observed: ObservedFacts | None = None
    rss_bytes: int | None = None
    core_ns: int | None = None


class ShapesTried(Value, frozen=True):
    """Input shapes that a session had not seen, and how long the first and the second inference of each took."""

    shapes: list[dict[str, list[int]]]
    first_s: list[float]
    second_s: list[float]
    reason: str = ""


class EndLine(Value, frozen=True, tag="end"):
    schema: int
    id: str
    stopped_by: str
    error: ErrorFacts | None = None
    new_shapes: ShapesTried | None = None
    core_ns: int | None = None
