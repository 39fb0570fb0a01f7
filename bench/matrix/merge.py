"""Joining the shards of a matrix: the same matrix, every cell once, and what is missing."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import BenchError, RecordError, UsageError
from bench.matrix.journal import FOLDER, Journal, Planned, difference, progress, read, run_files
from bench.record import Record
from bench.store import keep_name, read_run


@dataclass(frozen=True, slots=True)
class Part:
    """A shard's results folder and the newest run in it."""

    folder: Path
    journal: Journal


@dataclass(frozen=True, slots=True)
class Merged:
    """The records of a whole matrix in its order, and the cells that have none, with the reason."""

    records: list[Record]
    missing: list[tuple[Planned, str]]


def parts(folders: Sequence[Path]) -> list[Part]:
    """The shards in these results folders, in their order.

    Raises:
        UsageError: they are not shards of one matrix, or one is there twice.
        RecordError: a folder holds no matrix run.
    """
    found = [Part(folder, _newest(folder)) for folder in dict.fromkeys(f.absolute() for f in folders)]
    first = found[0]
    by_shard: dict[int, Part] = {}
    for part in found:
        if part.journal.matrix != first.journal.matrix:
            message = f"{part.folder} and {first.folder} are not of the same matrix"
            raise UsageError(message, f"in the former {difference(first.journal, part.journal.cells)}")
        if part.journal.shard[1] != first.journal.shard[1]:
            message = (
                f"{part.folder} is one of {part.journal.shard[1]} shards, {first.folder} of {first.journal.shard[1]}"
            )
            raise UsageError(message, "split all alike")
        number = part.journal.shard[0]
        if number in by_shard and by_shard[number].journal.run != part.journal.run:
            message = f"shard {number} is there twice: in {by_shard[number].folder} and in {part.folder}"
            raise UsageError(message, "give one of them")
        by_shard.setdefault(number, part)
    return [by_shard[number] for number in sorted(by_shard)]


def _newest(folder: Path) -> Journal:
    paths = sorted((folder / FOLDER).glob("*.json"))
    if not paths:
        raise RecordError(f"there is no matrix run in {folder}", "give the folders that --results named")
    return read(paths[-1])


def merged(found: Sequence[Part], on_cut: Callable[[str], None]) -> Merged:
    """The records of the shards.

    Raises:
        RecordError: records cannot be read, or a cell has two of them.
    """
    records: dict[str, Record] = {}
    done: set[str] = set()
    for part in found:
        done |= progress(part.folder, part.journal.run).done
        for record in read_run(run_files(part.folder, part.journal.run), on_cut):
            if record.cell in records:
                what = f"{record.case.model.name} on {record.case.backend}"
                message = f"two records of {what}: {records[record.cell].id} and {record.id}"
                raise RecordError(message, f"the second is in {part.folder}")
            records[record.cell] = record
    whole = found[0].journal
    given = {part.journal.shard[0] for part in found}
    missing = [
        (cell, f"shard {cell.shard} did not come to it" if cell.shard in given else f"shard {cell.shard} was not given")
        for cell in whole.cells
        if cell.cell not in done
    ]
    return Merged([records[c.cell] for c in whole.cells if c.cell in records], missing)


def copy(found: Sequence[Part], target: Path) -> None:
    """Put journals and run files of the shards into one results folder; what is there already stays.

    Raises:
        RecordError: another file of the same name is there.
        BenchError: the folder cannot be written.
    """
    for part in found:
        run = part.journal.run
        for path in [*run_files(part.folder, run), part.folder / FOLDER / f"{run}.json"]:
            _copy(path, target / path.relative_to(part.folder))


def _copy(source: Path, target: Path) -> None:
    try:
        data = source.read_bytes()
        there = target.read_bytes() if target.exists() else b""
        if there and not data.startswith(there):
            raise RecordError(
                f"{target} is there already, and holds something else than {source}", "choose an empty folder"
            )
        if there == data:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f"{target.name}.part")
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(target)
        keep_name(target.parent)
    except OSError as error:
        raise BenchError(f"{source} cannot be copied to {target}: {error.strerror}") from error
