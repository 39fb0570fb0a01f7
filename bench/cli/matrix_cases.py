"""From the cells of a matrix file to cases: devices named, models resolved, options checked, before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import click

from bench.cache import Cache
from bench.cli import asked, chosen, run
from bench.cli.scenario import parse
from bench.errors import BenchError
from bench.matrix.cells import Cell
from bench.matrix.file import MatrixFile
from bench.matrix.words import OPTION
from bench.models import Resolved, resolve
from bench.place import Limits, Place
from bench.registry import Registered, find
from bench.runner import Case, Settings, case_facts, cell_of

SCENARIO = ("scenario", "streams", "samples_per_query", "rate", "latency_bound", "soak")


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix that can be run: cases and what they were in the file, by cell, in the file's order."""

    cases: Mapping[str, Case]
    cells: Mapping[str, Cell]
    places: Mapping[str, Place]


def options_of(backend: str) -> frozenset[str]:
    """The names of a backend's options.

    Raises:
        UsageError: there is no such backend.
        BackendUnavailable: it is broken.
    """
    return frozenset(option.name for option in find(backend).create().options)


def measuring(file: MatrixFile) -> dict[str, Any]:
    """The options of `run` that say how to measure: [measure] has the same names, so they are read by the same code.

    Raises:
        UsageError: a value that `run` would refuse as well.
    """
    cause: Exception
    flags = {key: f"--{key.replace('_', '-')}" for key in file.measure}
    argv = [part for key, said in file.measure.items() for part in (flags[key], str(said.value))]
    try:
        with run.command.make_context("run", ["model", *argv]) as context:  # in it, what was given can be told
            asked.check(context.params)
            run.thoroughness(context.params)
            return context.params
    except click.ClickException as error:
        text, hint, cause = error.format_message(), "", error
    except BenchError as error:
        text, hint, cause = error.message, error.hint, error
    named = [file.measure[key].line for key, flag in flags.items() if flag in text]
    line = min(named or [said.line for said in file.measure.values()])
    raise file.refuse(line, f"[measure] {text}", hint) from cause


def settings(file: MatrixFile, given: dict[str, Any]) -> Settings:
    """How thoroughly to measure."""
    made: Settings = run.thoroughness(given)
    budget = file.budget.get("cell")
    return made if budget is None else replace(made, case_budget_s=float(str(budget.value)))


def limits(file: MatrixFile) -> Limits:
    """How long phases may take."""
    return Limits(**{phase: float(str(said.value)) for phase, said in file.limits.items()})


def matrix(file: MatrixFile, cells: Sequence[Cell], cache: Cache, say: Any) -> Matrix:
    """Every cell as a case. `say(device, message)` is told what takes a while.

    Raises:
        UsageError: what cannot be run, with its line.
    """
    made = _Making(file, cache, say)
    cases: dict[str, Case] = {}
    of: dict[str, Cell] = {}
    libraries = made.files(cells)
    for cell in cells:
        case = made.case(cell, libraries[str(cell["model"])])
        key = cell_of(case_facts(case))
        if key in of:
            first, line = of[key].line("model"), cell.line("model")
            message = f"duplicated cell: {cell.title} is the same as {of[key].title} of line {first}"
            raise file.refuse(line, message, "the same model, backend, device and options; take one away")
        cases[key], of[key] = case, cell
    return Matrix(cases, of, {place.device: place for place in made.places.values()})


class _Making:
    """Makes cases, each model and each device once."""

    def __init__(self, file: MatrixFile, cache: Cache, say: Any) -> None:
        self._file, self._cache, self._say = file, cache, say
        self._limits = limits(file)
        self._resolved: dict[tuple[object, ...], Resolved] = {}
        self._backends: dict[str, Registered] = {}
        self.places: dict[str, Place] = {}

    def files(self, cells: Sequence[Cell]) -> dict[str, dict[str, str]]:
        """By model, the file options of its cells: whoever judges needs them too."""
        found: dict[str, dict[str, str]] = {str(cell["model"]): {} for cell in cells}
        for cell in cells:
            for name in chosen.file_options(self._backend(cell)):
                if OPTION + name in cell.words:
                    found[str(cell["model"])][name] = str(cell[OPTION + name])
        return found

    def case(self, cell: Cell, files: Mapping[str, str]) -> Case:
        """The case of a cell."""
        place = self._place(cell)
        with self._line(cell, *SCENARIO[::-1]):
            scenario = parse({name: _text(cell, name) for name in SCENARIO})
        backend = self._backend(cell)
        options = [word for word in cell.words if word.startswith(OPTION)]
        wanted = chosen.Wanted(
            threads=int(str(cell["threads"])),
            precision=str(cell["precision"]),
            batch=int(str(cell["batch"])) if "batch" in cell.words else None,
            shapes=(),
            extra=[f"{backend.name}:{word.removeprefix(OPTION)}={_plain(cell[word])}" for word in options],
            cpus=None,
            scenario=scenario,
        )
        with self._line(cell, *options, "backend"):
            chosen.options_of([backend], wanted, place)
        with self._line(cell, "cpus"):
            given = chosen.options_of([backend], replace(wanted, cpus=_text(cell, "cpus")), place)[backend.name]
        return Case(self._model(cell, wanted.batch), backend, place.device, given, wanted.batch, files, scenario)

    def _backend(self, cell: Cell) -> Registered:
        name = str(cell["backend"])
        if name not in self._backends:
            with self._line(cell, "backend"):
                self._backends[name] = find(name)
        return self._backends[name]

    def _place(self, cell: Cell) -> Place:
        name = str(cell["device"])
        if name not in self.places:
            with self._line(cell, "device"):
                self.places[name] = chosen.place(name, self._cache, lambda m: self._say(name, m), self._limits)
        return self.places[name]

    def _model(self, cell: Cell, batch: int | None) -> Resolved:
        shapes = cell["shapes"] if "shapes" in cell.words else ()
        key = (cell["model"], shapes, batch)
        if key not in self._resolved:
            with self._line(cell, "model"):
                self._resolved[key] = resolve(
                    str(cell["model"]),
                    self._cache,
                    shapes=dict(shapes) if isinstance(shapes, tuple) else {},
                    batch=batch,
                    say=lambda message: self._say("", message),
                )
        return self._resolved[key]

    @contextmanager
    def _line(self, cell: Cell, *words: str) -> Iterator[None]:
        """What is refused inside is refused with the line of the first of these words."""
        try:
            yield
        except BenchError as error:
            model = str(cell["model"])
            message = error.message if "model" not in words or model in error.message else f"{model}: {error.message}"
            raise self._file.refuse(cell.line(*words), message, error.hint) from error


def _text(cell: Cell, word: str) -> str | None:
    return _plain(cell[word]) if word in cell.words else None


def _plain(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
