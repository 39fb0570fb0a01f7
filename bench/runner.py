"""Runs cases: resolves, prepares, measures them in rounds, and writes every trial down the moment it ends."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from bench import record, shapes
from bench.case import (
    Again,
    Case,
    Settings,
    case_facts,
    case_line,
    cell_of,
    default_tolerance,
    looks_at,
    plan_of,
    with_facts,
    with_task,
    with_work,
)
from bench.errors import BenchError
from bench.evidence.yardstick import Alone
from bench.fold import fastest_ns, fold, informed, noisy, quiet_ones
from bench.pace import Calm, Pace, alone
from bench.place import Place, Wait
from bench.plausible.peaks import Peaks
from bench.preparation import Preparation
from bench.record import EndLine, Record, SliceLine, TrialLine
from bench.reference import NoiseFloor
from bench.store import Journal, RunFile
from bench.trial import TrialPlan, error_facts, run_trial

__all__ = [
    "Again",
    "Case",
    "Progress",
    "Running",
    "Settings",
    "Site",
    "case_facts",
    "cell_of",
    "default_tolerance",
    "leave_cases",
    "measure_cases",
    "plan_of",
    "run_cases",
]

SPENT = "the budget is spent"
TOO_WIDE = "as many trials as allowed; the interval is wider than the target"
# Further trials when others were using the machine: as many again, and no more.
NOISE_FACTOR = 2


class Progress(Protocol):
    """Whoever watches a run. Called between phases, never while something is timed."""

    def trial_begins(self, case: str, number: int, of: int, noisy: int) -> None:
        """The next trial of a case begins; `of` are wanted by now, those that make up for the `noisy` ones included."""

    def left(self, trials: int, at_least_s: float, at_most_s: float) -> None:
        """So many trials are left over all cases, by now; so long it takes until the last begins."""

    def case_ended(self, result: Record) -> None:
        """No more trials of this case will come."""


class Running:
    """A case on its way: what it needs for its next trial, and the trials it has."""

    def __init__(
        self,
        case: Case,
        settings: Settings,
        file: Journal,
        peaks: Peaks,
        preparation: Preparation | None = None,
        again: Again | None = None,
    ) -> None:
        self.case, self._settings, self._file, self._peaks = case, settings, file, peaks
        self._preparation = preparation or Preparation()
        self.title = f"{case.resolved.model.name} on {case.backend.name}"
        self._id = secrets.token_hex(8)
        self._tolerance = settings.tolerance or default_tolerance(case)
        self._line = case_line(self._id, file, case, settings, self._tolerance, again)
        self.plan: TrialPlan | None = None
        self._place: Place | None = None
        self._trials: list[TrialLine] = []
        self._slices: list[SliceLine] = []
        self._end: EndLine | None = None
        self._final: Record | None = None
        self._looks = looks_at(case, settings)
        self.goal = self._looks[0]
        self._spent_s = 0.0

    def begin(self, place: Place) -> None:
        """Reference outputs and artefact. A failure ends the case."""
        self._place = place
        begin = time.monotonic()
        error, phase = None, "resolve"
        prepared, noise = None, NoiseFloor()
        resolved = self.case.resolved
        try:
            resolved = self._preparation.reference(resolved, place, self.case.files)
            noise = self._preparation.noise(resolved, place, self.case.files)
            phase = "prepare"
            prepared = self._preparation.artefact(self.case.backend, resolved.model, self.case.options, place)
        except BenchError as caught:
            error = error_facts(caught, phase)
        self._line = with_facts(self._line, resolved, prepared, noise)
        if prepared is not None:
            self._line = with_work(self._line, self.case, place, self._peaks)
            self._line = with_task(self._line, self.case, place, self._settings.task)
        self._file.append(self._line)
        if prepared is None:
            self.end("it could not be prepared", error)
            return
        self.plan = TrialPlan(
            case_id=self._id,
            backend=self.case.backend,
            artifact=prepared.artifact,
            artifact_key=prepared.sha256,
            options=self.case.options,
            data_sets=resolved.data_sets,
            tolerance=self._tolerance,
            plan=self._settings.plan,
            scenario=self.case.scenario,
            keep=self._keep_slice,
        )
        self._spent_s = time.monotonic() - begin

    def trial(self, place: Place, wait: Wait | None) -> TrialLine:
        """One more trial, written down before this returns."""
        assert self.plan is not None
        begin = time.monotonic()
        plan = replace(self.plan, alone=self._alone())
        line = self.keep(run_trial(place, plan, len(self._trials), wait))
        self._spent_s += time.monotonic() - begin
        return line

    def _alone(self) -> Alone | None:
        return alone(self._settings, fastest_ns(self._line, self._trials))

    def _learn(self) -> None:
        """A neighbour may have been there when the peaks were measured: trials show how fast a core is without him.

        Those of all cases do: what this one's show the others hear, and it hears what theirs have shown by now.
        """
        known, fastest = self._line.peaks, fastest_ns(self._line, self._trials)
        if known is None or not known.core_ns or fastest is None:
            return
        with suppress(BenchError):  # where nothing can be kept: these trials know it all the same
            if fastest < known.core_ns:
                self._peaks.learn(known.numpy, fastest)
            self._line = informed(self._line, self._peaks.fastest(known.numpy))

    def noisy(self, line: TrialLine) -> bool:
        """Whether others disturbed this trial, as far as is known by now."""
        return noisy(line, self._settings.max_foreign_cpu, fastest_ns(self._line, self._trials))

    def leave(self, why: str, error: record.ErrorFacts | None = None) -> None:
        """End a case that was not begun: nothing is prepared for it."""
        self._file.append(self._line)
        self.end(why, error)

    def keep(self, line: TrialLine) -> TrialLine:
        """The line of a trial that has ended, written down before this returns."""
        self._file.append(line)
        self._trials.append(line)
        self._learn()
        return line

    def _keep_slice(self, line: SliceLine) -> None:
        self._file.append(line)
        self._slices.append(line)

    def wants_more(self) -> str:
        """Empty while another trial is wanted, else why none is.

        It is looked only then whether the interval is narrow enough when one more trial could be left out at either
        end: every look makes it err more often.
        """
        if self._trials and self._trials[-1].error:
            return "a trial failed"
        if any(t.parity and not t.parity.passed for t in self._trials):
            return "its answers are wrong"
        if self.case.scenario.soak_s is not None:
            return "the soak has ended"
        if len(quiet_ones(self._line, self._trials)) >= self.goal:
            reason = self._precision()
            if reason != TOO_WIDE or self.goal == self._looks[-1]:
                return reason
            self.goal = next(count for count in self._looks if count > self.goal)
        last = self._trials[-1] if self._trials else None
        if last and last.load and last.load.foreign_cpu is None and self._settings.max_foreign_cpu < 1:
            return f"the load cannot be told: {last.load.reason}"  # nor will it be the next time
        if len(self._trials) >= self.goal * NOISE_FACTOR:
            return "the machine stayed busy"
        budget_s = self._settings.case_budget_s
        return "the case's budget is spent" if budget_s is not None and self._spent_s > budget_s else ""

    def _precision(self) -> str:
        """How the interval over processes compares with the target, where the median is the headline."""
        latency, target = self.record().latency, self._settings.plan.target
        median = self.case.scenario.name == "single-stream"
        if target is None or not median or latency is None or latency.p50_ci_relative is None:
            return "enough trials"
        return TOO_WIDE if latency.p50_ci_relative > target else "precise enough"

    def end(self, stopped_by: str, error: record.ErrorFacts | None = None) -> None:
        """No more trials come; what new shapes cost is looked at last, where it was asked for and the case is ok."""
        self._learn()
        tried = self._new_shapes() if error is None else None
        self._end = EndLine(
            schema=record.SCHEMA,
            id=self._id,
            stopped_by=stopped_by,
            error=error,
            new_shapes=tried,
            core_ns=self._line.peaks.core_ns if self._line.peaks else None,
        )
        self._file.append(self._end)

    def _new_shapes(self) -> record.ShapesTried | None:
        count, place = self._settings.new_shapes, self._place
        if not count or self.plan is None or place is None or not self._trials or self.record().status != "ok":
            return None
        return shapes.tried(self.case.resolved, self.plan, place, self._preparation, self.case.files, count)

    @property
    def ended(self) -> bool:
        return self._end is not None

    def trials_noisy(self) -> int:
        """How many of its trials others disturbed, as far as is known by now."""
        return len(self._trials) - len(quiet_ones(self._line, self._trials))

    def trials_expected(self) -> int:
        """How many trials there will be by what is known now: the noisy ones are made up for, within the bound."""
        return min(self.goal + self.trials_noisy(), self.goal * NOISE_FACTOR)

    def trials_left(self) -> int:
        return 0 if self.ended else max(1, self.trials_expected() - len(self._trials))

    def record(self) -> Record:
        """What is known by now; once it has ended, for good."""
        if self._final is not None:
            return self._final
        made = fold(self._line, self._trials, self._end, self._slices)
        self._final = made if self.ended else None
        return made


@dataclass(frozen=True, slots=True)
class Site:
    """A place with what the cases there share: the run's file, what the machine can do, what could not be prepared."""

    file: RunFile
    place: Place
    peaks: Peaks
    preparation: Preparation

    def running(self, case: Case, settings: Settings, again: Mapping[str, Again]) -> Running:
        """The case on its way; `again` as in `measure_cases`."""
        replaced = again.get(cell_of(case_facts(case)))
        return Running(case, settings, self.file, self.peaks, self.preparation, replaced)


