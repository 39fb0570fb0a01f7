"""The near side of a worker: start one on a host, ask it, and turn what comes back into values or errors."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.errors import BenchError, HostError, Unreachable, UsageError, by_name
from bench.hosts.base import Host
from bench.worker.bootstrap import bootstrap
from bench.worker.frames import Body, Frame, Intake, Pieces, ProtocolError, parts

BEAT_S = 5.0
SILENCE_S = 30.0
CONNECT_S = 60.0
# What a request may take beyond its own limit, which the supervisor keeps: the link, and killing and reaping the child.
# A frame that is on its way may take longer, as long as it moves: links are slow and outputs are large.
GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a trial ended early, as the record has it."""

    phase: str
    kind: str
    message: str
    hint: str = ""
    signal: str | None = None
    log_tail: str = ""
    error: str = "BenchError"


class WorkerError(BenchError):
    """A request that did not succeed, with the facts in `failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, failure.hint)
        self.failure = failure


class Worker:
    """A supervisor on a host. Used by one thread; closed once; a closed or failed link ends everything on the far side.

    `packages`: folders there, that come before what its Python has.
    `silence_s`: either side gives the other up when it has not heard from it for so long. `connect_s`: what the far
    side may take to begin to speak. `say`: told what the far side says of work that takes long.
    """

    def __init__(
        self,
        host: Host,
        code: str,
        *,
        packages: Sequence[str] = (),
        silence_s: float = SILENCE_S,
        connect_s: float = CONNECT_S,
        say: Callable[[str], None] = lambda message: None,
    ) -> None:
        program = bootstrap("bench.worker.supervisor", code, packages)
        arguments = [code, str(silence_s), host.root, *packages]
        self._link = host.start([host.python, "-I", "-c", program, *arguments])
        self._silence_s, self._connect_s, self._say = silence_s, connect_s, say
        self._greet_by = time.monotonic() + connect_s
        self._greeted = False
        self._intake = Intake()
        self._waiting: list[Frame] = []
        self._next_id = 0
        self._lost: Failure | None = None
        self._sending = threading.Lock()
        self._torn = False
        self._closed = threading.Event()
        os.set_blocking(self._link.write_fd, False)
        self._beat = threading.Thread(target=self._keep_alive, args=(min(BEAT_S, silence_s / 3),), daemon=True)
        self._beat.start()

    def ask(
        self,
        verb: str,
        args: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes | memoryview] = (),
        *,
        phase: str = "",
        limit_s: float = 60.0,
    ) -> tuple[dict[str, Any], Body]:
        """The result of a verb and its buffers.

        Raises:
            WorkerError: the verb failed, the child died, a limit ran out, or the link was lost.
        """
        phase = phase or verb
        if self._closed.is_set():
            raise UsageError(f"the worker was closed before it was asked to {verb}")
        if self._lost:
            raise WorkerError(replace(self._lost, phase=phase))
        self._next_id += 1
        header = {"verb": verb, "id": self._next_id, "phase": phase, "limit_s": limit_s, "args": dict(args or {})}
        try:
            self._send(parts(header, buffers), limit_s + GRACE_S)
            frame = self._receive(self._next_id, limit_s + GRACE_S)
        except (ProtocolError, Unreachable) as error:
            name = "Unreachable" if isinstance(error, Unreachable) else "HostError"
            self._lost = Failure(phase, "link", error.message, error.hint, error=name)
            raise WorkerError(self._lost) from error
        if "error" in frame.header:
            raise WorkerError(_failure(frame.header["error"], phase))
        return frame.header["ok"], frame.body

    def close(self) -> None:
        """End the far side: its child, what that started, its files."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._send(parts({"verb": "quit"}), 1.0)
        except HostError:
            pass  # the end of its input tells it the same
        self._beat.join()
        self._link.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _keep_alive(self, every_s: float) -> None:
        beat = parts({"verb": "beat"})
        while not self._closed.wait(every_s):
            try:
                self._send(beat, every_s)
            except HostError:
                return  # the reader finds out and says so

    def _send(self, pieces: Sequence[bytes | memoryview], patience_s: float) -> None:
        """Write a frame, giving up when nothing of it moves for so long."""
        with self._sending:
            if self._torn:
                raise Unreachable("a frame was cut off on its way to the worker")
            self._torn = True  # until the last byte is out, whatever interrupts us
            left = Pieces(pieces)
            while left:
                left.written(self._write(left.next(), patience_s))
            self._torn = False

    def _write(self, pieces: Sequence[memoryview], patience_s: float) -> int:
        poll = select.poll()
        poll.register(self._link.write_fd, select.POLLOUT)
        if not poll.poll(patience_s * 1000):
            raise Unreachable("the worker takes no more bytes", self._link.said())
        try:
            return os.writev(self._link.write_fd, pieces)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._gone() from error

    def _receive(self, request: int, patience_s: float) -> Frame:
        deadline = time.monotonic() + patience_s
        carried: Body = b""
        while True:
            while self._waiting:
                frame = self._waiting.pop(0)
                if said := frame.header.get("said"):
                    self._say(str(said))
                if frame.header.get("id") != request:
                    continue
                if "carries" in frame.header:
                    carried = frame.body
                elif not {"ok", "error"}.isdisjoint(frame.header):
                    return Frame(frame.header, carried)
            self._read(deadline)
            if self._intake.decoder.incomplete:
                deadline = max(deadline, time.monotonic() + GRACE_S)

    def _read(self, deadline: float) -> None:
        """Take in what comes next.

        Raises:
            Unreachable: nothing came for too long, or nothing can come any more.
            ProtocolError: it is not frames.
        """
        now = time.monotonic()
        patience_s = min(deadline - now, self._silence_s if self._greeted else self._greet_by - now)
        if patience_s <= 0 or not _readable(self._link.read_fd, patience_s):
            raise self._silent()
        frames = self._intake.read(self._link.read_fd)
        if frames is None:
            raise self._gone()
        self._waiting += frames
        self._greeted = self._greeted or bool(self._waiting)

    def _silent(self) -> Unreachable:
        if self._greeted:
            return Unreachable("the worker fell silent", self._said() or "its machine or the link to it hangs")
        message = f"the far side did not answer as a worker within {self._connect_s:g} s"
        return Unreachable(message, self._said() or "the machine or the link to it is slow, or hangs")

    def _gone(self) -> Unreachable:
        try:  # its last words may be here already
            while not self._greeted and _readable(self._link.read_fd, 0.0):
                if (frames := self._intake.read(self._link.read_fd)) is None:
                    break
                self._waiting += frames
        except (OSError, ProtocolError):
            pass
        return Unreachable("the worker's supervisor is gone", self._said() or "it was killed, or its machine went away")

    def _said(self) -> str:
        said = self._link.said() or self._intake.decoder.banner[-500:].decode("utf-8", "replace").strip("\0 \r\n")
        return f"the far side said: {said}" if said else ""


def _readable(fd: int, patience_s: float) -> bool:
    poll = select.poll()  # not select.select, which knows only the first 1024 descriptors
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(patience_s * 1000))


def _failure(error: Mapping[str, Any], phase: str) -> Failure:
    kinds = {"Crashed": "crash", "Timeout": "timeout"}
    name = str(error["class"])
    kind = error.get("kind") or kinds.get(name, name)
    return Failure(
        phase=error.get("phase") or phase,
        kind=kind,
        message=error["message"],
        hint=error["hint"],
        signal=error.get("signal"),
        log_tail=error.get("log_tail", ""),
        error=name if by_name(name) is not BenchError or name == "BenchError" else "BenchError",
    )
