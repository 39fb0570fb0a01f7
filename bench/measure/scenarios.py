"""Load on several streams, with MLPerf's names: multi-stream, offline and server. Runs inside the child.

`single-stream` is the timed loop of `loop.py`, `soak` the same for a long time (`soak.py`), `server` is served by
`server.py`. Standard library and numpy only, Python 3.10.

What is counted:
    offline       whole inferences of streams that never wait, over the time until the last stream is done
    multi-stream  from the issue of a query until the last of its samples is done; the next is issued at once

Source: MLPerf Inference rules and LoadGen 6.0, `test_settings.h`.
"""

from __future__ import annotations

import math
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from bench.interface import Array, Plan
from bench.measure import server
from bench.measure.server import QUERIES, Probe, Served
from bench.measure.streams import START_NS, Pool, Stream, World, telling

Name = Literal["single-stream", "multi-stream", "offline", "server", "soak"]
# What `--scenario` takes: MLPerf's. A soak is asked for by its duration.
NAMES: tuple[Name, ...] = ("single-stream", "multi-stream", "offline", "server")
# A stream more must bring this share of throughput, or the number before it was enough.
MIN_GAIN = 0.05
# The sweep ends at this many streams per core.
STREAMS_PER_CORE = 2
# Inferences of each stream in a window, and in one of the sweep. What others have half done when a stream ends is not
# counted: less than one inference a stream, half a stream's last on average.
WINDOW, SWEEP_WINDOW = 64, 32


@dataclass(frozen=True, slots=True)
class Scenario:
    """How load is made. `streams`: parallel sessions, None for as many as pay (offline) or as have cores.

    server: at `rate` queries per second, or at the highest rate whose p99 stays below `latency_bound_ns`.
    soak: one inference after the other for `soak_s` seconds.
    """

    name: Name = "single-stream"
    streams: int | None = None
    samples_per_query: int | None = None
    rate: float | None = None
    latency_bound_ns: int | None = None
    soak_s: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What streams did that never waited: whole inferences, from a common start until the last stream was done."""

    streams: int
    inferences: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.inferences / self.seconds


@dataclass(frozen=True, slots=True)
class Ready:
    """Warm streams and how many of them to use, with what that was learnt from."""

    streams: int
    warmup_count: int
    sweep: tuple[Window, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a loaded phase leaves. `window`: throughput. `busy_s`: what all inferences took, one after another.

    `others`: inferences of the phase that are not in the window, at rates that were only tried.
    """

    window: Window
    busy_s: float
    stopped_by: str
    latencies_ns: Array = field(default_factory=lambda: np.zeros(0, np.int64))
    served: Served | None = None
    probes: tuple[Probe, ...] = ()
    others: int = 0


def longest_s(scenario: Scenario, plan: Plan, cores: int) -> float:
    """What warm-up and measurement may take, without loading the sessions."""
    steps = len(stream_counts(scenario, cores))
    windows = server.MAX_PROBES * server.PROBE_TIMES if scenario.latency_bound_ns else 1
    return (steps + 1) * (plan.warmup_max_s + plan.max_s) + windows * 2 * (plan.max_s + plan.min_s)


