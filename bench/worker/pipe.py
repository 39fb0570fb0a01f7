"""A pair of pipe ends that never block: bytes in become frames, frames out wait until the far side takes them.

Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from bench.worker.frames import Decoder, Frame

READ_BYTES = 1 << 20


class Pipe:
    """One side of a link."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self.ended = False
        self._decoder = Decoder()
        self._pending: deque[memoryview] = deque()
        for fd in (read_fd, write_fd):
            os.set_blocking(fd, False)

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
        while not self.ended:
            try:
                data = os.read(self.read_fd, READ_BYTES)
            except BlockingIOError:
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
        while self._pending:
            try:
                written = os.write(self.write_fd, self._pending[0][:READ_BYTES])
            except BlockingIOError:
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
