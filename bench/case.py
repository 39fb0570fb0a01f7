"""A case, how it is to be measured, and what its first line says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench import record
from bench.artifacts import Prepared, identity
from bench.cache import key_of
from bench.errors import BenchError
from bench.interface import Options, OptionValue, Plan
from bench.measure.scenarios import Scenario
from bench.measure.stats import worth_a_look
from bench.models import Resolved
from bench.parity.compare import TOLERANCES, Tolerance
from bench.place import Place
from bench.plausible.operations import counted
from bench.plausible.peaks import Peaks
from bench.record import CaseFacts, CaseLine
from bench.redact import public
from bench.reference import NoiseFloor, Task, constant, doubts, moved, score
from bench.registry import Registered
from bench.store import Journal, now


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
    spread_s: float | None = None
    """Begin the wanted trials of a case evenly over so long: its interval holds for that time."""
    new_shapes: int = 0
    """Of so many input shapes that a session has not seen it is said what the first inference costs."""
    task: Task | None = None
    """What is counted on labelled inputs beside parity."""
    case_budget_s: float | None = None
    """Begin no further trial of a case that has taken so long, its preparation included."""


@dataclass(frozen=True, slots=True)
class Again:
    """An execution of a case that another takes the place of, and why."""

    id: str
    why: str


def plan_of(min_count: int, min_s: float, max_s: float, target: float | None) -> Plan:
    """What a trial does that measures so much at least, and so long at most. Its warm-up need not take longer."""
    usual, max_s = Plan(), max(max_s, min_s)
    least_s, most_s = min(usual.warmup_min_s, min_s), min(usual.warmup_max_s, max_s)
    return Plan(min_count, min_s, max_s, warmup_min_s=least_s, warmup_max_s=most_s, target=target)


def looks_at(case: Case, settings: Settings) -> tuple[int, ...]:
    """After how many quiet trials to look whether more are needed, the last number being the most that there may be.

    A soak is one process: noisy or not, nobody waits for another hour.
    """
    if case.scenario.soak_s is not None:
        return (1,)
    return worth_a_look(settings.trials, settings.max_trials)


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
            soak_s=case.scenario.soak_s,
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


def case_line(
    identity_: str, file: Journal, case: Case, settings: Settings, tolerance: Tolerance, again: Again | None
) -> CaseLine:
    """The first line of an execution, before anything is prepared."""
    default, looks = default_tolerance(case), looks_at(case, settings)
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
        trials_wanted=looks[0],
        target=settings.plan.target,
        trials_max=looks[-1],
        looks=list(looks),
        plan=record.PlanFacts(
            min_count=settings.plan.min_count,
            min_s=settings.plan.min_s,
            max_s=settings.plan.max_s,
            spread_s=settings.spread_s,
        ),
        max_foreign_cpu=settings.max_foreign_cpu,
        tolerance=record.ToleranceFacts(
            name=tolerance.name,
            rtol=tolerance.rtol,
            atol_of_scale=tolerance.atol_of_scale,
            reason=tolerance.reason,
            relaxed=relaxed,
        ),
        replaces=again.id if again else None,
        notes=[public(note) for note in (*case.resolved.notes, *([f"measured again: {again.why}"] if again else []))],
    )


def with_facts(line: CaseLine, resolved: Resolved, prepared: Prepared | None, noise: NoiseFloor) -> CaseLine:
    """With the reference that judges, and with what was loaded, if anything."""
    facts, tolerance = _reference_facts(resolved, noise), line.tolerance
    made = [public(prepared.doubt)] if prepared and prepared.doubt else []
    notes = [*line.notes, *made, *doubts(resolved, noise, tolerance.name, tolerance.atol_of_scale)]
    return msgspec.structs.replace(
        line, reference=facts, prepare=_prepare_facts(prepared) if prepared else None, notes=notes
    )


def with_task(line: CaseLine, case: Case, place: Place, task: Task | None) -> CaseLine:
    """With what the backend and the reference reach at the model's task. The case is measured without it, too."""
    if task is None:
        return line
    found = score(task, case.resolved, case.backend, case.options, place)
    facts = record.TaskFacts(
        metric=public(found.metric),
        samples=found.samples,
        value=found.value,
        reference=found.reference,
        reason=public(found.reason),
    )
    return msgspec.structs.replace(line, task=facts)


def with_work(line: CaseLine, case: Case, place: Place, peaks: Peaks) -> CaseLine:
    """With what the model computes and what the place can do at most. The case is measured without them, too.

    The place is asked even where the model multiplies nothing: it says how fast a core is that is left alone.
    """
    counts, found = None, None
    reasons = []
    try:
        counts = counted(case.resolved.model, place.cache)
        if not counts.macs:
            reasons.append("the model multiplies nothing that is counted")
    except BenchError as error:
        reasons.append(public(error.message))
    try:
        found = peaks.of(case.backend, case.options)
    except BenchError as error:
        reasons.append(public(error.message))
    return msgspec.structs.replace(
        line,
        counts=msgspec.convert(counts, record.CountFacts | None, from_attributes=True),
        peaks=msgspec.convert(found, record.PeakFacts | None),
        work_reason="; ".join(reasons),
    )


def _prepare_facts(prepared: Prepared) -> record.PrepareFacts:
    return record.PrepareFacts(
        seconds=prepared.seconds,
        cache=prepared.cache,  # type: ignore[arg-type]  # "hit", "miss" or "none"
        artefact_bytes=prepared.size_bytes,
        artefact_sha256=prepared.sha256,
        converter=dict(prepared.converter),
    )


def _reference_facts(resolved: Resolved, noise: NoiseFloor) -> record.ReferenceFacts | None:
    """Who computed the outputs of its data sets, each named once; outputs that came without words are `as supplied`."""
    known = [d for d in resolved.data_sets if d.expected is not None and d.provenance is not None]
    made = {d.provenance for d in known if d.provenance}
    if not made:
        return None
    versions = {p.producer: p.version for p in made}
    producers = sorted(versions, key=lambda name: (bool(versions[name]), name))  # who has no version comes first
    seeds = {p.seed for p in made}
    return record.ReferenceFacts(
        producer=public(" and ".join(producers)),
        version=public(" and ".join(versions[name] for name in producers if versions[name])),
        settings=public("; ".join(sorted({p.settings for p in made if p.settings}))),
        sha256=key_of([d.sha256 for d in known]),
        moved=moved(resolved),
        precision=public(" and ".join(sorted({p.precision for p in made if p.precision}))),
        seed=seeds.pop() if len(seeds) == 1 else None,
        noise=[msgspec.convert(n, record.NoiseFacts, from_attributes=True) for n in noise.outputs],
        noise_reason=public(noise.reason),
        constant=constant(resolved),
    )
