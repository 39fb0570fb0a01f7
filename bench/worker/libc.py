"""What a process asks of the kernel and of libc through ctypes, where they can do it: Linux, glibc.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import ctypes
import signal
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def trim() -> None:
    """Give back memory that is free: glibc keeps it, and another process may need it."""
    trimmed = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trimmed is not None:
        trimmed(0)


def flush() -> None:
    """Write out what C has printed and not written yet."""
    ctypes.CDLL(None).fflush(None)


def adopt_orphans() -> None:
    """Become the parent of whatever a child leaves behind: leaving its group does not save a process."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass


def dying_with_parent() -> Callable[[], None]:
    """What asks the kernel to kill this process when its parent ends, however it ends.

    Made before a fork and called after it, where nothing may be looked up any more.
    """
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):
        return lambda: None
    return lambda: prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