def run_cases(
    cases: Sequence[Case],
    place: Place,
    settings: Settings,
    *,
    results: Path,
    machine: str,
    run: str,
    progress: Progress,
    ends_at: float = math.inf,
) -> list[Record]:
    """The records of all cases, in their order. Trials come in rounds (A B C, C B A), so that drift hits all alike.

    `ends_at`: by the monotonic clock, when no trial may begin any more.

    Raises:
        BenchError: the results folder cannot be written. Nothing else: what goes wrong with a case is in its record.
    """
    with RunFile(results, machine, run) as file:
        site = Site(file, place, Peaks(place, machine), Preparation())
        return measure_cases(cases, site, settings, progress=progress, ends_at=ends_at)


def measure_cases(
    cases: Sequence[Case],
    site: Site,
    settings: Settings,
    *,
    progress: Progress,
    ends_at: float = math.inf,
    again: Mapping[str, Again] | None = None,
) -> list[Record]:
    """As `run_cases`, at a site that more cases will come to. `again`: by cell, the execution that is replaced.

    Raises:
        BenchError: the results folder cannot be written. Nothing else.
    """
    running = [site.running(case, settings, again or {}) for case in cases]
    _Rounds(running, site.place, settings, progress, ends_at).run()
    return [case.record() for case in running]


