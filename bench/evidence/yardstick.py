"""How long the CPU takes now for a fixed piece of arithmetic, which hardly leaves its innermost caches.

A virtual machine does not see who works on the other hyper-thread of its core, nor what he does to its clock: no load,
no steal, and yet an inference takes longer, for milliseconds or for minutes. The arithmetic does see it. Source: the
product of two matrices of 64 x 64 took 11 % longer in the same tenths of a second in which squeezenet took 9 to 13 %
longer (correlation 0.91 and 0.95 on two CPUs); otherwise both stayed within 1 % of their best (x86-64, 2026-11).

Standard library and numpy, Python 3.10.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from bench.evidence.clocks import threads
from bench.evidence.cores import siblings
from bench.evidence.load import Snapshot, snapshot
from bench.interface import Array

# 16 KiB a matrix, and small enough that BLAS uses one thread for it.
SIZE = 64
# Where the matrices lie makes 5 % of the time, so they always lie the same.
PAGE, LINE = 4096, 64
# A core that has idled does not have its widest units at full speed at once; between two inferences it has not idled.
WARM_NS, GLANCE_WARM_NS = 1_000_000, 100_000
# A reading is the median of so many products; of fewer where one takes long, as on an emulated processor.
PRODUCTS, GLANCE_PRODUCTS, FEWEST, LONGEST_NS = 51, 15, 5, 2_000_000
# Threads of our own (a runtime's, that spin for a while after an inference) take of the core as a neighbour would.
# Their time is known to a tick of the kernel, milliseconds: of 300 looks beside a spinning thread of ONNX Runtime's it
# told 10, its state all 300. So where they may be on the same core, it is the state that counts.
OWN_SHARE, OWN_WAIT_S, OWN_TRIES = 0.1, 0.005, 40
# Looks for the fastest: neighbours come and go, so one of many finds the core alone, even beside one who is there for
# 98 % of the time, as was seen: the third lowest of 260 counts.
FASTEST_S, FASTEST_SHARE = 0.3, 0.01
MOST_CPUS = 16


@dataclass(frozen=True, slots=True)
class Alone:
    """A core is left alone while a reading is within `slack` (a share) of `fastest_ns`.

    For so many seconds at most it is waited for, stretches that were measured in vain included.
    """

    fastest_ns: float
    slack: float
    limit_s: float


class Yardstick:
    """The arithmetic, done by the thread that made it; the readings that count, and the seconds lost to others.

    `void_s`: those of them that were lost between two inferences. `pauses`: while it was waited there.

    `threads`: of what is measured. With one, the CPU that the thread is on counts; with several, the slowest of those
    that it may use. Without `alone` nothing is waited for.
    """

    def __init__(self, threads: int = 1, alone: Alone | None = None) -> None:
        self._a, self._out = _aligned(0), _aligned(LINE)
        self._a[:] = 0.5
        self._threads = threads
        self._share_a_core = threads > 1 and siblings()
        self._alone = alone
        self.readings_ns: list[int] = []
        self.waited_s = 0.0
        self.void_s = 0.0
        self.pauses: list[tuple[Snapshot, Snapshot]] = []
        self._asked_s: float | None = None

    def read(self) -> None:
        """Keep what one product takes now."""
        self._keep(self._reading())

    def begin(self) -> None:
        """Wait until the core is left alone, and keep what a product takes then."""
        self._keep(self._waited(self._reading()))

    def between(self) -> bool:
        """Between two inferences: whether somebody else is there, so that what was timed since the last time is void.

        Then it is waited until the core is left alone. Who is there when all the time for it is used up counts.
        """
        stretch_s = 0.0 if self._asked_s is None else time.monotonic() - self._asked_s
        ns = self._taken(GLANCE_WARM_NS, GLANCE_PRODUCTS)
        void = self._shared(ns)
        if void:
            before_s = self.waited_s
            self.waited_s += stretch_s
            begin = snapshot()
            ns = self._waited(ns)
            self.pauses.append((begin, snapshot()))
            self.void_s += self.waited_s - before_s
        self._keep(ns)
        self._asked_s = time.monotonic()
        return void

    def _shared(self, ns: int | None) -> bool:
        """Whether this reading is to be waited after."""
        wanted = self._alone
        if wanted is None or ns is None or self.waited_s >= wanted.limit_s:
            return False
        return ns > wanted.fastest_ns * (1 + wanted.slack)

    def _waited(self, ns: int | None) -> int | None:
        """The first reading of a core that is left alone, or the last one before the limit.

        What has one thread and may use several CPUs moves on to the next of them.
        """
        allowed = sorted(os.sched_getaffinity(0))
        number, before_s, begin = 0, self.waited_s, time.monotonic()
        while self._shared(ns):
            number += 1
            if self._threads == 1 and len(allowed) > 1:
                os.sched_setaffinity(0, {allowed[number % len(allowed)]})
                os.sched_setaffinity(0, allowed)
            ns = self._reading()
            self.waited_s = before_s + time.monotonic() - begin
        return ns

    def _reading(self) -> int | None:
        """Nanoseconds of one product now; None where threads of this process did not come to rest."""
        return self._here() if self._threads == 1 else self._slowest()

    def _keep(self, ns: int | None) -> None:
        if ns is not None:
            self.readings_ns.append(ns)

    def _slowest(self) -> int | None:
        found = []
        with _one_by_one() as cpus:
            for cpu in cpus:
                os.sched_setaffinity(0, {cpu})
                found.append(self._here())
        known = [ns for ns in found if ns is not None]
        return max(known) if len(known) == len(found) else None

    def _here(self) -> int | None:
        for _ in range(OWN_TRIES):
            if (ns := self._taken(WARM_NS, PRODUCTS)) is not None:
                return ns
            time.sleep(OWN_WAIT_S)
        return None

    def _taken(self, warm_ns: int, products: int) -> int | None:
        """None where other threads of this process ran meanwhile.

        Of the two clocks the process's is read inside the thread's: an interrupt between them is no other thread.
        """
        if self._share_a_core and another_runs():
            return None
        before = -time.thread_time_ns() + time.process_time_ns()
        begin = time.perf_counter_ns()
        ns = self._median(warm_ns, products)
        others = time.process_time_ns() - time.thread_time_ns() - before
        return ns if others <= OWN_SHARE * (time.perf_counter_ns() - begin) else None

    def _median(self, warm_ns: int, products: int) -> int:
        clock, product, a, out = time.perf_counter_ns, np.dot, self._a, self._out
        end = clock() + warm_ns
        while clock() < end:
            product(a, a, out=out)
        taken: list[int] = []
        end = clock() + LONGEST_NS
        while len(taken) < products and (len(taken) < FEWEST or clock() < end):
            begin = clock()
            product(a, a, out=out)
            taken.append(clock() - begin)
        return sorted(taken)[len(taken) // 2]


def another_runs() -> bool:
    """Whether another thread of this process is running now, or ready to."""
    own = threading.get_native_id()
    return any(thread != own and fields[:1] == ["R"] for thread, fields in threads(os.getpid()))


def fastest_ns() -> int:
    """What a reading is where nobody else is on the core, of any CPU that this thread may use. Takes 0.3 s."""
    yardstick = Yardstick()
    found: list[int] = []
    end = time.monotonic() + FASTEST_S
    with _one_by_one() as cpus:
        while time.monotonic() < end or len(found) < len(cpus):
            os.sched_setaffinity(0, {cpus[len(found) % len(cpus)]})
            found.append(yardstick._median(WARM_NS, PRODUCTS))
    return fastest_of(found)


def fastest_of(readings_ns: Sequence[int], share: float = FASTEST_SHARE) -> int:
    """Of many readings, at least this share of them of a core that was left alone."""
    return sorted(readings_ns)[int(len(readings_ns) * share)]


@contextmanager
def _one_by_one() -> Iterator[list[int]]:
    """The CPUs to look at, on each of which this thread may be put meanwhile."""
    allowed = os.sched_getaffinity(0)
    try:
        yield sampled(sorted(allowed))
    finally:
        os.sched_setaffinity(0, allowed)


def sampled(cpus: Sequence[int], most: int = MOST_CPUS) -> list[int]:
    """At most so many of them, evenly."""
    step = max(1.0, len(cpus) / most)
    return [cpus[int(i * step)] for i in range(min(most, len(cpus)))]


def _aligned(offset: int) -> Array:
    """A matrix of zeros that begins so many bytes behind the begin of a page."""
    size = SIZE * SIZE * 4
    room = np.zeros(size + PAGE + offset, np.uint8)
    begin = -room.ctypes.data % PAGE + offset
    return room[begin : begin + size].view(np.float32).reshape(SIZE, SIZE)
