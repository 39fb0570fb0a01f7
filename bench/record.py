"""What a run writes down: lines of a journal, and the record that they fold into.

A run's file holds one JSON object per line: a `case` line when a case is begun, a `trial` line the moment a trial ends,
an `end` line when no more will come. `fold` makes the record; it is pure, so verdicts can be redone years later.
Field by field: results/README.md. Schema history: 1, the first.
"""

from __future__ import annotations

import base64
import math
import re
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import numpy as np

from bench.errors import RecordError
from bench.measure import stats

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


class MemoryFacts(_Value, frozen=True):
    loaded_rss_bytes: int | None
    peak_rss_bytes: int | None
    peak_gpu_bytes: int | None = None


class PlacementFacts(_Value, frozen=True):
    device: str
    precision: str
    nodes: dict[str, int] | None
    affinity: list[int]


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
    prepare: PrepareFacts | None = None
    reference: ReferenceFacts | None = None
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
    stopped_by: str = ""
    bracket_ns: int | None = None
    fits: bool | None = None
    series: list[Series] = []
    parity: JudgedFacts | None = None
    load: LoadFacts | None = None
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
    throughput: None
    memory: MemoryFacts | None
    parity: ParityFacts | None
    evidence: EvidenceFacts
    environment: dict[str, Any]
    error: ErrorFacts | None
    notes: list[str]

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


def fold(case: CaseLine, trials: Sequence[TrialLine], end: EndLine | None) -> Record:
    """The record of a case from its lines: the verdict and every figure.

    Trials count in the order of their index, in whatever order their lines come. Without an `end` line the run was
    interrupted: what was measured until then stands. Latency is of the quiet trials alone, where there is one.
    The status is the first of these that holds:

    1. `wrong`: an answer failed parity. A later crash does not make it right, so this outweighs everything.
    2. `unavailable`, `unsupported`, `crashed`, `timeout`, `failed`: an error ended the case; `error` says where.
    3. `skipped`: no trial was begun. `failed`: one took no samples, or there was no reference to judge it by.
    4. `implausible`: samples that do not fit into the time that passed, or that nobody held against a clock.
    5. `noisy`: fewer than half of the trials were quiet.
    6. `ok`: every trial that ran was right, and its samples can be believed. Only this is published.
    """
    trials = sorted(trials, key=lambda t: t.index)
    quiet = [t for t in trials if not noisy(t, case.max_foreign_cpu)]
    used = quiet or trials
    error = (end.error if end else None) or next((t.error for t in trials if t.error), None)
    status, why = _status(case, trials, quiet, end, error)
    latencies = _latencies(used)
    judged = _worst_parity(trials)
    known = next((t for t in reversed(trials) if t.environment), None)
    runtimes = known.runtimes if known else {}
    return Record(
        schema=SCHEMA,
        id=case.id,
        cell=case.cell,
        run=case.run,
        machine=case.machine,
        started_at=case.started_at,
        status=status,
        why=why,
        case=case.case,
        prepare=case.prepare,
        cold=next((t.cold for t in trials if t.cold and t.cold.load_s is not None), trials[0].cold if trials else None),
        latency=latencies[0] if latencies else None,
        latencies=latencies,
        throughput=None,
        memory=_memory(trials),
        parity=_parity(case, judged, runtimes) if judged else None,
        evidence=_evidence(case, trials, used, quiet, end),
        environment={**(known.environment if known else {}), "runtimes": runtimes},
        error=error,
        notes=case.notes,
    )


def noisy(trial: TrialLine, max_foreign_cpu: float) -> bool:
    """Whether others used more of the machine during the timed loop than was allowed, or it cannot be told."""
    if not trial.load or max_foreign_cpu >= 1:
        return False
    return trial.load.foreign_cpu is None or trial.load.foreign_cpu > max_foreign_cpu


_OF_ERROR: dict[str, Status] = {
    "BackendUnavailable": "unavailable",
    "UnsupportedModel": "unsupported",
    "Crashed": "crashed",
    "Timeout": "timeout",
}


def _status(
    case: CaseLine,
    trials: Sequence[TrialLine],
    quiet: Sequence[TrialLine],
    end: EndLine | None,
    error: ErrorFacts | None,
) -> tuple[Status, str]:
    """The verdict, in the order that `fold` states, and, unless it is `ok`, the reason in words."""
    wrong = next((t.parity for t in trials if t.parity and not t.parity.passed), None)
    if wrong:
        return "wrong", wrong.problem
    if error:
        return _OF_ERROR.get(error.error, "failed"), f"{error.phase}: {error.message}"
    if not trials:
        return "skipped", end.stopped_by if end else "interrupted before the first trial ended"
    if not all(_samples_of(t) for t in trials):
        return "failed", "measure: a trial took no samples"
    if case.reference is None or any(t.parity is None for t in trials):
        return "failed", "parity: there is no reference to judge by"
    if any(t.fits is False for t in trials):
        return "implausible", "the samples add up to more time than passed, or are not positive"
    if any(t.fits is None for t in trials):
        return "implausible", "nobody checked whether the samples fit into the time that passed"
    if 2 * len(quiet) < len(trials):
        return "noisy", _noise(trials)
    return "ok", ""


