"""A pair of pipe ends that never block: bytes in become frames, frames out wait until the far side takes them.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import fcntl
import os
import select
import time
from collections import deque
from collections.abc import Sequence

from bench.worker.frames import READ_BYTES, Decoder, Frame, Intake

PIPE_BYTES = 1 << 20
# The rest of a frame usually comes at once: it is waited for here, not by a turn of the supervisor's loop for each
# piece. But for no longer than this: limits and beats have to be looked at.
FOLLOWS_MS = 1
TOGETHER_S = 0.1


class Pipe:
    """One side of a link."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self.ended = False
        self._decoder, self._intake = Decoder(), Intake()
        self._pending: deque[memoryview] = deque()
        self._more = select.poll()
        self._more.register(read_fd, select.POLLIN)
        self._room = select.poll()
        self._room.register(write_fd, select.POLLOUT)
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)
            try:  # a tensor at once: fewer turns between the two sides
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                pass  # no pipe, or this user has too many large ones

    @property
    def pending(self) -> bool:
        """Whether something waits to be written."""
        return bool(self._pending)

    def receive(self) -> tuple[list[Frame], bool]:
        """The frames that are complete by now, and whether any byte came. `ended` says whether more can come.

        Raises:
            ProtocolError: bytes that are not frames.
        """
        frames: list[Frame] = []
        heard = False
        until = time.monotonic() + TOGETHER_S
        while not self.ended:
            try:
                data: bytes | memoryview = self._intake.read(self.read_fd)
            except BlockingIOError:
                if self._decoder.incomplete and time.monotonic() < until and self._more.poll(FOLLOWS_MS):
                    continue
                break
            except OSError:
                data = b""
            self.ended = not data
            heard = heard or bool(data)
            frames += self._decoder.feed(data)
        return frames, heard

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write what the far side takes now, and keep the rest for `flush`."""
        self._pending += [memoryview(part) for part in parts if len(part)]
        self.flush()

    def flush(self) -> bool:
        """Write what the far side takes now; False when it is gone."""
        until = time.monotonic() + TOGETHER_S
        while self._pending:
            try:
                written = os.write(self.write_fd, self._pending[0][:READ_BYTES])
            except BlockingIOError:
                if time.monotonic() < until and self._room.poll(FOLLOWS_MS):
                    continue
                return True
            except OSError:
                self._pending.clear()
                return False
            if written == len(self._pending[0]):
                self._pending.popleft()
            else:
                self._pending[0] = self._pending[0][written:]
        return True

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)
