"""Finds records in run files without reading what it need not: samples are decoded for the records asked for alone.

A table of a history of 100,000 records shows a few hundred. To know which, the case lines suffice: one in eight, and
none with samples. Memory does not grow with a file: records are made one after the other from where their lines stand.
As by `bench.store`, a last line that was cut is passed over, `on_cut` is told, and what was measured again is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from bench.errors import RecordError
from bench.record import SCHEMA, Line, Record
from bench.store import decoded, folded, opened, run_files, whole_lines

# A re-run says in its notes which record it was to confirm: it is a second look at that night and no night of its own.
CONFIRMS = "confirms "
# How `bench.record.encode_line` begins the lines that are not a case's: these need no look inside.
_OTHERS = (b'{"type":"trial",', b'{"type":"slice",', b'{"type":"end",')


class _Glance(msgspec.Struct):
    """What tells a line's record; all else in it is passed over."""

    type: str = ""
    schema: int = 0
    id: str = ""
    cell: str = ""
    machine: str = ""
    started_at: str = ""
    replaces: str | None = None
    notes: list[str] = []


@dataclass(frozen=True, slots=True, order=True)
class Found:
    """Where a record is, and what it is of. Sorted by age; of one second, by the order in the files.

    `confirms`: it is but a second look at another record.
    """

    started_at: str
    number: int
    path: Path
    id: str
    machine: str
    cell: str
    confirms: bool = False


OnCut = Callable[[str], None]


def find(paths: Iterable[Path], on_cut: OnCut = lambda message: None) -> list[Found]:
    """Every record of run files, by its case line alone, in their order.

    Raises:
        RecordError: a file cannot be read, or a case line is unreadable or of another schema; the message names it.
    """
    found: list[Found] = []
    again: set[str | None] = set()
    for path in paths:
        for number, _, text in whole_lines(path, on_cut):
            if not text.startswith(_OTHERS):
                line = _glance(path, number, text)
                if line.type == "case":
                    confirms = any(note.startswith(CONFIRMS) for note in line.notes)
                    found.append(Found(line.started_at, len(found), path, line.id, line.machine, line.cell, confirms))
                    again.add(line.replaces)
    return [f for f in found if f.id not in again]


def by_id(identity: str, results: Path) -> Record:
    """The record whose id begins so.

    Raises:
        RecordError: none does, or several do.
    """
    found = [one for one in find(run_files([results])) if one.id.startswith(identity)]
    if len(found) == 1:
        return next(read(found[0].path, {found[0].id}))
    if not found:
        raise RecordError(f"no record in {results} begins with {identity!r}", "`deploybench report --json` lists them")
    ids = ", ".join(one.id for one in found[:5])
    raise RecordError(
        f"{len(found)} records begin with {identity!r}", f"give more of one: {ids}{', …' * (len(found) > 5)}"
    )


def newest(
    paths: Iterable[Path], on_cut: OnCut = lambda message: None, *, before: bool = False
) -> tuple[list[Record], list[Record]]:
    """Of each cell on each machine the newest record, in the order of their first appearance; and the one `before` it.

    A record that was but to confirm another is none of these.

    Raises:
        RecordError: as `find`, or one of these records' own lines is unreadable.
    """
    cells: dict[tuple[str, str], list[Found]] = {}
    for found in find(paths, on_cut):
        if not found.confirms:
            cells.setdefault((found.machine, found.cell), []).append(found)
    pairs = [sorted(of_cell)[-2 if before else -1 :] for of_cell in cells.values()]
    made = dict(_read(found for pair in pairs for found in pair))
    return [made[pair[-1]] for pair in pairs], [made[pair[0]] for pair in pairs if len(pair) > 1]


def _read(wanted: Iterable[Found]) -> Iterator[tuple[Found, Record]]:
    by_path: dict[Path, dict[str, Found]] = {}
    for found in wanted:
        by_path.setdefault(found.path, {})[found.id] = found
    for path, of_path in by_path.items():
        for record in read(path, of_path.keys()):
            yield of_path[record.id], record


def read(path: Path, ids: Set[str] | None = None, on_cut: OnCut = lambda message: None) -> Iterator[Record]:
    """The records of a run file one after the other, in the order in which their cases were begun; of `ids` alone.

    Raises:
        RecordError: the file cannot be read, or one of these records' lines.
    """
    places: dict[str, list[tuple[int, int]]] = {}
    begun: dict[str, str | None] = {}
    for number, offset, text in whole_lines(path, on_cut):
        line = _glance(path, number, text)
        if ids is None or line.id in ids:
            places.setdefault(line.id, []).append((number, offset))
            if line.type == "case":
                begun[line.id] = line.replaces
    if strays := sorted(set(places) - set(begun)):
        raise RecordError(f"{path} has lines of the case {strays[0]}, but not its first", "lines were taken out of it")
    again = set(begun.values())
    with opened(path) as file:
        for identity in begun:
            if identity not in again:
                yield from folded((path, _line_at(file, path, *place)) for place in places[identity])


def _line_at(file: BinaryIO, path: Path, number: int, offset: int) -> Line:
    file.seek(offset)
    return decoded(path, number, file.readline())


_DECODER = msgspec.json.Decoder(_Glance)


def _glance(path: Path, number: int, text: bytes) -> _Glance:
    try:
        line = _DECODER.decode(text)
    except msgspec.MsgspecError:
        line = _Glance()
    if line.schema != SCHEMA or not line.id:
        decoded(path, number, text)  # says what is wrong with it
    return line
