"""A matrix as the command line runs it: read, resolved and split; its journal; what it prints before and after."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.cache import Cache
from bench.cli import matrix_cases, tables
from bench.cli.matrix_progress import Watcher
from bench.errors import UsageError
from bench.evidence import environment
from bench.matrix import cells, execute, journal, shard
from bench.matrix.execute import Rules
from bench.matrix.expected import Expected, by_plan, expected
from bench.matrix.file import MatrixFile
from bench.preparation import Preparation
from bench.record import Record
from bench.report import words
from bench.store import new_run, read_run


class Planned:
    """A matrix that was read, resolved and split: what may still go wrong goes wrong in a cell."""

    def __init__(self, read: MatrixFile, part: tuple[int, int], settings: Mapping[str, Any], watcher: Watcher) -> None:
        self._read, self._part, self._watcher = read, part, watcher
        self._results: Path = settings["results"]
        self.measuring = matrix_cases.measuring(read)
        self._settings = matrix_cases.settings(read, self.measuring)
        found = cells.cells(read, matrix_cases.options_of)
        self._matrix = matrix_cases.matrix(read, found, Cache(settings["cache_dir"]), watcher.say)
        self._machine = environment.collect().machine
        seconds = {cell: by_plan(case, self._settings, cores=1) for cell, case in self._matrix.cases.items()}
        parts = shard.split(seconds, part[1])
        self._planned = [
            journal.Planned(cell=key, title=self._matrix.cells[key].title, device=case.device, shard=parts[key])
            for key, case in self._matrix.cases.items()
        ]
        measure = {key: said.value for key, said in read.measure.items()}
        self._hash = journal.matrix_of(self._planned, measure)

    def run(self, resume_with: str, *, resume: bool) -> list[Record]:
        """Measure what is left, and give the records of the whole run."""
        ours, came = self._journal(resume=resume)
        left = came.left(ours)
        if came.done:
            self._say(f"run {ours.run}: {len(came.done)} of {len(ours.mine)} cells are done, {len(left)} are left")
        rules = self._rules()
        self._expect(left, rules.budget_s)
        begin = time.monotonic()
        try:
            with execute.Files(self._results, ours.run, self._say) as files:
                run = execute.Run(
                    files=files,
                    settings=self._settings,
                    rules=rules,
                    machine=self._machine,
                    watch=self._watcher,
                    again=dict(came.again),
                    preparation=Preparation(),
                    begin=begin,
                )
                execute.execute([self._matrix.cases[c.cell] for c in left], self._matrix.places, run)
        except BaseException:
            self._say(f"what has ended is kept; to go on: {resume_with}")
            raise
        by_cell = {r.cell: r for r in read_run(journal.run_files(self._results, ours.run))}
        return [by_cell[c.cell] for c in ours.mine if c.cell in by_cell]

    def _say(self, message: str) -> None:
        self._watcher.say("", message)

    def _rules(self) -> Rules:
        said = {**{f"budget {k}": v for k, v in self._read.budget.items()}, **self._read.retry}
        values = {key: float(str(value.value)) for key, value in said.items()}
        usual = Rules()
        return Rules(
            budget_s=values.get("budget total"),
            retries=int(values.get("times", usual.retries)),
            retry_wait_s=values.get("wait", usual.retry_wait_s),
        )

    def _journal(self, *, resume: bool) -> tuple[journal.Journal, journal.Progress]:
        """The journal of the run that is taken up, or of a new one, and how far it came."""
        last = journal.last(self._results, self._read.name, self._part)
        came = journal.progress(self._results, last.run, self._say) if last else None
        if resume and last and came and last.matrix == self._hash:
            if last.machine != self._machine:
                message = f"run {last.run} was begun on {last.machine}, and this is {self._machine}"
                raise UsageError(message, "take it up there, or begin a new one without --resume")
            return last, came
        if last and came and (left := came.left(last)):
            told = f"run {last.run} has {len(left)} of {len(last.mine)} cells left"
            if resume:
                changed = journal.difference(last, self._planned)
                raise UsageError(
                    f"{told}, but {self._read.name} is not the matrix of that run any more: {changed}",
                    "undo that, or begin a new run without --resume",
                )
            self._say(f"{told}; this is a new run (--resume would have taken that one up)")
        elif resume:
            self._say("there is no run of this matrix to take up: a new one begins")
        made = journal.plan(new_run(), self._hash, self._read.name, self._machine, self._part, self._planned)
        journal.write(self._results, made)
        return made, journal.Progress(frozenset(), {})

    def _expected(self, left: Sequence[journal.Planned]) -> dict[str, Expected]:
        cases = {c.cell: self._matrix.cases[c.cell] for c in left}
        return expected(cases, self._settings, self._results)

    def _expect(self, left: Sequence[journal.Planned], budget_s: float | None) -> None:
        found = self._expected(left)
        self._watcher.expect({c.cell: (c.device, c.title, found[c.cell].seconds) for c in left}, budget_s)

    def show(self, *, as_json: bool) -> None:
        """Print the cells of this part, and how long they are expected to take."""
        mine = [c for c in self._planned if c.shard == self._part[0]]
        found = self._expected(mine)
        if as_json:
            for c in mine:
                took = found[c.cell]
                facts = {"cell": c.cell, "title": c.title, "device": c.device, "shard": c.shard}
                line = self._matrix.cells[c.cell].line("model")
                more = {"line": line, "expected_s": round(took.seconds, 3), "recorded": took.recorded}
                click.echo(json.dumps({**facts, **more}))
            return
        rows = []
        for c in mine:
            took = found[c.cell]
            said = words.duration(took.seconds) if took.recorded else f"at most {words.duration(took.seconds)}"
            rows.append([c.cell, c.title, said, "record" if took.recorded else "plan"])
        tables.show(["cell", "what", "expected", "from"], rows)
        self._say(self._summary(mine, found))

    def _summary(self, mine: Sequence[journal.Planned], found: Mapping[str, Expected]) -> str:
        devices: dict[str, list[Expected]] = {}
        for c in mine:
            devices.setdefault(c.device, []).append(found[c.cell])
        lines = []
        for device, each in devices.items():
            known = [e.seconds for e in each if e.recorded]
            others = [e.seconds for e in each if not e.recorded]
            parts = [f"{words.duration(sum(known))} for {_count(known)} by their last records"] if known else []
            parts += [f"at most {words.duration(sum(others))} for {_count(others)} by the plan"] if others else []
            lines.append(f"{device}: {', '.join(parts)}")
        part, of = self._part
        whole = f" (shard {part} of {of}, {len(self._planned)} in all)" if of > 1 else ""
        together = "devices work at the same time; conversions that are not in the cache come on top"
        head = f"{_count(mine)}{whole} on {len(devices)} device{'s' * (len(devices) != 1)}; {together}"
        return "\n".join([head, *lines])


def _count(found: Sequence[object]) -> str:
    return f"{len(found)} cell{'s' * (len(found) != 1)}"
