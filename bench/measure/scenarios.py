"""Load on several streams, with MLPerf's names: multi-stream, offline and server. Runs inside the child.

`single-stream` is the timed loop of `loop.py`. Standard library and numpy only, Python 3.10.

What is counted:
    offline       whole inferences of streams that never wait, over the time until the last stream is done
    multi-stream  from the issue of a query until the last of its samples is done; the next is issued at once
    server        from the *scheduled* arrival until the outputs are there. The schedule is made before the start, so a
                  stall is charged to every query that should have come meanwhile (no coordinated omission)

Source: MLPerf Inference rules and LoadGen 6.0, `test_settings.h`.
"""

from __future__ import annotations

import itertools
import math
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import numpy as np

from bench.interface import Array, Plan
from bench.measure.streams import Pool, Stream, World

Name = Literal["single-stream", "multi-stream", "offline", "server"]
NAMES: tuple[Name, ...] = ("single-stream", "multi-stream", "offline", "server")
# A stream more must bring this share of throughput, or the number before it was enough.
MIN_GAIN = 0.05
# The sweep ends at this many streams per core.
STREAMS_PER_CORE = 2
# Between these two a highest rate is known well enough; and so many rates are tried at most.
RATE_STEP = 1.05
MAX_PROBES = 12
# A p99 takes 662 queries: half a minute of a model that answers 20 a second, however soon its median is known.
PROBE_TIMES = 6
# The fewest queries that can show a p99. Source: MLPerf's early stopping, as `stats.min_count(0.99)`.
QUERIES = 662
# Inferences of each stream in a window, and in one of the sweep. What others have half done when a stream ends is not
# counted: less than one inference a stream, half a stream's last on average.
WINDOW, SWEEP_WINDOW = 64, 32
# Threads take about 0.1 ms to start; then everything begins at once.
START_NS = 5_000_000
# A server that has more than this share of its queries still waiting when the last one arrives falls behind for good:
# at 90 % of what one stream can do, 1 in 150 waits.
MAX_BACKLOG = 0.05


@dataclass(frozen=True, slots=True)
class Scenario:
    """How load is made. `streams`: parallel sessions, None for as many as pay (offline) or as have cores.

    server: at `rate` queries per second, or at the highest rate whose p99 stays below `latency_bound_ns`.
    """

    name: Name = "single-stream"
    streams: int | None = None
    samples_per_query: int | None = None
    rate: float | None = None
    latency_bound_ns: int | None = None


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
class Served:
    """What became of a schedule. `latencies_ns`: of the queries that were answered, in the order of their arrival.

    `late_ns`: how much later than planned an idle stream began, in the median: the harness's own share of the latency,
    None where no stream was ever idle. `overloaded`: queries were given up, or too many waited at the end.
    """

    rate: float
    scheduled: int
    latencies_ns: Array
    busy_s: float
    seconds: float
    late_ns: int | None
    overloaded: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """One rate that was tried. `p99_ns` is None where it was given up: too many queries had missed the bound."""

    rate: float
    queries: int
    p99_ns: int | None
    held: bool


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
    windows = MAX_PROBES * PROBE_TIMES if scenario.latency_bound_ns else 1
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
    due_ns = arrivals(scenario.rate, _count(scenario.rate, plan), (seed, 0))
    served = serve(streams, due_ns, scenario.rate, plan.min_s, world)
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
            with _telling(stop):
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


@contextmanager
def _telling(stop: threading.Event) -> Iterator[None]:
    """Tell the other streams when this one fails: what they would still measure is of no use."""
    try:
        yield
    except BaseException:
        stop.set()
        raise


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


