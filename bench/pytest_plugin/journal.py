"""What tests write down, and when: nothing before it is known that there is something to tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import BenchError
from bench.record import Line
from bench.store import RunFile


class Files:
    """The files of a run, one per machine, each made when its first line is written.

    `start`: where pytest was started.
    """

    def __init__(self, results: Path, run: str, start: Path) -> None:
        self._results, self.run, self._start = results, run, start
        self._made: dict[str, RunFile] = {}

    def of(self, machine: str) -> RunFile:
        """The file for records of that machine. Fails the test where it cannot be written."""
        if machine not in self._made:
            try:
                self._made[machine] = RunFile(self._results, machine, self.run)
            except BenchError as error:
                text = f"{error.message}; choose another folder with --deploybench-results=DIR"
                raise pytest.fail.Exception(text, pytrace=False) from None
        return self._made[machine]

    def shown(self, path: Path) -> str:
        """A path as the terminal shows it, from where pytest was started."""
        return str(path.relative_to(self._start) if path.is_relative_to(self._start) else path)

    def close(self) -> None:
        for file in self._made.values():
            file.close()


class Journal:
    """The lines of one test. They are held back until it is known that there is something to tell.

    A test that only proves answers leaves no record when they are right; one that measures, or fails, does.
    """

    def __init__(self, files: Files, machine: str) -> None:
        self._files, self.machine, self.run = files, machine, files.run
        self._held: list[Line] | None = []

    def append(self, line: Line) -> None:
        if self._held is None:
            self._files.of(self.machine).append(line)
        else:
            self._held.append(line)

    def release(self) -> str:
        """Write down what was held back, and whatever comes, at once; the file, as the terminal shows it."""
        held, self._held = self._held, None
        for line in held or ():
            self.append(line)
        return self._files.shown(self._files.of(self.machine).path)
