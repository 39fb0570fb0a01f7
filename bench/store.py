"""Run files: appended line by line, each on the disk before the next thing starts; read back and folded."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import BenchError, RecordError
from bench.fold import fold
from bench.record import CaseLine, EndLine, Line, Record, TrialLine, decode_line, encode_line


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run() -> str:
    """A name for a run that sorts by time and collides with no other."""
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}"


class RunFile:
    """One run's journal, open for appending. Its file is new: two runs never share one."""

    def __init__(self, results: Path, machine: str, run: str) -> None:
        self.machine, self.run = machine, run
        self.path = results / "records" / machine / f"{run}.jsonl"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
            _keep_name(self.path.parent)
        except FileExistsError as error:
            raise BenchError(f"{self.path} exists already: a run's file is written once", "run again") from error
        except OSError as error:
            hint = "choose another folder with --results"
            raise BenchError(f"the results folder {results} cannot be written: {error.strerror}", hint) from error

    def append(self, line: Line) -> None:
        """Write one line and wait until the disk has it. A line that does not fit is taken back whole.

        Raises:
            BenchError: the disk is full or gone.
        """
        data = memoryview(encode_line(line) + b"\n")
        size = os.fstat(self._fd).st_size
        try:
            while data:
                data = data[os.write(self._fd, data) :]
            os.fsync(self._fd)
        except OSError as error:
            # Should even this fail, the line is a last one that was cut, which readers leave out.
            with suppress(OSError):
                os.ftruncate(self._fd, size)
            hint = "free some space; what was written before is kept"
            raise BenchError(f"{self.path} cannot be written: {error.strerror}", hint) from error

    def close(self) -> None:
        """Close the file; one that holds nothing is removed. Calling it again does nothing."""
        if self._fd < 0:
            return
        empty = os.fstat(self._fd).st_size == 0
        os.close(self._fd)
        self._fd = -1
        if empty:
            self.path.unlink(missing_ok=True)

    def __enter__(self) -> RunFile:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _keep_name(folder: Path) -> None:
    """Put a new file's name on the disk too. Some network file systems refuse; there is no more to do then."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_lines(path: Path) -> Iterator[Line]:
    """The lines of a run file. A last line that was cut by a kill or a power loss is left out.

    Raises:
        RecordError: the file cannot be read, or one of its other lines; the message names the line.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error
    *whole, _cut = data.split(b"\n")
    for number, text in enumerate(whole, start=1):
        if text.strip():
            try:
                yield decode_line(text)
            except RecordError as error:
                raise RecordError(f"{path}, line {number}: {error.message}", error.hint) from error


def read_records(path: Path) -> list[Record]:
    """The records of a run file, in the order in which their cases were begun.

    Raises:
        RecordError: as `read_lines`.
    """
    cases: dict[str, CaseLine] = {}
    trials: dict[str, list[TrialLine]] = {}
    ends: dict[str, EndLine] = {}
    for line in read_lines(path):
        if isinstance(line, CaseLine):
            cases[line.id] = line
        elif isinstance(line, TrialLine):
            trials.setdefault(line.id, []).append(line)
        else:
            ends[line.id] = line
    if strays := sorted({*trials, *ends} - set(cases)):
        raise RecordError(f"{path} has lines of the case {strays[0]}, but not its first", "lines were taken out of it")
    return [fold(case, trials.get(key, []), ends.get(key)) for key, case in cases.items()]


def run_files(paths: list[Path]) -> list[Path]:
    """The run files among files and folders (searched whole), oldest first.

    Raises:
        RecordError: a path does not exist.
    """
    found: set[Path] = set()
    for path in paths:
        if path.is_dir():
            found |= set(path.rglob("*.jsonl"))
        elif path.exists():
            found.add(path)
        else:
            raise RecordError(f"there is no {path}", "give run files, or a folder that holds them")
    return sorted(found, key=lambda p: (p.name, str(p)))


def find(identity: str, results: Path) -> Record:
    """The record whose id begins so.

    Raises:
        RecordError: none does, or several do.
    """
    found = [r for path in run_files([results]) for r in read_records(path) if r.id.startswith(identity)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise RecordError(f"no record in {results} begins with {identity!r}", "`deploybench report --json` lists them")
    ids = ", ".join(r.id for r in found[:5])
    raise RecordError(
        f"{len(found)} records begin with {identity!r}", f"give more of one: {ids}{', …' * (len(found) > 5)}"
    )
