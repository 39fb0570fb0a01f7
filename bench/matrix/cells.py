"""From what a matrix file says to its cells: the product, what is taken out of it, what is added to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bench.errors import UsageError
from bench.matrix.file import KINDS, MatrixFile, Rule, Said, Section
from bench.matrix.words import CELL, OPTION, PLAIN, Value, told
from bench.registry import nearest


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell as the file asks for it: what is said of it, and the line that says it (0: nobody; it is usual)."""

    words: Mapping[str, Said] = field(hash=False)

    def __getitem__(self, word: str) -> Value:
        return self.words[word].value

    def line(self, *words: str) -> int:
        """The line of the first of these words that the file says itself."""
        return next((self.words[w].line for w in words if w in self.words and self.words[w].line), 1)

    @property
    def title(self) -> str:
        """As a person reads it: `squeezenet on ncnn, rpi5, 2 threads`."""
        order = [*CELL, *(word for word in self.words if word not in CELL)]
        said = {w: self[w] for w in order if w in self.words and self[w] != PLAIN.get(w)}
        where = [str(said["device"])] if "device" in said else []
        more = [told(word, value) for word, value in said.items() if word not in KINDS]
        return ", ".join([f"{said['model']} on {said['backend']}", *where, *more])


def cells(file: MatrixFile, options_of: Callable[[str], frozenset[str]]) -> tuple[Cell, ...]:
    """Every cell of the file, models outermost. `options_of`: the options of a backend, by its name.

    Raises:
        UsageError: no cell is left, two are the same, or rules contradict each other.
    """
    _check_names(file)
    _check_options(file, options_of)
    made = list(_product(file, options_of))
    for rule in file.exclude:
        _exclude(file, rule, made)
    kept = [cell for cell in made if not any(_matches(rule, cell) for rule in file.exclude)]
    if made and not kept and not file.include:
        raise file.refuse(file.exclude[0].line, "every cell is excluded: the product is empty")
    for rule in file.include:
        kept += _included(file, rule, options_of)
    if not kept:
        raise file.refuse(1, "the product is empty: there is no [matrix] and no [[include]]", "--example prints a file")
    _check_distinct(file, kept)
    return tuple(kept)


def _product(file: MatrixFile, options_of: Callable[[str], frozenset[str]]) -> Iterator[Cell]:
    if not file.matrix:
        return
    for kind in ("model", "backend"):
        if kind not in file.matrix:
            line = file.lines.get(("matrix",), 1)
            raise file.refuse(line, f"the product is empty: [matrix] names no {kind}", f'add {kind} = ["..."]')
    devices = file.matrix.get("device") or file.defaults.get("device") or (Said(PLAIN["device"], 0),)
    for model, backend, device in itertools.product(file.matrix["model"], file.matrix["backend"], devices):
        rest = {word: values for word, values in file.matrix.items() if word not in KINDS}
        yield from _spread(file, {"model": model, "backend": backend, "device": device}, rest, options_of)


def _spread(
    file: MatrixFile,
    fixed: Mapping[str, Said],
    said: Section,
    options_of: Callable[[str], frozenset[str]],
    own: Section | None = None,
) -> Iterator[Cell]:
    """Every combination of what is said of a model on a backend on a device; `own` outweighs all."""
    section: dict[str, tuple[Said, ...]] = {**file.defaults, **said, **_about(file, fixed), **(own or {})}
    known = options_of(str(fixed["backend"].value))
    for word in [w for w in section if w in KINDS or (w.startswith(OPTION) and w.removeprefix(OPTION) not in known)]:
        del section[word]
    usual = {word: Said(value, 0) for word, value in PLAIN.items()}
    for values in itertools.product(*section.values()):
        yield Cell(
            {**fixed, **{w: s for w, s in usual.items() if w not in fixed}, **dict(zip(section, values, strict=True))}
        )


def _about(file: MatrixFile, fixed: Mapping[str, Said]) -> dict[str, tuple[Said, ...]]:
    """What [model.X], [backend.X] and [device.X] say of these cells; no two of them may say the same word."""
    found: dict[str, tuple[Said, ...]] = {}
    by: dict[str, str] = {}
    for kind in KINDS:
        name = str(fixed[kind].value)
        for word, values in file.about.get((kind, name), {}).items():
            if word in found:
                first = f"[{by[word]}] (line {found[word][0].line})"
                message = f"{word} is said by {first} and by [{kind}.{name}], of the same cells"
                raise file.refuse(values[0].line, message, "say it in one of them, and use [[exclude]] for the rest")
            found[word], by[word] = values, f"{kind}.{name}"
    return found


