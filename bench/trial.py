"""One trial: a fresh process loads an artefact, proves its answers, is timed, proves them again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from bench import record, soak
from bench.errors import BenchError, Unreachable
from bench.evidence.yardstick import Alone
from bench.fold import worst_first
from bench.interface import Artifact, Options, Outputs, Plan
from bench.measure.scenarios import Scenario, longest_s
from bench.models import DataSet
from bench.parity.compare import OutputParity, ParityReport, Tolerance, compare
from bench.place import Limits, Place, Started, Wait, feeds_there, options_there, started
from bench.redact import public
from bench.registry import Registered
from bench.store import now
from bench.worker import wire
from bench.worker.client import Failure, Worker, WorkerError
from bench.worker.protocol import Unpacker, pack

RETRY_AFTER_S = 2.0


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
    alone: Alone | None = None
    """Who else uses the CPU's core is waited for, where that can be told."""
    keep: Callable[[record.SliceLine], None] = lambda line: None
    """Writes a stretch of a soak down."""


class Trial:
    """Gathers what is learnt, so that a trial that fails half-way still says what it knew.

    A pytest session takes it step by step (`begin`, inferences of its own, `end`); a run takes it as a whole (`run`).
    """

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
        self._loaded_rss_bytes: int | None = None
        self._place: Place | None = None

    def line(self) -> record.TrialLine:
        worst = max(self._judged, key=worst_first, default=None)
        return record.TrialLine(**self._facts, parity=worst)

    def fail(self, error: record.ErrorFacts) -> None:
        self._facts["error"] = error

    def run(self, place: Place, wait: Wait | None) -> None:
        """The whole trial, in a worker of its own.

        Not only the runtime's process is fresh. One supervisor for all trials would save 70 ms of each, and was tried:
        children that begin 5 ms after the end of the one before are much alike, and on ncnn were 1 to 1.5 % slower than
        those before which another process had come and gone (48 of each, in turns; x86-64, 2026-11).
        """
        plan = self._plan
        with started(place, plan.backend, plan.options.cpus, purpose=plan.backend.name, wait=wait) as ready:
            self.begin(ready, place)
            self.end(ready.worker, place.limits)

    def begin(self, ready: Started, place: Place) -> None:
        """Load the artefact, and judge its first answer to every input."""
        self._facts["waited"] = ready.waited
        self._facts |= {"environment": dict(ready.environment), "runtimes": dict(ready.probe.runtimes)}
        self._devices = ready.probe.devices
        self._place = place
        cold = record.ColdFacts(start_s=ready.start_s, import_s=ready.import_s)
        self._facts["cold"] = cold
        loaded = self._load(ready.worker, place)
        self._loaded_rss_bytes = loaded["loaded_rss_bytes"]
        count = len(self._plan.data_sets)
        first_run_s = [self._first_run(ready.worker, place.limits, index) for index in range(count)]
        self._facts["cold"] = record.ColdFacts(
            start_s=ready.start_s, import_s=ready.import_s, load_s=loaded["load_s"], first_run_s=first_run_s[0]
        )

    def end(self, worker: Worker, limits: Limits) -> None:
        """Time it, judge what it answered last, and close the session."""
        if self._plan.scenario.soak_s is not None:
            self._soak(worker, limits, self._plan.scenario.soak_s)
        else:
            self._measure(worker, limits, self._loaded_rss_bytes)
        worker.ask("close", limit_s=limits.close)

    def _load(self, worker: Worker, place: Place) -> dict[str, Any]:
        artifact = wire.plain(self._plan.artifact)
        there = place.host.put(self._plan.artifact.root, self._plan.artifact_key, self._plan.artifact.files)
        artifact["root"] = str(there)
        args = {
            "artifact": artifact,
            "options": wire.plain(options_there(place, self._plan.backend, self._plan.options)),
        }
        return worker.ask("load", args, limit_s=place.limits.load)[0]

    def _first_run(self, worker: Worker, limits: Limits, index: int) -> float:
        data = self._plan.data_sets[index]
        answer, outputs = run_once(worker, data, limits, place=self._place)
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
        if self._plan.alone:
            args["alone"] = asdict(self._plan.alone)
            limit_s += self._plan.alone.limit_s
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
        observed = self._of_gpu(msgspec.convert(answer.get("observed"), record.ObservedFacts | None))
        memory = record.MemoryFacts(
            loaded_rss_bytes=loaded_rss_bytes,
            peak_rss_bytes=answer["peak_rss_bytes"],
            peak_gpu_bytes=observed.gpu.peak_process_bytes if observed and observed.gpu else None,
        )
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
            "core": msgspec.convert(answer.get("core"), record.CoreFacts | None),
            "observed": observed,
            "memory": memory,
            "placement": placement,
        }
        self._check_placement(placement)

    def _soak(self, worker: Worker, limits: Limits, seconds: float) -> None:
        cold, index = self._facts["cold"], self._facts["index"]
        wanted = soak.Soak(seconds, cold.first_run_s, self._plan.case_id, index, limits.measure, self._plan.alone)

        def judge(outputs: Outputs, feed: int) -> bool:
            self._judge(outputs, feed, "verify")
            return not self._judged or self._judged[-1].passed

        say = self._place.say if self._place else lambda message: None
        found = soak.measure(worker, wanted, self._plan.plan, judge=judge, keep=self._plan.keep, say=say)
        placement = record.PlacementFacts(**found.pop("placement"), affinity=found.pop("affinity"))
        peak = found.pop("peak_rss_bytes")
        memory = record.MemoryFacts(loaded_rss_bytes=self._loaded_rss_bytes, peak_rss_bytes=peak)
        self._facts |= {**found, "memory": memory, "placement": placement}
        self._check_placement(placement)

    def _of_gpu(self, observed: record.ObservedFacts | None) -> record.ObservedFacts | None:
        """With the reason, where a GPU was to be used and none was seen."""
        asked = any(device.startswith(("cuda", "vulkan")) for device in self._devices)
        if observed is None or observed.gpu is not None or not asked:
            return observed
        lacking = {**observed.not_available, "gpu": "not available: the process has no device file of a GPU open"}
        return msgspec.structs.replace(observed, not_available=lacking)

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
    for again in range(place.retries, -1, -1):
        trial = Trial(index, plan)
        try:
            trial.run(place, wait)
        except BenchError as error:
            facts = error_facts(error, "connect")
            trial.fail(facts)
            if again and facts.error == Unreachable.__name__:
                place.say(f"{facts.message}; beginning this trial again")
                time.sleep(RETRY_AFTER_S)
                continue
        break
    return trial.line()


def run_once(
    worker: Worker, data: DataSet, limits: Limits, *, timed: bool = True, place: Place | None = None
) -> tuple[dict[str, Any], Outputs]:
    """The answer to one `run`, and its outputs. `timed`: its feeds shall rotate through the timed loop, too.

    `place`: where the worker is; inputs are kept on a device, so that they travel once.
    """
    buffers: list[bytes | memoryview] = []
    args = {"feeds": {name: pack(array, buffers) for name, array in data.feeds.items()}, "keep": timed}
    if place and place.home:
        args["feeds_at"] = str(feeds_there(place, data, buffers))
        buffers = []
    phase = "first_run" if timed else "run"
    answer, body = worker.ask("run", args, buffers, phase=phase, limit_s=limits.first_run)
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


def passing(error: record.ErrorFacts) -> bool:
    """Whether it was the way to the machine, or the wait for it, that failed: another time it may be open."""
    return error.error == "Unreachable" or error.kind == "link" or (error.error, error.phase) == ("Timeout", "connect")
