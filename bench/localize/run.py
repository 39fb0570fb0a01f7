"""A search from begin to end: is there anything to find, where is it, and how does it get to the outputs?"""

from __future__ import annotations

import errno
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench import __version__, onnxfile
from bench.errors import BenchError
from bench.held import hold
from bench.interface import Options, Outputs
from bench.localize import folder
from bench.localize.layout import lay_out
from bench.localize.located import Located, Point, Subject, Verdict
from bench.localize.parts import Parts, Reference, ReferenceFails, is_answer
from bench.localize.probe import Outcome, Prober, effect_of, errors_of, public_failure
from bench.localize.runners import BackendRunner, KeptNotes, ReferenceRunner, facts_of
from bench.localize.search import Finding, Trace, search
from bench.parity.compare import Tolerance, compare
from bench.parity.sense import not_finite
from bench.place import Place
from bench.reference import judges
from bench.registry import Registered, complete_options
from bench.runner import Case, default_tolerance
from bench.scratch import Scratch
from bench.worker.client import WorkerError
from bench.worker.libc import trim

# Tensors behind a culprit whose inherited error is worked out, evenly spread where there are more.
_POINTS = 120


@dataclass(frozen=True, slots=True)
class Settings:
    """How to search. `most`: how many culprits. `again`: ask anew what an earlier search has answered."""

    tolerance: Tolerance | None = None
    most: int = 5
    again: bool = False
    output: Path | None = None
    say: Callable[[str], None] = field(default=lambda message: None)


class _Doubt(Exception):
    """The reference cannot judge this model."""


def localize(case: Case, place: Place, settings: Settings) -> Located:
    """Where the backend's answers go wrong.

    Raises:
        UsageError: the model cannot be searched (a circle in its graph).
        BenchError: no runtime can judge it, or the machine or the link to it failed.
    """
    scratch = Scratch("deploybench-localize-")
    try:
        return _Search(case, place, settings, scratch.path).run()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        hint = "free some, or set TMPDIR to a folder with several times the model's size"
        raise BenchError(f"no space left for the parts of the model in {scratch.path.parent}", hint) from error
    finally:
        scratch.remove()


