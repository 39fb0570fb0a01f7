"""Streams: parallel sessions of one artefact, and the time they live in. They run inside the child.

A stream is a session of its own that one thread of the child drives. Where the runtime holds Python's lock while it
computes, the session lives in a process of its own and the thread only waits for it. Standard library and numpy only,
Python 3.10.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from bench.errors import BenchError, RunError
from bench.interface import Artifact, Feeds, Options, Outputs, Session

T = TypeVar("T")
PR_SET_TIMERSLACK = 29
CLOSE_S = 5.0
# Threads take about 0.1 ms to start; then everything begins at once.
START_NS = 5_000_000


class Stream(Protocol):
    """A session that is driven by one thread at a time."""

    def run(self) -> None:
        """One inference on the next of the feeds, which rotate; blocks until its outputs are there."""

    def last(self) -> tuple[Outputs, int]:
        """What the last inference gave, and which feed made it."""

    def cpu_s(self) -> float:
        """CPU time that it has used outside this process."""

    def pid(self) -> int | None:
        """The process that it lives in, None where that is this one."""

    def close(self) -> None:
        """End it. Calling it again does nothing."""


class Tokens(Protocol):
    """A queue between threads, first in, first out."""

    def put(self, token: bool) -> None: ...

    def get(self) -> bool: ...


class World(Protocol):
    """The time in which a load is made. Tests bring one whose clock moves only when everything in it waits."""

    def now(self) -> int:
        """Nanoseconds of a clock that never goes back."""

    def wait_until(self, due_ns: int) -> None:
        """Sleep until then; not at all if it is past."""

    def tokens(self) -> Tokens:
        """An empty queue."""

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        """Run every job in a thread of its own; their results. Raises the first error, once all have ended."""


class RealWorld:
    """The host's clock and threads.

    Waiting is a sleep, not a spin. A spinning thread would take a core from the runtime (on two cores, half of the
    machine) and Python's lock from the other streams, which is worse than what it cures: a sleep that ends late by
    60 us, the wake-up of an idle core, which a real server pays as well. Without the kernel's timer slack, which is
    switched off for these threads, it would be 110 us. Source: measured on a 2-core x86-64 virtual machine, 2026-11.
    """

    now = staticmethod(time.perf_counter_ns)

    def wait_until(self, due_ns: int) -> None:
        while (left := due_ns - time.perf_counter_ns()) > 0:
            time.sleep(left / 1e9)

    def tokens(self) -> Tokens:
        return queue.SimpleQueue()

    def together(self, jobs: Sequence[Callable[[], T]]) -> list[T]:
        results: dict[int, T] = {}
        errors: list[BaseException] = []

        def work(number: int, job: Callable[[], T]) -> None:
            _exact_sleep()
            try:
                results[number] = job()
            except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
                errors.append(error)

        threads = [threading.Thread(target=work, args=(n, job), daemon=True) for n, job in enumerate(jobs)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [results[n] for n in range(len(jobs))]


@contextmanager
def telling(stop: threading.Event) -> Iterator[None]:
    """Tell the other streams when this one fails: what they would still measure is of no use."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


def _exact_sleep() -> None:
    """Switch off this thread's timer slack (50 us, Linux only)."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    except (OSError, AttributeError):
        pass


class Pool:
    """The streams of one artefact, made when they are first asked for, ended together.

    `make` gets the number of the stream.
    """

    def __init__(self, make: Callable[[int], Stream]) -> None:
        self._make = make
        self._streams: list[Stream] = []

    def first(self, count: int) -> list[Stream]:
        """So many of them."""
        while len(self._streams) < count:
            self._streams.append(self._make(len(self._streams)))
        return self._streams[:count]

    def cpu_s(self) -> float:
        """CPU time that all of them have used outside this process."""
        return sum(stream.cpu_s() for stream in self._streams)

    def pids(self) -> list[int]:
        """The processes of those that have one of their own."""
        return [pid for stream in self._streams if (pid := stream.pid()) is not None]

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        for stream in self._streams:
            stream.close()


class ThreadStream:
    """A session in this process. Each stream begins with another feed: outputs that streams mix up are then seen."""

    def __init__(self, session: Session, feeds: Sequence[Feeds], first: int = 0) -> None:
        self._session, self._feeds, self._next = session, feeds, first % len(feeds)
        self._made: tuple[Outputs, int] | None = None

    def run(self) -> None:
        number = self._next
        self._next = (number + 1) % len(self._feeds)
        self._made = None  # freed: beside the next outputs it would be memory that a deployed model does not take
        outputs = self._session.run(self._feeds[number])
        if outputs is None:
            raise RunError("the backend returned no outputs from a timed inference")
        self._made = outputs, number

    def last(self) -> tuple[Outputs, int]:
        if self._made is None:
            raise RunError("a stream was asked for its outputs before it made any")
        return self._made

    def cpu_s(self) -> float:
        return 0.0

    def pid(self) -> int | None:
        return None

    def close(self) -> None:
        self._session.close()


class ProcessStream:
    """A session in a process of its own, which imports its own runtime. A hand-over costs about 50 us.

    It is in the child's process group, so that it ends with it, however that ends.
    """

    def __init__(
        self, backend: str, artifact: Artifact, options: Options, feeds: Sequence[Feeds], first: int = 0
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy a runtime without its threads
        self._link, theirs = context.Pipe()
        args = (theirs, backend, artifact, options, list(feeds), first)
        self._process = context.Process(target=_serve, args=args, daemon=True)
        self._process.start()
        theirs.close()
        self._ask("load")

    def run(self) -> None:
        self._ask("run")

    def last(self) -> tuple[Outputs, int]:
        made: tuple[Outputs, int] = self._ask("last")
        return made

    def cpu_s(self) -> float:
        return float(self._ask("cpu"))

    def pid(self) -> int | None:
        return self._process.pid

    def close(self) -> None:
        self._link.close()
        self._process.join(CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _ask(self, verb: str) -> Any:
        try:
            self._link.send(verb)
            answer = self._link.recv()
        except (EOFError, OSError) as error:
            self._process.join(CLOSE_S)
            message = f"the process of a stream ended by itself with exit code {self._process.exitcode}"
            raise RunError(message, "the log's tail may say why") from error
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(link: Connection, spec: str, artifact: Artifact, options: Options, feeds: list[Feeds], first: int) -> None:
    """The far side of a process stream: it answers one verb at a time until its link ends."""
    module, _, name = spec.partition(":")
    verbs: dict[str, Callable[[], object]] = {"cpu": time.process_time}

    def load() -> None:
        session = getattr(importlib.import_module(module), name)().load(artifact, options)
        stream = ThreadStream(session, feeds, first)
        verbs.update(run=stream.run, last=stream.last)

    verbs["load"] = load
    while True:
        try:
            verb = link.recv()
        except (EOFError, OSError):
            return
        try:
            answer = verbs[verb]()
        except Exception as error:  # noqa: BLE001 - told to whoever asked
            # Only our own errors are sure to survive the way, and to say what they are on the other side.
            answer = error if isinstance(error, BenchError) else RunError(f"{type(error).__name__}: {error}")
        link.send(answer)
