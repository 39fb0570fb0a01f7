"""A server under load: queries that arrive at random, and the highest rate that holds a bound. Runs inside the child.

Latency counts from the *scheduled* arrival until the outputs are there. The schedule is made before the start, so a
stall is charged to every query that should have come meanwhile (no coordinated omission).
Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.interface import Array, Plan
from bench.measure.streams import START_NS, Stream, World, telling

# Between these two a highest rate is known well enough; and so many rates are tried at most.
RATE_STEP = 1.05
MAX_PROBES = 12
# A p99 takes 662 queries: half a minute of a model that answers 20 a second, however soon its median is known.
PROBE_TIMES = 6
# The fewest queries that can show a p99. Source: MLPerf's early stopping, as `stats.min_count(0.99)`.
QUERIES = 662
# A server that has more than this share of its queries still waiting when the last one arrives falls behind for good:
# at 90 % of what one stream can do, 1 in 150 waits.
MAX_BACKLOG = 0.05


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
class Search:
    """The highest rate that held, None where none did; every rate that was tried; and why no more were."""

    best: Served | None
    probes: tuple[Probe, ...]
    stopped_by: str


def arrivals(rate: float, count: int, seed: Sequence[int]) -> Array:
    """When queries arrive, in nanoseconds from the start: a Poisson process, the same for the same seed."""
    gaps = np.random.default_rng(seed).exponential(1e9 / rate, count)
    return np.cumsum(gaps).astype(np.int64)


def count_at(rate: float, plan: Plan) -> int:
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
            with telling(stop):
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


def search(streams: Sequence[Stream], most_per_s: float, bound_ns: int, plan: Plan, seed: int, world: World) -> Search:
    """The highest rate that was seen to hold the bound at p99, by bisection of its logarithm.

    It starts at 90 % of what the streams can do at most (`most_per_s`), and ends when the lowest rate that did not hold
    is within 5 % of the highest that did.
    """
    probes: list[Probe] = []
    best: Served | None = None
    stopped_by = "no rate holds the bound"
    for rate in _rates(most_per_s, probes):
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
    if best is not None:
        stopped_by = "known within 5 %" if len(probes) < MAX_PROBES else "enough probes"
    return Search(best, tuple(probes), stopped_by)


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