def stream_counts(scenario: Scenario, cores: int, threads: int = 1) -> list[int]:
    """The numbers of streams to try, in order: one, unless the scenario leaves it open and asks for throughput.

    `threads`: of one session. Where latency counts, there are no more streams than can compute at once.
    """
    if scenario.streams is not None:
        return [scenario.streams]
    if scenario.name == "offline":
        return [2**n for n in range((STREAMS_PER_CORE * cores).bit_length())]
    at_once = max(1, cores // threads)
    return [min(at_once, scenario.samples_per_query or at_once)]


def prepare(pool: Pool, plan: Plan, counts: Sequence[int], world: World) -> Ready:
    """Warm streams: the first of these numbers that the next one betters by less than 5 %, or the last."""
    warmed = 0
    sweep: list[Window] = []
    for count in counts:
        streams = pool.first(count)
        warmed += _warm_up(streams, plan, world)
        if len(counts) == 1:
            return Ready(count, warmed, ())
        window, _ = saturate(streams, SWEEP_WINDOW, plan.min_s / 2, plan.max_s, world)
        warmed += window.inferences
        sweep.append(window)
        if len(sweep) > 1 and sweep[-1].per_s < sweep[-2].per_s * (1 + MIN_GAIN):
            return Ready(sweep[-2].streams, warmed, tuple(sweep))
    return Ready(counts[-1], warmed, tuple(sweep))


def _warm_up(streams: Sequence[Stream], plan: Plan, world: World) -> int:
    return saturate(streams, plan.warmup_min_count, plan.warmup_min_s, plan.warmup_max_s, world)[0].inferences


def measure(scenario: Scenario, streams: Sequence[Stream], plan: Plan, seed: int, world: World) -> Loaded:
    """The loaded phase on warm streams. The seed decides when queries arrive, and nothing else."""
    if scenario.name == "offline":
        each = max(WINDOW, math.ceil(plan.min_count / len(streams)))
        window, busy_s = saturate(streams, each, plan.min_s, plan.max_s, world)
        return Loaded(window, busy_s, "time limit" if window.seconds >= plan.max_s else "minimums met")
    if scenario.name == "multi-stream":
        return queries(streams, scenario.samples_per_query or 1, plan, world)
    if scenario.latency_bound_ns is not None:
        return highest_rate(streams, scenario.latency_bound_ns, plan, seed, world)
    assert scenario.rate is not None
    due_ns = server.arrivals(scenario.rate, server.count_at(scenario.rate, plan), (seed, 0))
    served = server.serve(streams, due_ns, scenario.rate, plan.min_s, world)
    enough = served.scheduled >= max(QUERIES, plan.min_count)
    stopped_by = "minimums met" if enough else "time limit"
    return _of_server(streams, served, "overloaded" if served.overloaded else stopped_by)


def saturate(streams: Sequence[Stream], each: int, min_s: float, max_s: float, world: World) -> tuple[Window, float]:
    """Keep all streams busy until both minimums are met or the limit is; what they did, and how long they were busy.

    `each`: inferences of every stream. The time ends when the last stream is done, so the figure errs to the low side.
    """
    stop = threading.Event()
    begin = world.now() + START_NS

    def job(stream: Stream) -> Callable[[], tuple[int, int]]:
        def work() -> tuple[int, int]:
            world.wait_until(begin)
            done = 0
            with telling(stop):
                while not stop.is_set():
                    stream.run()
                    done += 1
                    elapsed_s = (world.now() - begin) / 1e9
                    if elapsed_s >= max_s or (done >= each and elapsed_s >= min_s):
                        break
            return done, world.now()

        return work

    found = world.together([job(stream) for stream in streams])
    seconds = (max(end for _, end in found) - begin) / 1e9
    window = Window(len(streams), sum(done for done, _ in found), seconds)
    return window, sum(end - begin for _, end in found) / 1e9


class _Queries:
    """Queries of several samples, one after the other. Whoever does a query's last sample issues the next."""

    def __init__(self, streams: int, samples: int, plan: Plan, world: World) -> None:
        self._streams, self._samples, self._plan, self._world = streams, samples, plan, world
        self._tokens = world.tokens()
        self._lock = threading.Lock()
        self._issued = self._left = 0
        self._begin = world.now() + START_NS
        self.latencies = array("q")
        self.busy_ns = 0

    def work(self, stream: Stream, *, first: bool) -> None:
        """What one stream does; the first of them issues the first query."""
        self._world.wait_until(self._begin)
        if first:
            self._issue()
        try:
            while self._tokens.get():
                start = self._world.now()
                stream.run()
                self._one_less(start)
        except BaseException:
            self._end()
            raise

    def _issue(self) -> None:
        self._left = self._samples
        self._issued = self._world.now()
        for _ in range(self._samples):
            self._tokens.put(True)

    def _end(self) -> None:
        for _ in range(self._streams):
            self._tokens.put(False)

    def _one_less(self, start: int) -> None:
        with self._lock:
            now = self._world.now()
            self.busy_ns += now - start
            self._left -= 1
            if self._left:
                return
            self.latencies.append(now - self._issued)
            elapsed_s = (now - self._begin) / 1e9
            enough = len(self.latencies) >= max(QUERIES, self._plan.min_count) and elapsed_s >= self._plan.min_s
            if enough or elapsed_s >= self._plan.max_s:
                self._end()
            else:
                self._issue()


def queries(streams: Sequence[Stream], samples: int, plan: Plan, world: World) -> Loaded:
    """Queries of so many samples each, one query after the other, their samples spread over the streams."""
    state = _Queries(len(streams), samples, plan, world)
    world.together([partial(state.work, stream, first=number == 0) for number, stream in enumerate(streams)])
    seconds = sum(state.latencies) / 1e9
    window = Window(len(streams), len(state.latencies) * samples, seconds)
    stopped_by = "time limit" if seconds >= plan.max_s else "minimums met"
    return Loaded(window, state.busy_ns / 1e9, stopped_by, np.array(state.latencies, np.int64))


def _of_server(streams: Sequence[Stream], served: Served, stopped_by: str) -> Loaded:
    window = Window(len(streams), len(served.latencies_ns), served.seconds)
    return Loaded(window, served.busy_s, stopped_by, served.latencies_ns, served)


def highest_rate(streams: Sequence[Stream], bound_ns: int, plan: Plan, seed: int, world: World) -> Loaded:
    """What was served at the highest rate that holds the bound at p99, from what the streams can do at most."""
    most, _ = saturate(streams, SWEEP_WINDOW, plan.min_s / 2, plan.max_s, world)
    found = server.search(streams, most.per_s, bound_ns, plan, seed, world)
    others = sum(probe.queries for probe in found.probes)
    if found.best is None:
        none = Served(0.0, 0, np.zeros(0, np.int64), 0.0, 0.0, None, overloaded=False)
        return Loaded(most, 0.0, found.stopped_by, served=none, probes=found.probes, others=others)
    others += most.inferences - len(found.best.latencies_ns)
    return replace(_of_server(streams, found.best, found.stopped_by), probes=found.probes, others=others)


def fits(loaded: Loaded) -> bool:
    """Whether this could have happened: latencies are positive and within the time, and no stream did two at once."""
    window, taken = loaded.window, loaded.latencies_ns
    possible = loaded.busy_s <= window.streams * window.seconds * (1 + 1e-9)
    return possible and bool(((taken > 0) & (taken <= window.seconds * 1e9 + 1)).all())