def arrivals(rate: float, count: int, seed: Sequence[int]) -> Array:
    """When queries arrive, in nanoseconds from the start: a Poisson process, the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.cumsum(gaps).astype(np.int64)


def _count(rate: float, plan: Plan) -> int:
    """How many queries arrive at a rate: enough for a p99 and both minimums, but for no longer than the limit."""
    return max(1, min(max(QUERIES, plan.min_count, math.ceil(rate * plan.min_s)), int(rate * plan.max_s)))


def serve(
    streams: Sequence[Stream],
    due_ns: Array,
    rate: float,
    drain_s: float,
    world: World,
    may_miss: tuple[int, int] | None = None,
) -> Served:
    """Answer queries that arrive as scheduled, first come, first served.

    A stream that becomes free takes the next query of the schedule and sleeps until it arrives: the same as a queue in
    front of all streams, without a thread that hands over. What has not begun `drain_s` (or a tenth of the schedule)
    after the last arrival is given up. `may_miss`: (bound in ns, how many may miss it): one more ends it at once.
    """
    begin = world.now() + START_NS
    last = int(due_ns[-1])
    limit = begin + last + max(int(drain_s * 1e9), last // 10)
    starts, ends = np.zeros(len(due_ns), np.int64), np.zeros(len(due_ns), np.int64)
    idle = np.zeros(len(due_ns), bool)
    due = (begin + due_ns).tolist()
    queue = enumerate(due)  # one step of it cannot be divided between threads
    stop = threading.Event()
    missed = itertools.count(1)
    bound, most = may_miss or (0, len(due))  # more than all can never miss

    def job(stream: Stream) -> Callable[[], None]:
        def work() -> None:
            with _telling(stop):
                for number, arrival in queue:
                    free = world.now()
                    if free > limit or stop.is_set():
                        return
                    idle[number] = free < arrival
                    world.wait_until(arrival)
                    starts[number] = world.now()
                    stream.run()
                    ends[number] = end = world.now()
                    if end - arrival > bound and next(missed) > most:
                        stop.set()

        return work

    world.together([job(stream) for stream in streams])
    done = ends > 0
    arrived = np.array(due, np.int64)
    waiting = int(np.sum(~done | (starts > arrived[-1])))
    late = (starts - arrived)[idle & done]
    return Served(
        rate=rate,
        scheduled=len(due),
        latencies_ns=(ends - arrived)[done],
        busy_s=float(np.sum((ends - starts)[done])) / 1e9,
        seconds=(int(ends.max()) - begin) / 1e9,
        late_ns=int(np.median(late)) if late.size else None,
        overloaded=waiting > len(due) * MAX_BACKLOG + len(streams),
    )


def _of_server(streams: Sequence[Stream], served: Served, stopped_by: str) -> Loaded:
    window = Window(len(streams), len(served.latencies_ns), served.seconds)
    return Loaded(window, served.busy_s, stopped_by, served.latencies_ns, served)


def highest_rate(streams: Sequence[Stream], bound_ns: int, plan: Plan, seed: int, world: World) -> Loaded:
    """The highest rate that was seen to hold the bound at p99, by bisection of its logarithm.

    It starts at 90 % of what the streams can do at most, and ends when the lowest rate that did not hold is within 5 %
    of the highest that did.
    """
    most, _ = saturate(streams, SWEEP_WINDOW, plan.min_s / 2, plan.max_s, world)
    probes: list[Probe] = []
    best: Served | None = None
    stopped_by = "no rate holds the bound"
    for rate in _rates(most.per_s, probes):
        count = max(QUERIES, plan.min_count, math.ceil(rate * plan.min_s))
        if count / rate > plan.max_s * PROBE_TIMES:
            stopped_by = f"{count} queries at {rate:.3g} per s take over {PROBE_TIMES} x --max-time"
            break
        due_ns = arrivals(rate, count, (seed, len(probes)))
        may_miss = (bound_ns, count - math.ceil(0.99 * count))
        served = serve(streams, due_ns, rate, plan.min_s, world, may_miss)
        probes.append(_probe(served, bound_ns))
        if probes[-1].held:
            best = served
        elif served.latencies_ns.min() > bound_ns:
            break  # not one query was in time: no lower rate helps
    others = sum(probe.queries for probe in probes)
    if best is None:
        none = Served(0.0, 0, np.zeros(0, np.int64), 0.0, 0.0, None, overloaded=False)
        return Loaded(most, 0.0, stopped_by, served=none, probes=tuple(probes), others=others)
    stopped_by = "known within 5 %" if len(probes) < MAX_PROBES else "enough probes"
    found = _of_server(streams, best, stopped_by)
    others += most.inferences - len(best.latencies_ns)
    return replace(found, probes=tuple(probes), others=others)


def _probe(served: Served, bound_ns: int) -> Probe:
    """Whether every query was answered and at most one in a hundred missed the bound (p99 by nearest rank)."""
    complete = len(served.latencies_ns) == served.scheduled
    p99 = int(np.sort(served.latencies_ns)[math.ceil(0.99 * served.scheduled) - 1]) if complete else None
    held = p99 is not None and p99 <= bound_ns and not served.overloaded
    return Probe(served.rate, len(served.latencies_ns), p99, held)


def _rates(most: float, probes: list[Probe]) -> Iterator[float]:
    """The next rate to try, seen what became of the others. Above 1.1 times `most` none can hold."""
    low, high = 0.0, 1.1 * most
    rate = 0.9 * most
    while len(probes) < MAX_PROBES and high > low * RATE_STEP:
        yield rate
        if probes[-1].held:
            low = rate
        else:
            high = rate
        rate = math.sqrt(low * high) if low else high / 2


def fits(loaded: Loaded) -> bool:
    """Whether this could have happened: latencies are positive and within the time, and no stream did two at once."""
    window, taken = loaded.window, loaded.latencies_ns
    possible = loaded.busy_s <= window.streams * window.seconds * (1 + 1e-9)
    return possible and bool(((taken > 0) & (taken <= window.seconds * 1e9 + 1)).all())
