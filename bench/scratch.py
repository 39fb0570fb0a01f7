"""A private folder of a process, which outlives it only until the next one of its kind comes by.

Its owner holds a lock on it: the kernel drops that when the owner dies, however it dies and in whatever container.
Standard library only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path


class Scratch:
    """The folder, at `path`. Those of its kind whose owners were killed are removed on the way.

    `kind`: what its name begins with. `parent`: where it lies, if not where temporary files do.
    """

    def __init__(self, kind: str = "deploybench-", parent: str | None = None) -> None:
        for left in Path(parent or tempfile.gettempdir()).glob(f"{kind}[0-9]*-*"):
            fd = _lock(left)
            if fd is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(fd)
        self.path, self._fd = _make(kind, parent)

    def remove(self) -> None:
        """Remove it. Calling it again does nothing."""
        if self._fd >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._fd)
            self._fd = -1


def _make(kind: str, parent: str | None) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=f"{kind}{os.getpid()}-", dir=parent))
        fd = _lock(path)
        if fd is not None and path.exists():
            return path, fd
        if fd is not None:
            os.close(fd)  # another took it for a dead one's between the two lines above


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
