"""A supervisor's private folder, which outlives it only until the next supervisor comes by.

Its owner holds a lock on it: the kernel drops that when the owner dies, however it dies and in whatever container.
Standard library only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path

PREFIX = "deploybench-"


class Scratch:
    """The folder, at `path`. Those of supervisors that were killed are removed on the way."""

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}[0-9]*-*"):
            fd = _lock(left)
            if fd is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(fd)
        self.path, self._fd = _make()

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._fd)


def _make() -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        fd = _lock(path)
        if fd is not None and path.exists():
            return path, fd
        if fd is not None:
            os.close(fd)  # another supervisor took it for a dead one's between the two lines above


def _lock(path: Path) -> int | None:
    """The descriptor that holds the folder's lock, None where another has it or it is gone."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
