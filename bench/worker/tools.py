"""The programs that `prepare` runs in a child: each dies with it, and gives back the memory that it frees.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.errors import Crashed, UsageError
from bench.interface import Finished
from bench.worker.libc import dying_with_parent, trim

READ_BYTES = 1 << 20
OUTPUT_KEPT_BYTES = 64 << 10
# Makes glibc give back at once what a converter frees: of resnet50 MNN's took 433 MiB with it and 688 without, pnnx 512
# and 553, for a second more at most. Source: their peaks on a 2-core x86-64 virtual machine, November 2026.
SPARING = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}


class BoundedTools:
    """The runner handed to `prepare`.

    When the phase's time is up, the supervisor kills this process and all that it started, tools included.
    """

    def __init__(self, paths: Mapping[str, Path], say: Callable[[str], None]) -> None:
        self._paths = paths
        self.say = say

    def run(self, argv: Sequence[str], *, cwd: Path) -> Finished:
        """Run a program to its end, its output kept and also copied to the log."""
        environment = {**os.environ, **SPARING, "TMPDIR": str(cwd)}
        trim()
        try:
            process = subprocess.Popen(
                list(argv), cwd=cwd, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, preexec_fn=dying_with_parent(),
            )  # fmt: skip
        except OSError as error:
            raise UsageError(f"{argv[0]} cannot be started: {error.strerror}") from error
        with process:
            printed = _copied(process.stdout).decode("utf-8", "replace")
        if process.returncode < 0:
            name = signal.Signals(-process.returncode).name
            raise Crashed(f"the converter {Path(argv[0]).name} died of {name}", signal=name, output=printed)
        return Finished(process.returncode, printed)

    def path(self, name: str) -> Path:
        """The fetched binary of a declared tool."""
        return self._paths[name]


def _copied(source: IO[bytes] | None) -> bytes:
    """The last of a stream. All of it goes to the log as it comes: a tool that hangs has then said why."""
    kept = b""
    while source and (data := source.read1(READ_BYTES)):  # type: ignore[attr-defined]
        sys.stderr.buffer.write(data)
        sys.stderr.buffer.flush()
        kept = (kept + data)[-OUTPUT_KEPT_BYTES:]
    return kept
