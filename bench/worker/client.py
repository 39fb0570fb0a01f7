"""The near side of a worker: start one on a host, ask it, and turn what comes back into values or errors."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.errors import BenchError, Unreachable, by_name
from bench.hosts.base import Host
from bench.worker.protocol import Decoder, Frame, ProtocolError, encode
from bench.worker.supervisor import bootstrap

BEAT_S = 5.0
SILENCE_S = 30.0
# What a request may take beyond its own limit, which the supervisor keeps: the link, and killing and reaping the child.
GRACE_S = 20.0
READ_BYTES = 1 << 20


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
    """A supervisor on a host. Used by one thread; closed once; a closed or failed link ends everything on the far side."""

    def __init__(self, host: Host, code: str, *, silence_s: float = SILENCE_S) -> None:
        program = bootstrap("bench.worker.supervisor", code)
        self._link = host.start([host.python, "-I", "-c", program, code, str(silence_s)])
        self._decoder = Decoder()
        self._waiting: list[Frame] = []
        self._next_id = 0
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._beat = threading.Thread(target=self._keep_alive, args=(min(BEAT_S, silence_s / 3),), daemon=True)
        os.set_blocking(self._link.write_fd, False)
        self._beat.start()

    def ask(
        self,
        verb: str,
        args: Mapping[str, Any] | None = None,
        buffers: Sequence[bytes | memoryview] = (),
        *,
        phase: str = "",
        limit_s: float = 60.0,
    ) -> tuple[dict[str, Any], bytes]:
        """The result of a verb and its buffers.

        Raises:
            WorkerError: the verb failed, the child died, a limit ran out, or the link was lost.
        """
        phase = phase or verb
        self._next_id += 1
        header = {"verb": verb, "id": self._next_id, "phase": phase, "limit_s": limit_s, "args": dict(args or {})}
        deadline = time.monotonic() + limit_s + GRACE_S
        try:
            self._send(encode(header, buffers), deadline)
            frame = self._receive(self._next_id, deadline)
        except (ProtocolError, Unreachable) as error:
            raise WorkerError(Failure(phase, "link", error.message, error.hint, error=type(error).__name__)) from error
        if "error" in frame.header:
            raise WorkerError(_failure(frame.header["error"], phase))
        return frame.header["ok"], frame.body

    def close(self) -> None:
        """End the far side: its child, what that started, its files."""
        if self._closed.is_set():
            return
        self._closed.set()
        try:
            self._send(encode({"verb": "quit"}), time.monotonic() + 1)
        except Unreachable:
            pass
        self._beat.join()
        self._link.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _keep_alive(self, every_s: float) -> None:
        beat = encode({"verb": "beat"})
        while not self._closed.wait(every_s):
            try:
                self._send(beat, time.monotonic() + every_s)
            except Unreachable:
                return  # the reader finds out and says so

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        with self._sending:
            while view:
                try:
                    view = view[os.write(self._link.write_fd, view[:READ_BYTES]) :]
                except BlockingIOError:
                    if not select.select([], [self._link.write_fd], [], max(0.0, deadline - time.monotonic()))[1]:
                        raise Unreachable("the worker takes no more bytes", self._link.said()) from None
                except OSError as error:
                    raise self._lost() from error

    def _receive(self, request: int, deadline: float) -> Frame:
        while True:
            while self._waiting:
                frame = self._waiting.pop(0)
                if frame.header.get("id") == request:
                    return frame
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._link.read_fd], [], [], left)[0]:
                raise Unreachable("the worker fell silent beyond every limit", self._link.said())
            data = os.read(self._link.read_fd, READ_BYTES)
            if not data:
                raise self._lost()
            self._waiting += self._decoder.feed(data)

    def _lost(self) -> Unreachable:
        said = self._link.said() or self._decoder.skipped[-500:].decode("utf-8", "replace").strip()
        hint = f"the far side said: {said}" if said else "it was killed, or its machine went away"
        return Unreachable("the worker's supervisor is gone", hint)


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