class _Search:
    """Gathers what is learnt on the way."""

    def __init__(self, case: Case, place: Place, settings: Settings, scratch: Path) -> None:
        self._case, self._place, self._settings = case, place, settings
        self._model = case.resolved.model
        self._begin = time.monotonic()
        file = onnxfile.read(self._model.path)
        nodes = onnxfile.nodes(file)
        self._layout = lay_out(nodes, self._model.signature, onnxfile.weights(file), onnxfile.types(file))
        self._parts = Parts(onnxfile.light(file, scratch / "model"), self._layout, scratch)
        self._judge, self._judge_options = _judge(case.files)
        self._reference = ReferenceRunner(place, self._judge, self._judge_options)
        self._backend = BackendRunner(place, case.backend, case.options)
        self._tolerance = settings.tolerance or default_tolerance(case)
        self._notes = list(case.resolved.notes)
        self._feed = 0
        if self._layout.unused:
            names = ", ".join(node.label for node in self._layout.unused[:3])
            self._notes.append(f"{len(self._layout.unused)} nodes are read by nothing, and were left out: {names}")

    def run(self) -> Located:
        trim()  # converters come next
        if doubt := self._backend.prepare(self._model):
            self._notes.append(doubt)
        backend = self._case.backend
        with hold(self._place, backend, purpose=f"search on {backend.name}") as (place, staying):
            self._backend.hold(place, staying)
            self._reference.hold(place)
            try:
                return self._run()
            except _Doubt as doubt:
                return self._located("doubtful", f"{doubt}: no node is accused", Outcome())

    def _run(self) -> Located:
        say = self._settings.say
        say(f"{self._model.name}: {self._layout.end} nodes; reference by {self._judge.name}")
        references = [self._judged(index) for index in range(len(self._case.resolved.data_sets))]
        say(f"running the whole model on {self._case.backend.name}")
        try:
            got = self._whole()
        except WorkerError as error:
            if not is_answer(error):
                raise
            return self._find(references[0], Outcome(math.inf, failure=public_failure(error.failure)))
        if unstable := self._unstable(got):
            return unstable
        reports = [
            compare(reference.values(self._layout.outputs), outputs, self._tolerance)
            for reference, outputs in zip(references, got, strict=False)
        ]
        effects = [effect_of(report) for report in reports]
        self._feed = max(range(len(effects)), key=effects.__getitem__)
        report = reports[self._feed]
        whole = Outcome(effects[self._feed], errors_of(report), errors_of(report))
        if all(report.passed for report in reports):
            return self._located("agrees", f"it agrees with the reference within {self._tolerance.name}", whole)
        return self._find(references[self._feed], whole)

    def _judged(self, index: int) -> Reference:
        """The reference for one set of feeds, once it is fit to judge.

        Raises:
            _Doubt: it is not.
        """
        data = self._case.resolved.data_sets[index]
        parts = Parts(self._parts.file, self._layout, self._parts.folder / f"feeds{index}")
        reference = Reference(parts, self._reference, data.feeds)
        try:
            expected = reference.values(self._layout.outputs)
        except ReferenceFails as error:
            raise _Doubt(f"the reference fails on this model itself: {error.message}") from error
        if odd := not_finite([expected]):
            raise _Doubt(f"the reference's output {', '.join(odd)} holds NaN or infinity")
        if data.expected is not None:
            against = compare(data.expected, expected, self._tolerance)
            if not against.passed:
                who = data.provenance.producer if data.provenance else "the model's own data set"
                raise _Doubt(f"{who} and {self._reference.version} contradict each other ({against.problem})")
        return reference

    def _whole(self) -> list[Outputs]:
        """The model's outputs for each set of feeds, and for the first once more."""
        feeds = [data.feeds for data in self._case.resolved.data_sets]
        return self._backend.runs(self._model, [*feeds, feeds[0]])

    def _unstable(self, got: list[Outputs]) -> Located | None:
        """Whether two runs differ, and whether by too much for anything to be searched."""
        again = compare(got[0], got[-1], Tolerance("exact", 0.0, 0.0, ""))
        if again.passed:
            return None
        differ = f"two runs with the same inputs differ by {again.max_rel_scale or math.inf:.2g} of scale"
        report = compare(got[0], got[-1], self._tolerance)
        if report.passed:
            self._notes.append(differ)
            return None
        return self._located("unstable", f"{differ}: no node is accused", Outcome(effect_of(report), errors_of(report)))

    def _find(self, reference: Reference, whole: Outcome) -> Located:
        notes = KeptNotes(self._place.cache, self._facts(), f"{self._model.name} on {self._case.backend.name}")
        prober = Prober(self._parts, self._backend, reference, self._tolerance, None if self._settings.again else notes)
        end = self._layout.end
        if whole.failure and self._layout.unused and not prober.probe(0, end, end).failure:
            text = f"it fails only with the nodes that no output needs: {whole.failure.message}"
            return self._written(self._located("unresolved", text, whole, probes=prober.prepared), reference)
        reference.foresee()
        found, trace = search(prober, whole, most=self._settings.most, say=self._settings.say)
        self._notes += trace.notes
        verdict, summary = _verdict(found, whole, self._tolerance)
        points = self._points(prober, found, trace)
        located = self._located(verdict, summary, whole, found, points, prober.prepared)
        return self._written(located, reference)

    def _written(self, located: Located, reference: Reference) -> Located:
        if self._settings.output is None:
            return located
        backend = self._case.backend.create()
        output, limits = self._settings.output, self._place.limits
        notes = folder.write(output, located, self._parts, reference, backend, self._tolerance, limits)
        return replace(located, notes=[*located.notes, *notes])

    def _facts(self) -> dict[str, object]:
        data = self._case.resolved.data_sets[self._feed]
        return {
            **facts_of(self._case.backend, self._model, self._case.options, self._backend.runtimes),
            "feeds": data.sha256,
            "tolerance": [self._tolerance.rtol, self._tolerance.atol_of_scale],
            "reference": self._reference.version,
            "device": self._case.device,
            "harness": __version__,
        }

    def _points(self, prober: Prober, found: Sequence[Finding], trace: Trace) -> list[Point]:
        points = []
        for place, outcome in sorted(trace.measured.items()):
            for error in outcome.errors:
                at = self._layout.made.get(error.name, place)
                points.append(Point(at, error.name, self._maker(at), "measured", error.relative))
        first = next((f for f in found if f.blamed and f.kind != "failure"), None)
        if first is not None:
            points += self._inherited(prober, first)
        once = {(point.place, point.tensor, point.how): point for point in points}
        return sorted(once.values(), key=lambda p: (p.place, p.how))

    def _inherited(self, prober: Prober, finding: Finding) -> list[Point]:
        """What the culprit's error becomes further down: the reference, going on from the culprit's output."""
        self._settings.say("following its error through the rest of the model")
        try:
            got = prober.outputs(finding.start, finding.end, last_only=finding.last_only)
        except WorkerError:
            return []
        expected = prober.reference.values(list(got))
        points = [self._point(name, expected, got, "own") for name in got]
        crossing = {name: value for name, value in got.items() if name in self._layout.through[finding.end]}
        same_type = all(
            isinstance(v, np.ndarray) and v.dtype == getattr(expected[n], "dtype", None) for n, v in crossing.items()
        )
        if not crossing or not same_type:
            return points
        names = [node.outputs[0] for node in self._layout.nodes[finding.end :]]
        step = max(1, math.ceil(len(names) / _POINTS))
        try:
            for portion in prober.reference.continued(finding.end, crossing, names[::-step][::-1]):
                wanted = prober.reference.values(list(portion))
                points += [self._point(name, wanted, portion, "inherited") for name in portion]
        except ReferenceFails as error:
            self._notes.append(f"the error could not be followed to the end: {error.message}")
        return points

    def _point(self, name: str, expected: Outputs, got: Outputs, how: str) -> Point:
        report = compare({name: expected[name]}, got, self._tolerance)
        place = self._layout.made.get(name, 0)
        return Point(place, name, self._maker(place), how, errors_of(report)[0].relative)  # type: ignore[arg-type]

    def _maker(self, place: int) -> str:
        return self._layout.nodes[place - 1].label if place else "input"

    def _located(
        self,
        verdict: Verdict,
        summary: str,
        whole: Outcome,
        found: Sequence[Finding] = (),
        points: Sequence[Point] = (),
        probes: int = 0,
    ) -> Located:
        case = self._case
        told = ("cpu", "cores", "arch", "os", "kernel", "python")
        subject = Subject(
            model=self._model.name,
            sha256=case.resolved.source_sha256,
            opset=self._model.opset,
            nodes=self._layout.end,
            backend=case.backend.name,
            device=case.device,
            options={"threads": case.options.threads, **case.options.extra},
            precision=case.options.precision,
            tolerance=self._tolerance.name,
            feed=self._feed,
            runtimes={**self._backend.runtimes, **self._backend.converter},
            environment={name: self._backend.environment[name] for name in told if name in self._backend.environment}
            or {"arch": platform.machine(), "python": platform.python_version()},
            reference=f"{self._reference.version}, {_settings_words(self._judge_options, self._judge)}",
            deploybench=__version__,
        )
        seconds = time.monotonic() - self._begin
        return Located(verdict, summary, subject, whole, found, points, self._notes, probes, seconds)


