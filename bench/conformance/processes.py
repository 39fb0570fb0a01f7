"""Processes that end within their time, with everything that they started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bench.errors import Crashed, Timeout
from bench.interface import Finished

TOOL_LIMIT_S = 120.0
OUTPUT_KEPT_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: its exit code (None: out of time, negative: a signal) and what it wrote."""

    code: int | None
    output: bytes
    errors: bytes


class BoundedTools:
    """The `Tools` that `prepare` gets here: a time limit, and a process group that dies as a whole."""

    def __init__(self, tool_path: Callable[[str], Path], limit_s: float = TOOL_LIMIT_S) -> None:
        self._tool_path = tool_path
        self._limit_s = limit_s

    def path(self, name: str) -> Path:
        """The binary of a declared tool."""
        return self._tool_path(name)

    def say(self, message: str) -> None:
        """Nobody waits for it."""

    def run(self, argv: Sequence[str], *, cwd: Path) -> Finished:
        """Run a tool to its end."""
        ended = run(list(argv), self._limit_s, cwd=cwd, merged=True)
        if ended.code is None:
            raise Timeout(f"{argv[0]} did not end within {self._limit_s:g} s")
        printed = ended.output[-OUTPUT_KEPT_BYTES:].decode(errors="replace")
        if ended.code < 0:
            name = signal_name(ended.code)
            raise Crashed(f"{argv[0]} died by {name}", signal=name, output=printed)
        return Finished(ended.code, printed)


def run(argv: list[str], limit_s: float, *, cwd: Path | None = None, merged: bool = False) -> Ended:
    """Run a program to its end or for `limit_s`.

    Its output goes to files, so that neither a full pipe nor a grandchild that keeps it open can stall the end.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        with group(argv, output, output if merged else errors, cwd=cwd) as process:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(limit_s)
            code = process.poll()
        return Ended(code, written(output), written(errors))


@contextlib.contextmanager
def group(argv: list[str], output: IO[bytes], errors: IO[bytes], *, cwd: Path | None = None) -> Iterator[Any]:
    """A program in a process group of its own, the whole of which is gone afterwards, ended or not."""
    process = subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, cwd=cwd, start_new_session=True
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def written(file: IO[bytes], begin: int = 0) -> bytes:
    """What a file holds from `begin` on, without moving the place where the process writes: they share it."""
    return os.pread(file.fileno(), max(0, os.fstat(file.fileno()).st_size - begin), begin)


def signal_name(code: int) -> str:
    """The name of the signal behind a negative exit code."""
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def last_line(text: bytes) -> str:
    """The last line that a program wrote."""
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "(it printed nothing)"
