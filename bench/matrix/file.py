"""A matrix file, read and checked: every complaint names the line, and the nearest word that would do."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import UsageError
from bench.matrix import words
from bench.matrix.lines import Where, locate
from bench.matrix.words import CELL, OPTION, Refused, Value
from bench.registry import nearest

KINDS = ("model", "backend", "device")
TABLES = ("matrix", "defaults", *KINDS, "include", "exclude", "measure", "limits", "budget", "retry")


@dataclass(frozen=True, slots=True)
class Said:
    """A value and the line that says it."""

    value: Value
    line: int


# What is said of cells: by word, every value that it takes. Options of a backend's own are `options.NAME`.
Section = Mapping[str, tuple[Said, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One [[include]] or [[exclude]]."""

    section: Section
    line: int


@dataclass(frozen=True, slots=True)
class MatrixFile:
    """What a file says. `about`: of the cells of one model, backend or device alone, by kind and name."""

    name: str
    matrix: Section
    defaults: Section
    about: Mapping[tuple[str, str], Section]
    include: tuple[Rule, ...]
    exclude: tuple[Rule, ...]
    measure: Mapping[str, Said]
    limits: Mapping[str, Said]
    budget: Mapping[str, Said]
    retry: Mapping[str, Said]
    lines: Mapping[Where, int] = field(repr=False)

    def refuse(self, line: int, message: str, hint: str = "") -> UsageError:
        """An error that names the file and the line."""
        return UsageError(f"{self.name}, line {line}: {message}", hint)


def read(path: Path, phases: tuple[str, ...]) -> MatrixFile:
    """The file, checked as far as it can be without models, backends and devices. `phases`: those that have a limit.

    Raises:
        UsageError: it cannot be read, is not TOML, or says what nobody knows.
    """
    try:
        text = path.read_bytes().decode()
        data = tomllib.loads(text)
    except OSError as error:
        raise UsageError(f"the matrix file {path} cannot be read: {error.strerror}", "--example prints one") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path.name}, line {line}: this is not UTF-8 text") from error
    except tomllib.TOMLDecodeError as error:
        raise UsageError(f"{path.name} is not TOML: {error}", "see https://toml.io") from error
    return _Reader(path.name, data, locate(text)).file(phases)


class _Reader:
    def __init__(self, name: str, data: dict[str, Any], lines: Mapping[Where, int]) -> None:
        self._name, self._data, self._lines = name, data, lines

    def file(self, phases: tuple[str, ...]) -> MatrixFile:
        for key in self._data:
            if key not in TABLES:
                hint = "it belongs below [matrix]" if key in CELL or key == "options" else nearest(key, TABLES)
                raise self._refused((key,), f"there is no {key!r} here", hint)
        limits: dict[str, Callable[[Any], Value]] = dict.fromkeys(phases, words.SECONDS)
        return MatrixFile(
            name=self._name,
            matrix=self._section(("matrix",)),
            defaults=self._defaults(),
            about={
                (kind, name): self._about(kind, name)
                for kind in KINDS
                for name in self._table((kind,), f"[{kind}.NAME]")
            },
            include=self._rules("include"),
            exclude=self._rules("exclude"),
            measure=self._settings("measure", words.MEASURE),
            limits=self._settings("limits", limits),
            budget=self._settings("budget", words.BUDGET),
            retry=self._settings("retry", words.RETRY),
            lines=self._lines,
        )

    def _refused(self, where: Where, message: str, hint: str = "") -> UsageError:
        return UsageError(f"{self._name}, line {self._line(where)}: {message}", hint)

    def _line(self, where: Where) -> int:
        while where and where not in self._lines:
            where = where[:-1]
        return self._lines.get(where, 1)

    def _at(self, where: Where) -> Any:
        found: Any = self._data
        for key in where:
            if isinstance(found, dict) and key not in found:
                return {}
            found = found[key]
        return found

    def _table(self, where: Where, written: str) -> dict[str, Any]:
        found = self._at(where)
        if not isinstance(found, dict):
            raise self._refused(where, f"{where[-1]} is a table", f"write {written}")
        return found

    def _section(self, where: Where) -> Section:
        """What a table says of cells."""
        found: dict[str, tuple[Said, ...]] = {}
        for word in self._table(where, f"[{where[0]}]"):
            if word == "options":
                table = self._table((*where, word), f"[{'.'.join(str(w) for w in where)}.options]")
                for name in table:
                    found[OPTION + name] = self._values((*where, word, name), words.option, name)
            elif word in CELL:
                found[word] = self._values((*where, word), CELL[word], word)
            else:
                hint = (
                    f"write {word.removesuffix('s')}"
                    if word.removesuffix("s") in CELL
                    else nearest(word, (*CELL, "options"))
                )
                raise self._refused((*where, word), f"a cell has no {word!r}", hint)
        return found

    def _values(self, where: Where, check: Callable[[Any], Value], word: str) -> tuple[Said, ...]:
        """One value, or every one of a list."""
        value = self._at(where)
        if not isinstance(value, list):
            return (Said(self._checked(where, check, word), self._line(where)),)
        if not value:
            raise self._refused(where, f"{word} is an empty list: the product is empty", "name one, or leave it out")
        found: dict[Value, Said] = {}
        for number in range(len(value)):
            said = Said(self._checked((*where, number), check, word), self._line((*where, number)))
            # True == 1 in Python, not in TOML.
            if (first := found.get(said.value)) and type(first.value) is type(said.value):
                raise self._refused(
                    (*where, number), f"{word} {value[number]!r} is there already, in line {first.line}"
                )
            found[said.value] = said
        return tuple(found.values())

    def _checked(self, where: Where, check: Callable[[Any], Value], word: str) -> Value:
        try:
            return check(self._at(where))
        except Refused as error:
            raise self._refused(where, f"{word}: {error.message}", error.hint) from error

    def _defaults(self) -> Section:
        section = self._section(("defaults",))
        for word, values in section.items():
            if word in ("model", "backend"):
                raise self._refused(("defaults", word), f"a {word} is no default", "it belongs below [matrix]")
            if len(values) > 1:
                raise self._refused(("defaults", word), f"{word} has several defaults", "a list belongs below [matrix]")
        return section

    def _about(self, kind: str, name: str) -> Section:
        section = self._section((kind, name))
        for word in section:
            if word in KINDS:
                raise self._refused((kind, name, word), f"[{kind}.{name}] cannot choose a {word}", "use [[exclude]]")
        return section

    def _rules(self, kind: str) -> tuple[Rule, ...]:
        found = self._data.get(kind, [])
        if not isinstance(found, list) or not all(isinstance(rule, dict) for rule in found):
            raise self._refused((kind,), f"{kind} is a list of tables", f"write [[{kind}]]")
        rules = [Rule(self._section((kind, n)), self._line((kind, n))) for n in range(len(found))]
        for number, rule in enumerate(rules):
            if not rule.section:
                raise self._refused((kind, number), f"this [[{kind}]] says nothing", "name what it is about")
            for word in ("model", "backend") if kind == "include" else ():
                if word not in rule.section:
                    raise self._refused((kind, number), f"this [[include]] names no {word}", f'add {word} = "..."')
        return tuple(rules)

    def _settings(self, table: str, known: Mapping[str, Callable[[Any], Value]]) -> Mapping[str, Said]:
        found = {}
        for key in self._table((table,), f"[{table}]"):
            if key not in known:
                raise self._refused((table, key), f"[{table}] has no {key!r}", nearest(key, known))
            found[key] = Said(self._checked((table, key), known[key], key), self._line((table, key)))
        return found