def _verdict(found: Sequence[Finding], whole: Outcome, tolerance: Tolerance) -> tuple[Verdict, str]:
    blamed = [finding for finding in found if finding.blamed]
    if blamed:
        names = "; ".join(" + ".join(node.label for node in finding.nodes[:4]) for finding in blamed)
        return "located", names
    kinds = {finding.kind for finding in found}
    if "spread" in kinds:
        return "spread", "the error is spread over the graph: no node makes most of it, they add up"
    if "rounding" in kinds:
        return "rounding", "the model makes honest float32 rounding large: no node is off by more than that"
    if "order" in kinds:
        names = ", ".join(finding.nodes[0].label for finding in found if finding.kind == "order")
        return "order", f"{names} picks by comparison, and a near tie turned over: no node is at fault"
    if whole.failure:
        return "unresolved", f"its parts do not fail as it does: {whole.failure.message}"
    return "unresolved", f"it is {whole.effect:.3g} times what {tolerance.name} allows, and its parts are not"


def _judge(files: Mapping[str, str]) -> tuple[Registered, Options]:
    for judge in judges():
        backend = judge.create()
        known = {option.name for option in backend.options if option.kind == "file"}
        settings = {name: str(value) for name, value in (backend.reference or {}).items()}
        settings |= {name: path for name, path in files.items() if name in known}
        return judge, Options(extra=complete_options(backend, settings))
    raise BenchError("no installed backend may judge others", 'pip install "deploybench[cpu]"')


def _settings_words(options: Options, judge: Registered) -> str:
    wanted = judge.create().reference or {}
    return ", ".join(f"{name} {options.extra[name]}" for name in wanted) or "as it is"
