"""How long cells will take: as long as they took, where there are records of them, else what their plan allows."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.errors import RecordError
from bench.matrix.execute import blocks, by_device
from bench.measure.scenarios import longest_s
from bench.record import CaseLine, TrialLine
from bench.runner import Case, Settings
from bench.store import read_lines

# The newest files are looked at, and no more: a start must not slow with history.
FILES = 200
# What a trial takes beside warm-up and measurement: two processes, an import, the link. Source: measured on a 2-core
# x86-64 virtual machine, 2026-11 (0.4-0.8 s for small models).
AROUND_S = 1.0


@dataclass(frozen=True, slots=True)
class Expected:
    """Seconds of a cell, and whether they come from a record of it."""

    seconds: float
    recorded: bool


def by_plan(case: Case, settings: Settings, cores: int | None = None) -> float:
    """What the plan allows a case: every trial that is wanted takes all the time that it may.

    `cores`: of the machine, this one's if None; it matters where parallel streams are tried.
    """
    if case.scenario.soak_s is not None:
        return AROUND_S + settings.plan.warmup_max_s + case.scenario.soak_s
    if case.scenario.name == "single-stream":
        each = settings.plan.warmup_max_s + settings.plan.max_s
    else:
        each = longest_s(case.scenario, settings.plan, cores or os.cpu_count() or 1)
    return settings.trials * (AROUND_S + each)


def expected(cases: Mapping[str, Case], settings: Settings, results: Path) -> dict[str, Expected]:
    """By cell. Records count if they had as many trials as are wanted now.

    Where trials are spread over a time, a block of cells takes no less than that, and each its part of it.
    """
    took = recorded(cases, results / "records", settings.trials)
    spread_s = settings.spread_s or 0.0
    together = [block for found in by_device(cases.values()).values() for block in blocks(found)]
    least = {id(case): spread_s / len(block) for block in together for case in block}
    return {
        cell: Expected(max(took.get(cell, by_plan(case, settings)), least[id(case)]), cell in took)
        for cell, case in cases.items()
    }


def recorded(cells: Collection[str], records: Path, trials: int) -> dict[str, float]:
    """How many seconds cells took the last time, from the newest files that tell."""
    found: dict[str, float] = {}
    files = sorted(records.rglob("*.jsonl"), key=lambda p: (p.name, str(p)), reverse=True)[:FILES]
    for path in files:
        if len(found) == len(cells):
            break
        for cell, seconds in _took(path, cells, trials).items():
            found.setdefault(cell, seconds)
    return found


def _took(path: Path, cells: Collection[str], trials: int) -> dict[str, float]:
    try:
        named = {text.decode() for text in re.findall(rb'"cell":"([0-9a-f]{16})"', path.read_bytes())}
        if named.isdisjoint(cells):
            return {}
        lines = list(read_lines(path))
    except (OSError, RecordError):
        return {}  # whoever reads the records themselves says what is wrong with them
    wanted = {line.id: line for line in lines if isinstance(line, CaseLine) and line.cell in cells}
    spent: dict[str, list[float]] = {}
    for line in lines:
        if isinstance(line, TrialLine) and line.id in wanted:
            spent.setdefault(line.id, []).append(_seconds(line))
    return {
        case.cell: sum(spent[key]) + (case.prepare.seconds if case.prepare else 0.0)
        for key, case in wanted.items()
        if key in spent and case.trials_wanted == trials
    }


def _seconds(trial: TrialLine) -> float:
    """What a trial took, from the phases that it tells of."""
    cold = trial.cold
    parts: Iterable[float | None] = (cold.start_s, cold.import_s, cold.load_s, cold.first_run_s) if cold else ()
    measured = trial.observed.seconds if trial.observed else (trial.bracket_ns or 0) / 1e9
    waited = trial.waited.waited_s if trial.waited else 0.0
    return sum(p or 0.0 for p in parts) + measured + waited
