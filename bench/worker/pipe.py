"""A pair of pipe ends that never block: bytes in become frames, frames out wait until the far side takes them.

A body can stay in the kernel on its way through: another pipe takes its pages as they are. Standard library only,
Python 3.10.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import termios
import time
from collections.abc import Sequence

from bench.worker.frames import READ_BYTES, ZEROS, Decoder, Frame, Pieces

PIPE_BYTES = 1 << 20
# The rest of a frame usually comes at once: it is waited for here, not by a turn of the supervisor's loop for each
# piece. But for no longer than this: limits and beats have to be looked at.
FOLLOWS_MS = 1
TOGETHER_S = 0.1


class Pipe:
    """One side of a link.

    `follows`: what has not been passed on of the last frame's body; until it is, nothing else is received.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.read_fd, self.write_fd = read_fd, write_fd
        self.ended = False
        self.follows = 0
        self._decoder = Decoder(bodies=False)
        self._pending = Pieces()
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
        """The frames that are here by now, and whether any byte came. `ended` says whether more can come.

        Raises:
            ProtocolError: bytes that are not frames.
        """
        frames: list[Frame] = []
        heard = False
        until = time.monotonic() + TOGETHER_S
        while not self.ended and not self.follows:
            try:
                data = os.read(self.read_fd, self._decoder.wanted)
            except BlockingIOError:
                if self._decoder.incomplete and time.monotonic() < until and self._more.poll(FOLLOWS_MS):
                    continue
                break
            except OSError:
                data = b""
            self.ended = not data
            heard = heard or bool(data)
            for frame in self._decoder.feed(data):
                frames.append(frame)
                self.follows = frame.follows
        return frames, heard

    def pass_on(self, sink: Pipe | None) -> bool:
        """Move what is here of a body, and goes into the sink, by now; whether any byte moved.

        Without a sink, or with one that is gone, it is dropped.
        """
        moved = False
        until = time.monotonic() + TOGETHER_S
        awaited = self._more
        while self.follows and not self.ended and time.monotonic() < until and awaited.poll(FOLLOWS_MS):
            if sink and not sink.flush():
                sink = None
            size = self._move(sink)
            awaited = sink._room if size is None and sink and self.blocked else self._more
            self.ended = size == 0
            self.follows -= size or 0
            moved = moved or bool(size)
        return moved

    def make_up(self, sink: Pipe) -> None:
        """Zeros for what will never come of a body: the sink's reader then finds the next frame in its place."""
        sink.send([ZEROS[: self.follows - at] for at in range(0, self.follows, len(ZEROS))])
        self.follows = 0

    @property
    def blocked(self) -> bool:
        """Whether what is here of a body waits for room elsewhere."""
        if not self.follows:
            return False
        size = array.array("i", [0])
        fcntl.ioctl(self.read_fd, termios.FIONREAD, size)
        return size[0] > 0

    def _move(self, sink: Pipe | None) -> int | None:
        """How many bytes of the body went on; 0 when no more will come, None when none can be moved by now."""
        try:
            if sink is None:
                return len(os.read(self.read_fd, min(self.follows, READ_BYTES)))
            return None if sink.pending else self._spliced(sink)
        except BlockingIOError:
            return None
        except BrokenPipeError:
            return self._move(None)
        except OSError:
            return 0

    def _spliced(self, sink: Pipe) -> int:
        try:
            return os.splice(self.read_fd, sink.write_fd, self.follows, flags=os.SPLICE_F_NONBLOCK)
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.ENOSYS):  # what these two are, or this kernel, cannot do it
                raise
        data = os.read(self.read_fd, min(self.follows, READ_BYTES))
        sink.send([data])
        return len(data)

    def send(self, parts: Sequence[bytes | memoryview]) -> None:
        """Write what the far side takes now, and keep the rest for `flush`."""
        self._pending.add(parts)
        self.flush()

    def flush(self) -> bool:
        """Write what the far side takes now; False when it is gone."""
        until = time.monotonic() + TOGETHER_S
        while self._pending:
            try:
                self._pending.written(os.writev(self.write_fd, self._pending.next()))
            except BlockingIOError:
                if time.monotonic() < until and self._room.poll(FOLLOWS_MS):
                    continue
                return True
            except OSError:
                self._pending = Pieces()
                return False
        return True

    def close(self) -> None:
        for fd in {self.read_fd, self.write_fd}:
            os.close(fd)
