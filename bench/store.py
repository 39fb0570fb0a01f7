"""Run files: appended line by line, each on the disk before the next thing starts; read back and folded."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from bench.errors import BenchError, RecordError
from bench.fold import fold
from bench.record import CaseLine, EndLine, Line, Record, SliceLine, TrialLine, decode_line, encode_line


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def new_run() -> str:
    """A name for a run that sorts by time and collides with no other."""
    return f"{datetime.now(UTC).strftime('%Y%m%dT%H%M%SZ')}-{secrets.token_hex(4)}"


class Journal(Protocol):
    """Where the lines of a run go: its file, or whoever passes them on to it."""

    machine: str
    run: str

    def append(self, line: Line) -> None:
        """Take one line."""


class RunFile:
    """One run's journal, open for appending by any thread. Its file is new, unless `resume` says that it may not be.

    Every line is on the disk when `append` returns: at most the last one can be lost, or cut, by a power loss. Of a
    file that is taken up again a cut end is moved beside it (`<run>.jsonl.<where>.cut`) and named in `cut`.
    """

    def __init__(self, results: Path, machine: str, run: str, *, resume: bool = False) -> None:
        self.machine, self.run = machine, run
        self.path = results / "records" / machine / f"{run}.jsonl"
        self.cut: Path | None = None
        self._appending = threading.Lock()
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | (0 if resume else os.O_EXCL)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, flags, 0o644)
            self._take_off_cut()
            keep_name(self.path.parent)
        except FileExistsError as error:
            raise BenchError(f"{self.path} exists already: a run's file is written once", "run again") from error
        except OSError as error:
            hint = "choose another folder with --results"
            raise BenchError(f"the results folder {results} cannot be written: {error.strerror}", hint) from error

    def _take_off_cut(self) -> None:
        """Keep the end of a line that was cut, out of the way of the next. Interrupted, it is done again."""
        left = [(offset, text) for _, offset, text, whole in _lines(self.path) if not whole]
        if not left:
            return
        whole = left[0][0]
        self.cut = self.path.with_name(f"{self.path.name}.{whole}.cut")
        with self.cut.open("wb") as file:
            file.writelines(text for _, text in left)
            os.fsync(file.fileno())
        keep_name(self.path.parent)
        os.ftruncate(self._fd, whole)
        os.fsync(self._fd)

    def append(self, line: Line) -> None:
        """Write one line and wait until the disk has it. A line that does not fit is taken back whole.

        A `case` line is not waited for: it is nothing without the lines that come after it, which carry it along.

        Raises:
            BenchError: the disk is full or gone, or the file is closed.
        """
        data = memoryview(encode_line(line) + b"\n")
        try:
            self._write(data)
            if not isinstance(line, CaseLine):
                os.fsync(self._fd)  # outside the lock: what several threads wait for is on its way once
        except OSError as error:
            hint = "free some space; what was written before is kept"
            raise BenchError(f"{self.path} cannot be written: {error.strerror}", hint) from error

    def _write(self, data: memoryview) -> None:
        with self._appending:
            if self._fd < 0:
                raise BenchError(f"{self.path} is closed")
            size = os.fstat(self._fd).st_size
            try:
                while data:
                    data = data[os.write(self._fd, data) :]
            except OSError:
                # Should even this fail, the line is a last one that was cut, which readers leave out.
                with suppress(OSError):
                    os.ftruncate(self._fd, size)
                raise

    def close(self) -> None:
        """Close the file, never within a line; one that holds nothing is removed. Calling it again does nothing."""
        with self._appending:
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


def keep_name(folder: Path) -> None:
    """Put a new file's name on the disk too. Some network file systems refuse; there is no more to do then."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _lines(path: Path) -> Iterator[tuple[int, int, bytes, bool]]:
    """Number, offset and text of every line, and whether it is whole.

    A power loss may leave zeros where the last line should be, newline and all: our lines never hold one.
    """
    offset = 0
    with opened(path) as file:
        size = os.fstat(file.fileno()).st_size
        for number, text in enumerate(file, start=1):
            last = offset + len(text) >= size
            yield number, offset, text, text.endswith(b"\n") and not (last and b"\0" in text)
            offset += len(text)


def opened(path: Path) -> BinaryIO:
    """The file, for reading.

    Raises:
        RecordError: it cannot be opened.
    """
    try:
        return path.open("rb", buffering=1 << 20)
    except OSError as error:
        raise RecordError(f"{path} cannot be read: {error.strerror}") from error


def whole_lines(path: Path, on_cut: Callable[[str], None] = lambda message: None) -> Iterator[tuple[int, int, bytes]]:
    """Number, offset and text of a run file's lines, but for blank ones; `on_cut` is told of a last one that was cut.

    Raises:
        RecordError: the file cannot be read.
    """
    for number, offset, text, whole in _lines(path):
        if not whole:
            on_cut(f"{path}: the last line was cut after {len(text)} bytes and is passed over; the others count")
        elif not text.isspace():
            yield number, offset, text


def decoded(path: Path, number: int, text: bytes) -> Line:
    """A line of a run file.

    Raises:
        RecordError: it cannot be read; the message names it.
    """
    try:
        return decode_line(text)
    except RecordError as error:
        raise RecordError(f"{path}, line {number}: {error.message}", error.hint) from error


def read_lines(path: Path, on_cut: Callable[[str], None] = lambda message: None) -> Iterator[Line]:
    """The lines of a run file. A last line that was cut by a kill or a power loss is left out; `on_cut` is told of it.

    Raises:
        RecordError: the file cannot be read, or one of its other lines; the message names the line.
    """
    for number, _, text in whole_lines(path, on_cut):
        yield decoded(path, number, text)


def read_records(path: Path, on_cut: Callable[[str], None] = lambda message: None) -> list[Record]:
    """The records of a run file, in the order in which their cases were begun. What was measured again does not count.

    Raises:
        RecordError: as `read_lines`.
    """
    return read_run([path], on_cut)


def read_run(paths: Iterable[Path], on_cut: Callable[[str], None] = lambda message: None) -> list[Record]:
    """The records of one run over all its files, as `read_records`.

    Raises:
        RecordError: as `read_lines`.
    """
    lines = ((path, line) for path in paths for line in read_lines(path, on_cut))
    return folded(lines)


def folded(lines: Iterable[tuple[Path, Line]]) -> list[Record]:
    """The records of these lines of run files, in the order in which their cases were begun.

    Raises:
        RecordError: as `read_lines`, or a case's first line is not among them.
    """
    cases: dict[str, CaseLine] = {}
    trials: dict[str, list[TrialLine]] = {}
    slices: dict[str, list[SliceLine]] = {}
    ends: dict[str, EndLine] = {}
    paths: dict[str, Path] = {}
    for path, line in lines:
        paths.setdefault(line.id, path)
        if isinstance(line, CaseLine):
            cases[line.id] = line
        elif isinstance(line, TrialLine):
            trials.setdefault(line.id, []).append(line)
        elif isinstance(line, SliceLine):
            slices.setdefault(line.id, []).append(line)
        else:
            ends[line.id] = line
    if strays := sorted(set(paths) - set(cases)):
        where = f"{paths[strays[0]]} has lines of the case {strays[0]}, but not its first"
        raise RecordError(where, "lines were taken out of it")
    again = {case.replaces for case in cases.values()}
    return [
        fold(case, trials.get(key, []), ends.get(key), slices.get(key, []))
        for key, case in cases.items()
        if key not in again
    ]


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
