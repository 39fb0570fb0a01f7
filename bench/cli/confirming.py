"""Measures cells again whose newest record looks changed: a second look, by fresh processes, of the same thing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cache import Cache
from bench.cli import chosen, recorded, run
from bench.cli.progress import Reporter
from bench.compare.cells import Pair
from bench.errors import BenchError
from bench.evidence import environment
from bench.place import Place
from bench.record import Record
from bench.runner import Case, run_cases
from bench.scan import CONFIRMS
from bench.store import new_run

# More cells than these do not change by themselves in one night: then it is the machine, or a version, and re-runs of
# the gravest tell as much.
MOST = 12


def again(
    pairs: Sequence[Pair], *, results: Path, cache: Cache, models: Sequence[str], budget_s: float, reporter: Reporter
) -> list[Pair]:
    """The pairs, each with its re-run, or with the reason why there is none."""
    end = time.monotonic() + budget_s
    found = []
    for number, pair in enumerate(pairs):
        new = pair.new
        if new is None:
            continue
        reason = f"only the {MOST} gravest are measured again" if number >= MOST else _elsewhere(new)
        if not reason and time.monotonic() > end:
            reason = "the time for re-runs is spent"
        if reason:
            found.append(replace(pair, not_again=reason))
            continue
        reporter.say(f"{new.case.model.name} on {new.case.backend} looks changed: measuring it again")
        try:
            found.append(replace(pair, again=_measured(new, results, cache, models, end, reporter)))
        except BenchError as error:
            found.append(replace(pair, not_again=f"it could not be measured again: {error.message}"))
    return found


def _elsewhere(new: Record) -> str:
    """Why this machine cannot look again; empty where it can. What is reached by ssh says so itself."""
    ours = new.case.device == "local" or new.case.device.startswith("fake")
    if ours and new.machine != environment.collect().machine:
        return f"it was measured on {new.machine}, which is not this machine"
    return ""


def _measured(
    new: Record, results: Path, cache: Cache, models: Sequence[str], end: float, reporter: Reporter
) -> Record:
    where = chosen.place(new.case.device, cache, reporter.say)
    case = recorded.case(new, _path(new, models), where)
    resolved = replace(case.resolved, notes=(*case.resolved.notes, f"{CONFIRMS}{new.id}"))
    return _run(replace(case, resolved=resolved), where, new, results, end, reporter)


def _run(case: Case, where: Place, new: Record, results: Path, end: float, reporter: Reporter) -> Record:
    """As thoroughly as the first look, with as many trials and no more: then neither look decides about the other."""
    trials = max(new.evidence.trials_wanted, len(new.latency.trial_p50_ns) if new.latency else 0)
    asked = {**run.command.make_context("run", ["model"]).params, **recorded.asked(new)}
    (record,) = run_cases(
        [case],
        where,
        run.thoroughness({**asked, "trials": trials, "max_trials": trials}),
        results=results,
        machine=new.machine,
        run=new_run(),
        progress=reporter,
        ends_at=end,
    )
    return record


def _path(new: Record, models: Sequence[str]) -> str | None:
    """Of the models that were given the one of the record's name; None leaves it to the catalogue."""
    name = new.case.model.name
    return next((m for m in models if name in (Path(m).stem, Path(m).name)), None)
