"""From a record back to the case that it is about."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import scan
from bench.errors import UsageError
from bench.interface import Options
from bench.measure.scenarios import Scenario
from bench.models import resolve
from bench.place import Place
from bench.record import Record
from bench.registry import complete_options
from bench.registry import find as find_backend
from bench.runner import Case


def find(identity: str, results: Path) -> Record:
    """The record whose id begins so, below the results folder.

    Raises:
        RecordError: none does, or several do.
    """
    return scan.by_id(identity, results / "records")


def asked(record: Record) -> dict[str, Any]:
    """The measuring options of `run` that it was measured with, by name; what it does not tell is absent."""
    evidence, plan = record.evidence, record.evidence.plan
    found: dict[str, Any] = {"trials": evidence.trials_wanted, "max_foreign_cpu": evidence.max_foreign_cpu}
    if evidence.trials_max is not None:
        found |= {"max_trials": evidence.trials_max, "target": evidence.target}
    if plan is not None:
        found |= {"min_count": plan.min_count, "min_time": plan.min_s, "max_time": plan.max_s}
        found["spread"] = plan.spread_s
    if record.parity:
        found["tolerance"] = record.parity.tolerance.name
    return found


def case(record: Record, model: str | None, where: Place) -> Case:
    """The recorded case, resolved anew. Records hold no paths, so a model that is not in the catalogue must be given.

    Raises:
        UsageError: the model is not the recorded one, or a file option cannot be known.
    """
    facts = record.case
    shapes = {name: tuple(shape) for name, shape in facts.model.shapes.items()}
    try:
        resolved = resolve(model or facts.model.name, where.cache, shapes=shapes, say=where.say)
    except UsageError as error:
        hint = "records hold no paths: give the model's path after the record's id"
        raise UsageError(error.message, error.hint if model else hint) from error
    if resolved.source_sha256 != facts.model.sha256:
        message = f"{facts.model.name} is not the recorded model any more (its hash is {resolved.source_sha256[:12]})"
        raise UsageError(message, f"the record is about {facts.model.sha256[:12]}")
    registered = find_backend(facts.backend)
    backend = registered.create()
    for option in backend.options:
        if option.kind == "file" and facts.options.extra.get(option.name):
            raise UsageError(
                f"the record used a file for {option.name}", "records hold no paths: use `deploybench run`"
            )
    given = {name: str(value) for name, value in facts.options.extra.items() if value is not None}
    options = Options(
        threads=facts.options.threads,
        precision=facts.options.precision,
        cpus=tuple(facts.options.cpus),
        extra=complete_options(backend, given),
    )
    scenario = Scenario(
        name=facts.options.scenario,  # type: ignore[arg-type]  # a scenario's name, as recorded
        streams=facts.options.streams,
        samples_per_query=facts.options.samples_per_query,
        rate=facts.options.rate,
        latency_bound_ns=facts.options.latency_bound_ns,
        soak_s=facts.options.soak_s,
    )
    return Case(resolved, registered, facts.device, options, facts.options.batch, scenario=scenario)
