"""One trial: a fresh process loads an artefact, proves its answers, is timed, proves them again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from bench import __version__, record
from bench.cache import Cache
from bench.errors import BackendUnavailable, BenchError
from bench.fold import worst_first
from bench.hosts.base import Host
from bench.interface import Artifact, Options, Outputs, Plan, Probe
from bench.measure.scenarios import Scenario, longest_s
from bench.models import DataSet
from bench.parity.compare import OutputParity, ParityReport, Tolerance, compare
from bench.redact import public
from bench.registry import Registered
from bench.store import now
from bench.worker import bundle, wire
from bench.worker.client import CONNECT_S, Failure, Worker, WorkerError
from bench.worker.protocol import Unpacker, pack

SAY_AFTER_S = 2.0
LEASE_FOLDER = "/tmp"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take, in seconds. `measure` is added to what the plan itself may take."""

    connect: float = CONNECT_S
    lease: float = 3600.0
    start: float = 60.0
    probe: float = 60.0
    prepare: float = 900.0
    load: float = 300.0
    first_run: float = 300.0
    measure: float = 60.0
    close: float = 60.0


@dataclass(frozen=True, slots=True)
class Place:
    """A host with what a worker on it needs."""

    device: str
    host: Host
    cache: Cache
    limits: Limits = field(default_factory=Limits)
    lease_folder: str = LEASE_FOLDER
    say: Callable[[str], None] = lambda message: None
    """Told what takes a while: waiting for the machine, fetching, converting."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Before a trial, wait at most so long for others to use less of the machine, and for it to be no hotter."""

    seconds: float
    max_foreign_cpu: float
    max_temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A worker whose child has imported its runtime."""

    worker: Worker
    probe: Probe
    environment: Mapping[str, Any]
    start_s: float
    import_s: float
    waited: record.WaitedFacts | None = None


def probe(place: Place, backend: Registered) -> Probe:
    """What the backend can do there, asked in a process of its own: importing a runtime may print, crash or hang."""
    try:
        code, key = bundle.make(backend.spec, place.cache)
        with Worker(place.host, str(place.host.put(code, key)), connect_s=place.limits.connect) as worker:
            worker.ask("start", {"backend": backend.spec, "cpus": []}, limit_s=place.limits.start)
            answer, _ = worker.ask("probe", limit_s=place.limits.probe)
    except BenchError as error:
        return Probe(False, reason=error.message, remedy=error.hint)
    return wire.probe(answer["probe"])


@contextmanager
def started(
    place: Place, backend: Registered, cpus: Sequence[int] = (), *, purpose: str, wait: Wait | None = None
) -> Iterator[Started]:
    """A leased worker with a fresh child for this backend, ended on the way out.

    Raises:
        WorkerError: it could not be started, or the runtime is not available there.
    """
    code, key = bundle.make(backend.spec, place.cache)
    limits = place.limits
    with Worker(place.host, str(place.host.put(code, key)), connect_s=place.limits.connect) as worker:
        holder = f"deploybench {purpose} (process {os.getpid()}, since {now()})"
        _lease(worker, place, holder)
        waited = _quiet(worker, place, wait) if wait else None
        begin = time.perf_counter()
        facts, _ = worker.ask("start", {"backend": backend.spec, "cpus": list(cpus)}, limit_s=limits.start)
        start_s = time.perf_counter() - begin
        begin = time.perf_counter()
        answer, _ = worker.ask("probe", limit_s=limits.probe)
        import_s = time.perf_counter() - begin
        probe = wire.probe(answer["probe"])
        if not probe.available:
            failure = Failure(
                "probe", "BackendUnavailable", probe.reason, probe.remedy, error=BackendUnavailable.__name__
            )
            raise WorkerError(failure)
        yield Started(
            worker,
            probe,
            {**answer["environment"], "numpy": facts["numpy"], "deploybench": __version__},
            start_s,
            import_s,
            waited,
        )


def _lease(worker: Worker, place: Place, holder: str) -> None:
    """Have the machine to ourselves; say so when that takes a while."""
    args = {"folder": place.lease_folder, "holder": holder}
    try:
        worker.ask("lease", args, phase="connect", limit_s=min(SAY_AFTER_S, place.limits.lease))
    except WorkerError as error:
        if error.failure.kind != "lease" or place.limits.lease <= SAY_AFTER_S:
            raise
        place.say(f"waiting: {error.message}")
        worker.ask("lease", args, phase="connect", limit_s=place.limits.lease - SAY_AFTER_S)


def _quiet(worker: Worker, place: Place, wait: Wait) -> record.WaitedFacts:
    """Have the machine quiet and cool, if it gets so in time: there, before anything of ours runs."""
    place.say(f"waiting for the machine to be quiet, at most {wait.seconds:g} s")
    args = {
        "wait_s": wait.seconds,
        "max_foreign_cpu": wait.max_foreign_cpu,
        "max_temperature_c": wait.max_temperature_c,
    }
    answer, _ = worker.ask("quiet", args, phase="connect", limit_s=wait.seconds + place.limits.connect)
    return record.WaitedFacts(**answer)


@dataclass(frozen=True, slots=True)
class TrialPlan:
    """What one trial of a case does."""

    case_id: str
    backend: Registered
    artifact: Artifact
    artifact_key: str
    options: Options
    data_sets: Sequence[DataSet]
    tolerance: Tolerance
    plan: Plan
    scenario: Scenario = field(default_factory=Scenario)


class _Trial:
    """Gathers what is learnt, so that a trial that fails half-way still says what it knew."""

    def __init__(self, index: int, plan: TrialPlan) -> None:
        self._plan = plan
        self._facts: dict[str, Any] = {
            "schema": record.SCHEMA,
            "id": plan.case_id,
            "index": index,
            "started_at": now(),
            "environment": {},
            "runtimes": {},
        }
        self._judged: list[record.JudgedFacts] = []
        self._devices: tuple[str, ...] = ()

    def line(self) -> record.TrialLine:
        worst = max(self._judged, key=worst_first, default=None)
        return record.TrialLine(**self._facts, parity=worst)

    def fail(self, error: record.ErrorFacts) -> None:
        self._facts["error"] = error

    def run(self, place: Place, wait: Wait | None) -> None:
        plan = self._plan
        with started(place, plan.backend, plan.options.cpus, purpose=plan.backend.name, wait=wait) as ready:
            self._facts["waited"] = ready.waited
            self._facts |= {"environment": dict(ready.environment), "runtimes": dict(ready.probe.runtimes)}
            self._devices = ready.probe.devices
            cold = record.ColdFacts(start_s=ready.start_s, import_s=ready.import_s)
            self._facts["cold"] = cold
            loaded = self._load(ready.worker, place)
            first_run_s = [self._first_run(ready.worker, place.limits, index) for index in range(len(plan.data_sets))]
            self._facts["cold"] = record.ColdFacts(
                start_s=ready.start_s, import_s=ready.import_s, load_s=loaded["load_s"], first_run_s=first_run_s[0]
            )
            self._measure(ready.worker, place.limits, loaded["loaded_rss_bytes"])
            ready.worker.ask("close", limit_s=place.limits.close)

    def _load(self, worker: Worker, place: Place) -> dict[str, Any]:
        artifact = wire.plain(self._plan.artifact)
        artifact["root"] = str(place.host.put(self._plan.artifact.root, self._plan.artifact_key))
        args = {"artifact": artifact, "options": wire.plain(self._plan.options)}
        return worker.ask("load", args, limit_s=place.limits.load)[0]

    def _first_run(self, worker: Worker, limits: Limits, index: int) -> float:
        data = self._plan.data_sets[index]
        answer, outputs = run_once(worker, data, limits)
        self._judge(outputs, index, "first_run")
        return float(answer["run_s"])

    def _judge(self, outputs: Outputs, index: int, at: str) -> None:
        expected = self._plan.data_sets[index].expected
        if expected is not None:
            self._judged.append(judged(compare(expected, outputs, self._plan.tolerance), at, index))

    def _measure(self, worker: Worker, limits: Limits, loaded_rss_bytes: int | None) -> None:
        plan = self._plan.plan
        args: dict[str, Any] = {"plan": asdict(plan)}
        limit_s = plan.max_s + plan.warmup_max_s + limits.measure
        scenario = self._plan.scenario
        if scenario.name != "single-stream":
            args |= {"scenario": asdict(scenario), "seed": self._facts["index"]}
            cores = int(self._facts["environment"].get("cores") or 1)
            limit_s = longest_s(scenario, plan, cores) + limits.load + limits.measure
        answer, body = worker.ask("measure", args, limit_s=limit_s)
        reader = Unpacker(body)
        series = [
            record.Series(scope=s["scope"], clock=s["clock"], samples_ns=reader.value(s["samples"]).tolist())
            for s in answer["series"]
        ]
        for made in answer.get("streams") or [answer]:  # what every session of the loop answered last
            outputs = {name: reader.value(tree) for name, tree in made["outputs"].items()}
            self._judge(outputs, made["feed_index"], "verify")
        placement = record.PlacementFacts(**answer["placement"], affinity=answer["affinity"])
        memory = record.MemoryFacts(loaded_rss_bytes=loaded_rss_bytes, peak_rss_bytes=answer["peak_rss_bytes"])
        self._facts |= {
            "series": series,
            "throughput": msgspec.convert(answer.get("throughput"), record.StreamsFacts | None),
            "server": msgspec.convert(answer.get("server"), record.ServerFacts | None),
            "warmup_count": answer["warmup_count"],
            "stopped_by": answer["stopped_by"],
            "warmup_ended_by": answer["warmup_ended_by"],
            "bracket_ns": answer["bracket_ns"],
            "fits": answer["fits"],
            "load": record.LoadFacts(**answer["load"]),
            "observed": msgspec.convert(answer.get("observed"), record.ObservedFacts | None),
            "memory": memory,
            "placement": placement,
        }
        self._check_placement(placement)

    def _check_placement(self, placement: record.PlacementFacts) -> None:
        """Nothing falls back silently: what was got is what was asked for, or the case has failed."""
        asked = self._plan.options.precision
        if placement.device not in self._devices:
            message = f"device {' or '.join(self._devices)} was asked for, {placement.device} was used"
        elif asked not in ("model", placement.precision):
            message = f"precision {asked} was asked for, {placement.precision} was used"
        else:
            return
        self.fail(record.ErrorFacts(phase="verify", kind="mismatch", error="BenchError", message=message))


def run_trial(place: Place, plan: TrialPlan, index: int, wait: Wait | None = None) -> record.TrialLine:
    """The line of one trial; a failure of any kind is in it, never raised."""
    trial = _Trial(index, plan)
    try:
        trial.run(place, wait)
    except BenchError as error:
        trial.fail(error_facts(error, "connect"))
    return trial.line()


def run_once(worker: Worker, data: DataSet, limits: Limits) -> tuple[dict[str, Any], Outputs]:
    """The answer to one `run`, and its outputs."""
    buffers: list[bytes | memoryview] = []
    feeds = {name: pack(array, buffers) for name, array in data.feeds.items()}
    answer, body = worker.ask("run", {"feeds": feeds}, buffers, phase="first_run", limit_s=limits.first_run)
    reader = Unpacker(body)
    return answer, {name: reader.value(tree) for name, tree in answer["outputs"].items()}


def judged(report: ParityReport, at: Any, feed: int) -> record.JudgedFacts:
    """A parity report as the record has it."""

    def facts(output: OutputParity) -> record.OutputFacts:
        worst = None if output.worst is None else list(output.worst)
        # A string output's problem quotes what was got: it may be a path.
        return record.OutputFacts(**{**asdict(output), "worst": worst, "problem": public(output.problem)})

    return record.JudgedFacts(
        passed=report.passed,
        grade=report.grade,
        at=at,
        feed=feed,
        problem=public(report.problem),
        outputs=[facts(o) for o in report.outputs],
    )


def error_facts(error: BenchError, phase: str) -> record.ErrorFacts:
    """An error as the record has it, without paths and addresses."""
    failure = (
        error.failure
        if isinstance(error, WorkerError)
        else Failure(phase, type(error).__name__, error.message, error.hint, error=type(error).__name__)
    )
    return record.ErrorFacts(
        phase=failure.phase,
        kind=failure.kind,
        error=failure.error,
        message=public(failure.message),
        hint=public(failure.hint),
        signal=failure.signal,
        log_tail=public(failure.log_tail),
    )
