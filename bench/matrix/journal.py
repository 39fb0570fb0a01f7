"""The journal of matrix runs: what each set out to do. How far it came stands in the records, and nowhere else.

`results/matrix/<run>.json` is written whole before anything is measured, and never again. A cell of the run is done
once its records hold an `end` line for it; one without is measured anew, and its record takes the old one's place: all
trials of a record come from one process, one boot and one set of versions. So a kill can lose the trials of the cells
that were on their way (one block per device), and nothing else.

One matrix run at a time works on a results folder: `results/matrix/lock` is held until the process ends, however it
ends, and says who holds it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.cache import key_of
from bench.errors import BenchError, RecordError, UsageError
from bench.record import CaseLine, EndLine
from bench.runner import Again
from bench.store import keep_name, now, read_lines

SCHEMA = 1
FOLDER = "matrix"


class Planned(msgspec.Struct, frozen=True, kw_only=True):
    """One cell of a matrix: its hash, what it is in words, and the shard that measures it."""

    cell: str
    title: str
    device: str
    shard: int = 1


class Journal(msgspec.Struct, frozen=True, kw_only=True):
    """What a run set out to do. `matrix` is a hash of all cells and of how they are measured; `shard` is i of n."""

    schema: int
    run: str
    matrix: str
    file: str
    machine: str
    started_at: str
    shard: tuple[int, int]
    cells: list[Planned]

    @property
    def mine(self) -> list[Planned]:
        """The cells of this shard."""
        return [cell for cell in self.cells if cell.shard == self.shard[0]]


def matrix_of(cells: Sequence[Planned], measure: Mapping[str, object]) -> str:
    """The hash of a matrix: the same cells, measured as thoroughly, are the same matrix, in whatever order."""
    return key_of([sorted(c.cell for c in cells), dict(measure)])[:16]


def plan(run: str, matrix: str, file: str, machine: str, shard: tuple[int, int], cells: Sequence[Planned]) -> Journal:
    """The journal of a run that begins now."""
    return Journal(
        schema=SCHEMA,
        run=run,
        matrix=matrix,
        file=file,
        machine=machine,
        started_at=now(),
        shard=shard,
        cells=list(cells),
    )


def write(results: Path, journal: Journal) -> Path:
    """Put the journal on the disk, whole or not at all.

    Raises:
        BenchError: the results folder cannot be written.
    """
    path = results / FOLDER / f"{journal.run}.json"
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(msgspec.json.format(msgspec.json.encode(journal), indent=1) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        part.rename(path)
        keep_name(path.parent)
    except OSError as error:
        hint = "choose another folder with --results"
        raise BenchError(f"the results folder {results} cannot be written: {error.strerror}", hint) from error
    return path


def read(path: Path) -> Journal:
    """A journal.

    Raises:
        RecordError: it cannot be read, or is of a newer version.
    """
    try:
        data = path.read_bytes()
        if msgspec.json.decode(data, type=dict).get("schema") != SCHEMA:
            raise RecordError(f"{path} is of another version than this one reads", "use a newer deploybench")
        return msgspec.json.decode(data, type=Journal)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    except msgspec.MsgspecError as error:
        raise RecordError(f"{path} is no journal of a matrix run: {error}") from error


def last(results: Path, file: str, shard: tuple[int, int]) -> Journal | None:
    """The newest journal of a matrix file and shard. No older one is read than it takes to find it.

    Raises:
        RecordError: as `read`.
    """
    paths = sorted((results / FOLDER).glob("*.json"), reverse=True)
    return next((j for path in paths if (j := read(path)).file == file and j.shard == shard), None)


def difference(journal: Journal, cells: Sequence[Planned]) -> str:
    """In words, what of a matrix is not as it was."""
    was, now_ = {c.cell: c.title for c in journal.cells}, {c.cell: c.title for c in cells}
    new = [title for cell, title in now_.items() if cell not in was]
    gone = [title for cell, title in was.items() if cell not in now_]
    found = []
    for titles, what in ((new, "new"), (gone, "gone")):
        if titles:
            verb = "cell is" if len(titles) == 1 else "cells are"
            found.append(f"{len(titles)} {verb} {what} ({titles[0]}{', ...' * (len(titles) > 1)})")
    return " and ".join(found) or "[measure] says otherwise"


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run came: the cells that are done, and the executions of others that were left on their way."""

    done: frozenset[str]
    again: Mapping[str, Again]

    def left(self, journal: Journal) -> list[Planned]:
        """The cells of the run that are not done."""
        return [cell for cell in journal.mine if cell.cell not in self.done]


def run_files(results: Path, run: str) -> list[Path]:
    """The files of a run: one per machine."""
    return sorted((results / "records").glob(f"*/{run}.jsonl"))


def progress(results: Path, run: str, on_cut: Callable[[str], None] = lambda message: None) -> Progress:
    """How far a run came. A cell that was left out because a budget was spent is not done.

    Raises:
        RecordError: its records cannot be read.
    """
    cases: dict[str, CaseLine] = {}
    ends: dict[str, EndLine] = {}
    tried: set[str] = set()
    for path in run_files(results, run):
        for line in read_lines(path, on_cut):
            if isinstance(line, CaseLine):
                cases[line.id] = line
            elif isinstance(line, EndLine):
                ends[line.id] = line
            else:
                tried.add(line.id)
    replaced = {case.replaces for case in cases.values()}
    done: set[str] = set()
    again: dict[str, Again] = {}
    for key, case in cases.items():
        end = ends.get(key)
        if end and (key in tried or end.error):
            done |= set() if key in replaced else {case.cell}
        elif key not in replaced:
            again[case.cell] = Again(key, end.stopped_by if end else "the run was interrupted")
    return Progress(frozenset(done), again)


@contextmanager
def locked(results: Path, holder: str) -> Iterator[None]:
    """Have the results folder to ourselves; the kernel gives it back when we end, however we end.

    Raises:
        UsageError: another matrix run has it.
        BenchError: the folder cannot be written.
    """
    path = results / FOLDER / "lock"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        hint = "choose another folder with --results"
        raise BenchError(f"the results folder {results} cannot be written: {error.strerror}", hint) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            who = os.pread(descriptor, 1000, 0).decode("utf-8", "replace").strip() or "another process"
            message = f"another matrix run works on {results}: {who}"
            raise UsageError(message, "wait until it ends, or give this one another folder with --results") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.encode(), 0)
        yield
    finally:
        os.close(descriptor)
