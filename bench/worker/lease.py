"""The machine, for one measurement at a time: a lock that every user of it meets at.

The kernel gives it back when the holder dies, so it is never stale. Waiting for it sleeps in the kernel: a waiter that
looked again and again would disturb the holder's measurement, and would starve beside one who takes it often.
Standard library only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading

from bench.evidence.boot import boot_id

PREFIX = "deploybench-lease-"


class Lease:
    """A wish for the machine: `held` or, once `ready_fd` can be read and `take` was called, held then.

    `machine`: root of the file system that tells its boot; another than `/` where it is made up.
    """

    def __init__(self, folder: str, holder: str, machine: str = "/") -> None:
        self._holder = holder
        self._fd = _open_shared(f"{folder}/{PREFIX}{boot_id(machine)}")
        self.ready_fd, self._granted_fd = os.pipe()
        self._deciding = threading.Lock()
        self._granted = self._given_up = self.held = False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            threading.Thread(target=self._wait, daemon=True).start()
        else:
            self._granted = True
            self.take()

    def _wait(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        with self._deciding:
            if self._given_up:
                os.close(self._fd)
            else:
                self._granted = True
                os.write(self._granted_fd, b"1")

    def take(self) -> None:
        """Write down who holds it now."""
        self.held = True
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, self._holder.encode("utf-8", "replace"), 0)

    def holder(self) -> str:
        """Who wrote down last that he holds it."""
        return os.pread(self._fd, 4096, 0).decode("utf-8", "replace").strip() or "another deploybench"

    def release(self) -> None:
        """Give it back, or stop waiting for it."""
        with self._deciding:
            self._given_up = True
            self.held = False
            if self._granted:
                os.close(self._fd)
            for fd in (self.ready_fd, self._granted_fd):
                os.close(fd)


def _open_shared(path: str) -> int:
    """Open a lock file that every user of the machine may hold.

    Not O_CREAT on an existing file: sticky folders forbid that where it is another's. Never through a link: the folder
    is everybody's, and the file is written to.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        try:
            fd = os.open(path, flags)
            break
        except FileNotFoundError:
            pass
        mask = os.umask(0)  # open to all from its first moment, not a moment later
        try:
            fd = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666)
            break
        except FileExistsError:
            continue  # another was faster
        finally:
            os.umask(mask)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise FileExistsError(f"{path} is not a file of ours")
    return fd
