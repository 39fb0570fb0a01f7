"""One question to the backend: what does it make of a part, and would that alone spoil the model's answers?

What it makes of a part is handed to the reference, which computes the rest of the model from there: so every part is
judged where it counts, at the outputs, by their own tolerance, and no threshold is needed in between.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from bench.errors import BenchError
from bench.interface import Outputs
from bench.localize.layout import Layout
from bench.localize.parts import Parts, Reference, ReferenceFails, Runner, Uncuttable, is_answer, spec_of
from bench.parity.compare import ParityReport, Tolerance, compare
from bench.redact import public
from bench.worker.client import Failure, WorkerError


@dataclass(frozen=True, slots=True)
class TensorError:
    """How far the backend's tensor is from the reference's, as a share of its scale, or the `problem` in words."""

    name: str
    relative: float | None
    max_abs: float | None = None
    grade: str = ""
    problem: str = ""

    @property
    def size(self) -> float:
        """The share, infinite where there is a problem that no number tells."""
        return self.relative if self.relative is not None else math.inf if self.problem else 0.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one probe.

    `effect`: the largest error at the judged outputs as a multiple of what is allowed there: above 1 fails.
    """

    effect: float = 0.0
    errors: tuple[TensorError, ...] = ()
    judged: tuple[TensorError, ...] = ()
    failure: Failure | None = None

    @property
    def size(self) -> float:
        """The largest error of the part's own outputs."""
        return max((error.size for error in self.errors), default=0.0)


class Notes(Protocol):
    """What keeps the outcomes of probes, so that an interrupted search goes on where it was."""

    def kept(self, question: Mapping[str, Any], ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The answer to a question, asked only where it is not known yet."""


class Forgetful:
    """Keeps nothing."""

    def kept(self, question: Mapping[str, Any], ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Ask."""
        return ask()


class Prober:
    """Runs parts of one model on the backend, on the reference's tensors, and judges them."""

    def __init__(
        self, parts: Parts, backend: Runner, reference: Reference, tolerance: Tolerance, notes: Notes | None = None
    ) -> None:
        self._parts, self._backend, self.reference, self.tolerance = parts, backend, reference, tolerance
        self._notes = notes or Forgetful()
        self._known: dict[tuple[int, int, int, bool, bool], Outcome] = {}
        self.prepared = 0
        """Parts that were prepared, or would have been, had an earlier search not left its notes."""

    @property
    def layout(self) -> Layout:
        """The graph."""
        return self._parts.layout

    def probe(self, start: int, end: int, horizon: int, *, last_only: bool = False, fresh: bool = False) -> Outcome:
        """What the backend makes of the nodes between two places, and what that does at the place `horizon`.

        `fresh`: asked of a process that has run nothing before, because it may accuse somebody.

        Raises:
            BenchError: the reference fails, or the machine or the link to it.
        """
        key = (start, end, horizon, last_only, fresh)
        if key not in self._known:
            self.prepared += 1
            question = dict(zip(("start", "end", "horizon", "last_only", "fresh"), key, strict=True))
            self._known[key] = _outcome(self._notes.kept(question, lambda: _plain(self._ask(*key))))
        return self._known[key]

    def _ask(self, start: int, end: int, horizon: int, last_only: bool, fresh: bool) -> Outcome:
        try:
            return self.judge(self.outputs(start, end, last_only=last_only, fresh=fresh), end, horizon)
        except (Uncuttable, ReferenceFails) as error:  # no answer of the backend: another place is tried
            return Outcome(math.inf, failure=Failure("cut", type(error).__name__, error.message))
        except WorkerError as error:
            if not is_answer(error):
                raise
            return Outcome(math.inf, failure=public_failure(error.failure))

    def outputs(self, start: int, end: int, *, last_only: bool = False, fresh: bool = False) -> Outputs:
        """The backend's own outputs of a part. Raises WorkerError where it has none."""
        span = self.layout.span(start, end, last_only=last_only)
        values = self.reference.values([*span.inputs, *span.constants, *span.outputs])
        specs = [spec_of(name, values[name]) for name in span.outputs]
        with self._parts.model(span, values, specs) as (model, feeds):
            del values
            return self._backend.run(model, feeds, fresh=fresh)

    def judge(self, got: Outputs, end: int, horizon: int) -> Outcome:
        """How far these tensors are off, and what the reference makes of them further down."""
        expected = self.reference.values(list(got))
        own = compare(expected, got, self.tolerance)
        errors = errors_of(own)
        if all(error.size == 0 for error in errors):
            return Outcome(0.0, errors)
        final = set(self.layout.targets(0, horizon))
        here = {name: value for name, value in got.items() if name in final}
        judged = compare({name: expected[name] for name in here}, here, self.tolerance)
        effect, said = effect_of(judged), errors_of(judged)
        crossing = {name: value for name, value in got.items() if name in self.layout.through[end]}
        if horizon > end and crossing and all(output.shape_ok for output in own.outputs):
            further, more = self._further(crossing, end, horizon)
            effect, said = max(effect, further), said + more
        elif not all(output.shape_ok for output in own.outputs):
            effect = math.inf
        return Outcome(effect, errors, said)

    def _further(self, crossing: Outputs, end: int, horizon: int) -> tuple[float, tuple[TensorError, ...]]:
        effect, said = 0.0, tuple[TensorError, ...]()
        names = self.layout.targets(end, horizon)
        self.reference.values(names)
        try:
            for portion in self.reference.continued(end, crossing, names):
                judged = compare(self.reference.values(list(portion)), portion, self.tolerance)
                effect, said = max(effect, effect_of(judged)), said + errors_of(judged)
        except ReferenceFails:  # it goes on from its own tensors, and cannot from these
            return math.inf, said
        return effect, said


def effect_of(report: ParityReport) -> float:
    """The largest error as a multiple of what is allowed; infinite where no number tells it."""
    return max(
        (math.inf if o.exceed is None else o.exceed for o in report.outputs if o.exceed or not o.passed), default=0.0
    )


def errors_of(report: ParityReport) -> tuple[TensorError, ...]:
    grade = report.grade
    return tuple(
        TensorError(
            o.name,
            None if o.nan else o.max_rel_scale,
            o.max_abs,
            grade,
            public(o.problem) if o.nan or not o.shape_ok or (o.max_rel_scale is None and not o.passed) else "",
        )
        for o in report.outputs
    )


def public_failure(failure: Failure) -> Failure:
    return replace(
        failure, message=public(failure.message), hint=public(failure.hint), log_tail=public(failure.log_tail)
    )


def _plain(outcome: Outcome) -> dict[str, Any]:
    """As JSON, which has no infinity."""
    return {**asdict(outcome), "effect": repr(outcome.effect)}


def _outcome(data: Mapping[str, Any]) -> Outcome:
    return Outcome(
        float(data["effect"]),
        tuple(TensorError(**error) for error in data["errors"]),
        tuple(TensorError(**error) for error in data["judged"]),
        Failure(**data["failure"]) if data["failure"] else None,
    )


def failed(error: BenchError, phase: str) -> WorkerError:
    """An error of a runner in this process, as one of a worker would be."""
    name = type(error).__name__
    return WorkerError(Failure(phase, name, error.message, error.hint, error=name))