def _included(file: MatrixFile, rule: Rule, options_of: Callable[[str], frozenset[str]]) -> list[Cell]:
    found: list[Cell] = []
    devices = rule.section.get("device") or file.defaults.get("device") or (Said(PLAIN["device"], 0),)
    for model, backend, device in itertools.product(rule.section["model"], rule.section["backend"], devices):
        fixed = {"model": model, "backend": backend, "device": device}
        found += _spread(file, fixed, {}, options_of, own=rule.section)
    for cell in found:
        for out in file.exclude:
            if _matches(out, cell):
                message = f"this [[include]] adds {cell.title}, which the [[exclude]] of line {out.line} takes out"
                raise file.refuse(rule.line, message, "contradictory rules: take one of them away")
    return found


def _matches(rule: Rule, cell: Cell) -> bool:
    return all(word in cell.words and cell[word] in [s.value for s in values] for word, values in rule.section.items())


def _exclude(file: MatrixFile, rule: Rule, made: list[Cell]) -> None:
    """An exclude that takes nothing out is a slip."""
    if any(_matches(rule, cell) for cell in made):
        return
    for word, values in rule.section.items():
        there = {cell[word]: None for cell in made if word in cell.words}
        if not any(v.value in there for v in values):
            said = ", ".join(str(v.value) for v in values)
            hint = nearest(str(values[0].value), [str(v) for v in there]) if there else f"no cell says {word!r}"
            raise file.refuse(values[0].line, f"this [[exclude]] takes nothing out: no cell has {word} {said}", hint)
    raise file.refuse(rule.line, "this [[exclude]] takes nothing out: no cell is all of that")


def _check_names(file: MatrixFile) -> None:
    """[model.X] is about a model of the matrix, and so on."""
    for kind, name in file.about:
        sections = [file.matrix, file.defaults, *(rule.section for rule in file.include)]
        there = [str(s.value) for section in sections for s in section.get(kind, ())]
        if kind == "device":
            there.append("local")
        if name not in there:
            line = file.lines[(kind, name)]
            raise file.refuse(line, f"[{kind}.{name}] is about no {kind} of this matrix", nearest(name, there))


def _check_options(file: MatrixFile, options_of: Callable[[str], frozenset[str]]) -> None:
    """Every option is known to a backend that it may be for."""
    every = [file.matrix, *(rule.section for rule in file.include)]
    backends = [s for section in every for s in section.get("backend", ())]
    known: dict[str, frozenset[str]] = {}
    for backend in backends:
        try:
            known[str(backend.value)] = options_of(str(backend.value))
        except UsageError as error:
            raise file.refuse(backend.line, error.message, error.hint) from error
    everyone = list(known)
    asked = [(file.matrix, everyone), (file.defaults, everyone)]
    asked += [(section, [name] if kind == "backend" else everyone) for (kind, name), section in file.about.items()]
    asked += [
        (r.section, [str(s.value) for s in r.section.get("backend", ())] or everyone)
        for r in (*file.include, *file.exclude)
    ]
    for section, takers in asked:
        for word, values in section.items():
            name = word.removeprefix(OPTION)
            theirs = frozenset[str]().union(*(known.get(b, frozenset()) for b in takers))
            if word.startswith(OPTION) and name not in theirs:
                hint = nearest(name, theirs) if theirs else "they take none"
                raise file.refuse(values[0].line, f"none of {', '.join(takers)} has an option {name!r}", hint)


def _check_distinct(file: MatrixFile, found: list[Cell]) -> None:
    seen: dict[tuple[tuple[str, Value], ...], Cell] = {}
    for cell in found:
        key = tuple(sorted((w, s.value) for w, s in cell.words.items()))
        if first := seen.get(key):
            lines = first.line("model"), cell.line("model")
            raise file.refuse(lines[1], f"duplicated cell: {cell.title} is there already, by line {lines[0]}")
        seen[key] = cell