def _samples_of(trial: TrialLine) -> bool:
    return bool(trial.series) and all(series.samples_ns for series in trial.series)


def _noise(trials: Sequence[TrialLine]) -> str:
    shares = [t.load.foreign_cpu for t in trials if t.load and t.load.foreign_cpu is not None]
    if not shares:
        return next((t.load.reason for t in trials if t.load), "") or "the load cannot be told"
    return f"others used up to {max(shares):.0%} of the CPU during the timed loop"


def _latencies(trials: Sequence[TrialLine]) -> list[LatencyFacts]:
    """Every scope and clock over the trials that have it, the headline (each trial's first) first."""
    scopes: dict[tuple[str, str], list[list[int]]] = {}
    trials = [t for t in trials if _samples_of(t)]
    for trial in trials:
        for series in trial.series:
            scopes.setdefault((series.scope, series.clock), []).append(series.samples_ns)
    return [_latency(scope, clock, lists, trials) for (scope, clock), lists in scopes.items()]


def _latency(scope: str, clock: str, lists: list[list[int]], trials: Sequence[TrialLine]) -> LatencyFacts:
    summary = stats.summarise(lists)
    return LatencyFacts(
        scope=scope,
        clock=clock,
        n=summary.n,
        p50_ns=summary.p50_ns,
        p50_ci_ns=summary.p50_ci_ns,
        p50_ci_reason=summary.p50_ci_reason,
        trial_p50_ns=list(summary.trial_p50_ns),
        percentiles=[PercentileFacts(q=p.q, ns=p.ns, needs=p.needs) for p in summary.percentiles],
        stopped_by=", ".join(sorted({t.stopped_by for t in trials})),
        samples_ns=[s for samples in lists for s in samples],
    )


def _worst_parity(trials: Iterable[TrialLine]) -> JudgedFacts | None:
    judged = [t.parity for t in trials if t.parity]
    return max(judged, key=worst_first, default=None)


def worst_first(judged: JudgedFacts) -> tuple[bool, float]:
    """The order in which parity results stand for a case: failures, then by how much of the tolerance they used."""
    exceed = [math.inf if o.exceed is None else o.exceed for o in judged.outputs]
    return (not judged.passed, max(exceed, default=math.inf))


def _parity(case: CaseLine, judged: JudgedFacts, runtimes: dict[str, str]) -> ParityFacts | None:
    if case.reference is None:
        return None
    producers = {_family(name) for name in case.reference.producer.split(" and ")}
    independent = not producers & {_family(name) for name in runtimes}
    return ParityFacts(
        passed=judged.passed,
        grade=judged.grade,
        independent=independent,
        at=judged.at,
        feed=judged.feed,
        problem=judged.problem,
        reference=case.reference,
        tolerance=case.tolerance,
        outputs=judged.outputs,
    )


def _family(distribution: str) -> str:
    """One runtime is packaged under several names; judged by its sibling, it is judged by itself."""
    return re.split(r"[-_]", distribution.lower(), maxsplit=1)[0]


def _memory(trials: Sequence[TrialLine]) -> MemoryFacts | None:
    known = [t.memory for t in trials if t.memory]
    if not known:
        return None
    return MemoryFacts(
        loaded_rss_bytes=max((m.loaded_rss_bytes for m in known if m.loaded_rss_bytes is not None), default=None),
        peak_rss_bytes=max((m.peak_rss_bytes for m in known if m.peak_rss_bytes is not None), default=None),
    )


def _largest(values: list[float | None]) -> float | None:
    """The largest, or None where one of them is not known: that one may have been larger."""
    known = [v for v in values if v is not None]
    return max(known) if known and len(known) == len(values) else None


def _evidence(
    case: CaseLine,
    trials: Sequence[TrialLine],
    used: Sequence[TrialLine],
    quiet: Sequence[TrialLine],
    end: EndLine | None,
) -> EvidenceFacts:
    loads = [t.load for t in used if t.load]
    return EvidenceFacts(
        foreign_cpu=_largest([x.foreign_cpu for x in loads]),
        max_foreign_cpu=case.max_foreign_cpu,
        steal=_largest([x.steal for x in loads]),
        load_reason=next((x.reason for x in loads if x.reason), ""),
        involuntary_switches=sum(x.involuntary_switches for x in loads),
        major_faults=sum(x.major_faults for x in loads),
        placement=next((t.placement for t in used if t.placement), None),
        trials=len(trials),
        trials_wanted=case.trials_wanted,
        trials_noisy=len(trials) - len(quiet),
        complete=end is not None,
    )