def leave_cases(
    cases: Sequence[Case],
    site: Site,
    settings: Settings,
    error: record.ErrorFacts,
    again: Mapping[str, Again] | None = None,
) -> list[Record]:
    """The records of cases that are not begun, because of an error that others met before them.

    Raises:
        BenchError: the results folder cannot be written.
    """
    running = [site.running(case, settings, again or {}) for case in cases]
    for case in running:
        case.leave("not tried", error)
    return [case.record() for case in running]


class _Rounds:
    """Rounds of one trial of each case that wants another, forwards and backwards in turn."""

    def __init__(
        self,
        running: Sequence[Running],
        place: Place,
        settings: Settings,
        progress: Progress,
        ends_at: float,
    ) -> None:
        self._running, self._place, self._settings = running, place, settings
        self._progress, self._ends_at = progress, ends_at
        self._calm = Calm(settings)
        self._pace = Pace(settings.trials, settings.spread_s)

    def run(self) -> None:
        for number in range(max(self._settings.trials, self._settings.max_trials) * NOISE_FACTOR):
            wanting = [case for case in self._running if not case.ended]
            if not wanting:
                return
            self._pace.wait(number, self._place.say, self._ends_at)
            for case in wanting if number % 2 == 0 else reversed(wanting):
                self._trial(case, number)
                left = sum(c.trials_left() for c in self._running)
                at_least_s = self._pace.until_last_s(number) if left else 0.0
                self._progress.left(left, at_least_s, max(0.0, self._ends_at - time.monotonic()))
                if case.ended:
                    self._progress.case_ended(case.record())

    def _trial(self, case: Running, number: int) -> None:
        if time.monotonic() >= self._ends_at:
            if number == 0:
                case.leave(SPENT)
            else:
                case.end(SPENT)
            return
        self._progress.trial_begins(case.title, number + 1, case.trials_expected(), case.trials_noisy())
        if number == 0:
            case.begin(self._place)
        if not case.ended:
            line = case.trial(self._place, self._calm.wait())
            self._calm.learn(line, noisy=case.noisy(line))
            if reason := case.wants_more():
                case.end(reason)
