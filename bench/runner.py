"""Runs cases: resolves, prepares, measures them in rounds, and writes every trial down the moment it ends."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from bench import record, reference
from bench.artifacts import Prepared, identity, prepare
from bench.cache import key_of
from bench.errors import BenchError
from bench.fold import fold, noisy
from bench.interface import Options, OptionValue, Plan
from bench.measure.scenarios import Scenario
from bench.models import Resolved
from bench.parity.compare import BLIND, TOLERANCES, Tolerance, movement, not_finite
from bench.plausible.operations import counted
from bench.plausible.peaks import Peaks
from bench.record import CaseFacts, CaseLine, EndLine, Record, TrialLine
from bench.redact import public
from bench.registry import Registered
from bench.store import RunFile, now
from bench.trial import Place, TrialPlan, Wait, error_facts, run_trial

# After a noisy trial: most neighbours (a compiler, a browser, an update) pause for seconds, not for minutes.
WAIT_AFTER_NOISE_S = 5.0
# A cooled-down processor is as cool as at the begin of the run, to within the resolution of common sensors (1 C) and
# the noise of one reading (1 C). Rule of thumb.
COOL_WITHIN_C = 2.0
TOO_WIDE = "as many trials as allowed; the interval is wider than the target"
# Further trials when others were using the machine: as many again, and no more.
NOISE_FACTOR = 2


@dataclass(frozen=True, slots=True)
class Case:
    """A model on a backend on a device with options, complete and checked."""

    resolved: Resolved
    backend: Registered
    device: str
    options: Options
    batch: int | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    """File options of the run (custom-operator libraries): whoever judges needs them too."""
    scenario: Scenario = field(default_factory=Scenario)


@dataclass(frozen=True, slots=True)
class Settings:
    """How thoroughly to measure, and by which tolerance to judge (None: the precision's own)."""

    trials: int = 6
    plan: Plan = field(default_factory=Plan)
    tolerance: Tolerance | None = None
    max_foreign_cpu: float = record.MAX_FOREIGN_CPU
    cooldown_s: float | None = None
    """Before every trial, wait at most so long until the machine is quiet, and as cool as before the first."""
    max_trials: int = 0
    """So many in all where the interval over processes is wider than the plan's target after `trials`."""


class Progress(Protocol):
    """Whoever watches a run. Called between phases, never while something is timed."""

    def trial_begins(self, case: str, number: int, of: int) -> None:
        """The next trial of a case begins; `of` are wanted."""

    def trial_ended(self, trials_left: int) -> None:
        """A trial has ended, and so many are left over all cases."""

    def case_ended(self, result: Record) -> None:
        """No more trials of this case will come."""


class _Running:
    """A case on its way: what it needs for its next trial, and the trials it has."""

    def __init__(self, case: Case, settings: Settings, file: RunFile, peaks: Peaks) -> None:
        self.case, self._settings, self._file, self._peaks = case, settings, file, peaks
        self.title = f"{case.resolved.model.name} on {case.backend.name}"
        self._id = secrets.token_hex(8)
        self._tolerance = settings.tolerance or default_tolerance(case)
        self._line = _case_line(self._id, file, case, settings, self._tolerance)
        self._plan: TrialPlan | None = None
        self._trials: list[TrialLine] = []
        self._end: EndLine | None = None
        self.goal = settings.trials

    def begin(self, place: Place) -> None:
        """Reference outputs and artefact. A failure ends the case."""
        error, phase = None, "resolve"
        prepared = None
        resolved = self.case.resolved
        try:
            resolved = reference.complete(resolved, place, self.case.files)
            phase = "prepare"
            prepared = prepare(place, self.case.backend, resolved.model, self.case.options)
        except BenchError as caught:
            error = error_facts(caught, phase)
        self._line = _with_facts(self._line, resolved, prepared)
        if prepared is not None:
            self._line = _with_work(self._line, self.case, place, self._peaks)
        self._file.append(self._line)
        if prepared is None:
            self.end("it could not be prepared", error)
            return
        self._plan = TrialPlan(
            case_id=self._id,
            backend=self.case.backend,
            artifact=prepared.artifact,
            artifact_key=prepared.key,
            options=self.case.options,
            data_sets=resolved.data_sets,
            tolerance=self._tolerance,
            plan=self._settings.plan,
            scenario=self.case.scenario,
        )

    def trial(self, place: Place, wait: Wait | None) -> TrialLine:
        """One more trial, written down before this returns."""
        assert self._plan is not None
        line = run_trial(place, self._plan, len(self._trials), wait)
        self._file.append(line)
        self._trials.append(line)
        return line

    def wants_more(self) -> str:
        """Empty while another trial is wanted, else why none is.

        After the wanted trials it is looked once whether the interval is narrow enough; if not, the rest of the trials
        that are allowed are run, without another look: every look makes the interval err more often.
        """
        if self._trials and self._trials[-1].error:
            return "a trial failed"
        if any(t.parity and not t.parity.passed for t in self._trials):
            return "its answers are wrong"
        quiet = sum(not noisy(t, self._settings.max_foreign_cpu) for t in self._trials)
        if quiet >= self.goal:
            reason = self._precision()
            if reason != TOO_WIDE or self.goal >= self._settings.max_trials:
                return reason
            self.goal = self._settings.max_trials
        return "the machine stayed busy" if len(self._trials) >= self.goal * NOISE_FACTOR else ""

    def _precision(self) -> str:
        """How the interval over processes compares with the target, where the median is the headline."""
        latency, target = self.record().latency, self._settings.plan.target
        median = self.case.scenario.name == "single-stream"
        if target is None or not median or latency is None or latency.p50_ci_relative is None:
            return "enough trials"
        return TOO_WIDE if latency.p50_ci_relative > target else "precise enough"

    def end(self, stopped_by: str, error: record.ErrorFacts | None = None) -> None:
        self._end = EndLine(schema=record.SCHEMA, id=self._id, stopped_by=stopped_by, error=error)
        self._file.append(self._end)

    @property
    def ended(self) -> bool:
        return self._end is not None

    def trials_left(self) -> int:
        return 0 if self.ended else max(1, self.goal - len(self._trials))

    def record(self) -> Record:
        return fold(self._line, self._trials, self._end)


class _Calm:
    """What to wait for before the next trial: always with `cooldown_s`, else for a moment after a noisy trial."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._noisy = False
        self._max_c: float | None = None

    def wait(self) -> Wait | None:
        seconds = self._settings.cooldown_s or (WAIT_AFTER_NOISE_S if self._noisy else None)
        return Wait(seconds, self._settings.max_foreign_cpu, self._max_c) if seconds else None

    def learn(self, line: TrialLine) -> None:
        self._noisy = noisy(line, self._settings.max_foreign_cpu)
        if self._max_c is None and line.waited and line.waited.temperature_c is not None:
            self._max_c = line.waited.temperature_c + COOL_WITHIN_C


def run_cases(
    cases: Sequence[Case],
    place: Place,
    settings: Settings,
    *,
    results: Path,
    machine: str,
    run: str,
    progress: Progress,
    out_of_time: Callable[[], bool] = lambda: False,
) -> list[Record]:
    """The records of all cases, in their order. Trials come in rounds (A B C, C B A), so that drift hits all alike.

    Raises:
        BenchError: the results folder cannot be written. Nothing else: what goes wrong with a case is in its record.
    """
    with RunFile(results, machine, run) as file:
        peaks = Peaks(place, machine)
        running = [_Running(case, settings, file, peaks) for case in cases]
        calm = _Calm(settings)
        for number in range(max(settings.trials, settings.max_trials) * NOISE_FACTOR):
            for case in running if number % 2 == 0 else reversed(running):
                if not case.ended:
                    _one_trial(case, number, running, place, settings, calm, progress, out_of_time)
        return [case.record() for case in running]


def _one_trial(
    case: _Running,
    number: int,
    running: Sequence[_Running],
    place: Place,
    settings: Settings,
    calm: _Calm,
    progress: Progress,
    out_of_time: Callable[[], bool],
) -> None:
    if out_of_time():
        if number == 0:
            case.begin(place)
        if not case.ended:
            case.end("the budget is spent")
        progress.case_ended(case.record())
        return
    progress.trial_begins(case.title, number + 1, case.goal)
    if number == 0:
        case.begin(place)
    if not case.ended:
        calm.learn(case.trial(place, calm.wait()))
        if reason := case.wants_more():
            case.end(reason)
    progress.trial_ended(sum(c.trials_left() for c in running))
    if case.ended:
        progress.case_ended(case.record())


def default_tolerance(case: Case) -> Tolerance:
    """The tolerance of the precision that is asked for, or that the model's file is in."""
    asked = case.options.precision
    name = case.resolved.precision if asked == "model" else {"tf32": "fp16"}.get(asked, asked)
    return TOLERANCES.get(name, TOLERANCES["fp32"])


def case_facts(case: Case) -> CaseFacts:
    """What the case is, with files named by their content."""
    model, options = case.resolved.model, case.options
    extra = {name: _told(identity(value)) for name, value in options.extra.items()}
    return CaseFacts(
        model=record.ModelFacts(
            name=model.name,
            sha256=case.resolved.source_sha256,
            opset=model.opset,
            precision=case.resolved.precision,
            shapes={name: list(shape) for name, shape in case.resolved.shapes.items()},
        ),
        backend=case.backend.name,
        device=case.device,
        options=record.OptionFacts(
            threads=options.threads,
            precision=options.precision,
            cpus=list(options.cpus),
            batch=case.batch,
            scenario=case.scenario.name,
            extra=dict(sorted(extra.items())),
            streams=case.scenario.streams,
            samples_per_query=case.scenario.samples_per_query,
            rate=case.scenario.rate,
            latency_bound_ns=case.scenario.latency_bound_ns,
        ),
    )


def _told(value: OptionValue) -> OptionValue:
    return public(value) if isinstance(value, str) else value


def cell_of(facts: CaseFacts) -> str:
    """The cell that a case belongs to every night: model, backend, device and options, but no versions.

    An option that came later and was not given changes nothing: the cells of older records stay theirs.
    """
    data = msgspec.to_builtins(facts)
    for field_ in msgspec.structs.fields(record.OptionFacts):
        if not field_.required and data["options"][field_.name] == field_.default:
            del data["options"][field_.name]
    return key_of(data)[:16]


def _case_line(identity_: str, file: RunFile, case: Case, settings: Settings, tolerance: Tolerance) -> CaseLine:
    default = default_tolerance(case)
    relaxed = tolerance.rtol > default.rtol or tolerance.atol_of_scale > default.atol_of_scale
    facts = case_facts(case)
    return CaseLine(
        schema=record.SCHEMA,
        id=identity_,
        run=file.run,
        cell=cell_of(facts),
        machine=file.machine,
        started_at=now(),
        case=facts,
        source=Path(case.resolved.reference).name,
        trials_wanted=settings.trials,
        target=settings.plan.target,
        trials_max=max(settings.trials, settings.max_trials),
        max_foreign_cpu=settings.max_foreign_cpu,
        tolerance=record.ToleranceFacts(
            name=tolerance.name,
            rtol=tolerance.rtol,
            atol_of_scale=tolerance.atol_of_scale,
            reason=tolerance.reason,
            relaxed=relaxed,
        ),
        notes=[public(note) for note in case.resolved.notes],
    )


def _with_facts(line: CaseLine, resolved: Resolved, prepared: Prepared | None) -> CaseLine:
    notes = list(line.notes)
    facts = _reference_facts(resolved)
    if facts and facts.moved is not None and facts.moved < BLIND:
        notes.append(f"input-blind: the reference output moves by {facts.moved:.2%} of its norm between two inputs")
    if odd := not_finite([d.expected for d in resolved.data_sets if d.expected]):
        notes.append(f"not finite: the reference output {', '.join(odd)} holds NaN or infinity")
    return msgspec.structs.replace(
        line, reference=facts, prepare=_prepare_facts(prepared) if prepared else None, notes=notes
    )


def _with_work(line: CaseLine, case: Case, place: Place, peaks: Peaks) -> CaseLine:
    """With what the model computes and what the place can do at most. The case is measured without them, too."""
    counts, found = None, None
    reason = ""
    try:
        counts = counted(case.resolved.model, place.cache)
        if counts.macs:
            found = peaks.of(case.backend, case.options)
        else:
            reason = "the model multiplies nothing that is counted"
    except BenchError as error:
        reason = public(error.message)
    return msgspec.structs.replace(
        line,
        counts=msgspec.convert(counts, record.CountFacts | None, from_attributes=True),
        peaks=msgspec.convert(found, record.PeakFacts | None),
        work_reason=reason,
    )


def _prepare_facts(prepared: Prepared) -> record.PrepareFacts:
    return record.PrepareFacts(
        seconds=prepared.seconds,
        cache=prepared.cache,  # type: ignore[arg-type]
        artefact_bytes=prepared.size_bytes,
        artefact_sha256=prepared.sha256,
        converter=dict(prepared.converter),
    )


def _reference_facts(resolved: Resolved) -> record.ReferenceFacts | None:
    """The weakest provenance among the data sets stands for all: one that came without words is `as supplied`."""
    known = [d for d in resolved.data_sets if d.expected is not None and d.provenance is not None]
    if not known:
        return None
    first = known[0].provenance
    assert first is not None
    moved = None
    if len(known) > 1:
        moved = movement(known[0].expected or {}, known[1].expected or {})
    producers = {d.provenance.producer for d in known if d.provenance}
    return record.ReferenceFacts(
        producer=public(" and ".join(sorted(producers))),
        version=public(first.version),
        settings=public(first.settings),
        sha256=key_of([d.sha256 for d in known]),
        moved=moved,
    )
