"""The timed loop. It runs inside the child, next to the runtime; nothing else in that process is awake meanwhile.

Standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

import gc
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice
from time import perf_counter_ns

import numpy as np

from bench.errors import RunError
from bench.interface import Feeds, Outputs, Plan, Samples, Series, Session
from bench.measure import stats, steady

# Between two looks at the stop rule the loop runs this long, so that the look costs nothing per iteration and yet a
# limit is kept to within it. Rule of thumb: a thousandth of the shortest useful measurement is too fine, a tenth too
# coarse.
CHUNK_NS = 20_000_000
# The warm-up is judged by one duration per stretch of this length, the median of its inferences: at most 2500 of them
# in five seconds, however short an inference is.
WARM_UP_CHUNK_NS = 2_000_000
MAX_CHUNK = 100_000
# So often the machine is looked at between two inferences. Source: squeezenet on ncnn, which minds its caches most,
# takes 0.2 % longer when it is every 20 ms, others at most 0.1 % (x86-64, 800 stretches with and without; 2026-11).
ASK_BETWEEN_NS = 50_000_000
# Precision is looked at when the loop has lasted this much longer than at the look before: a dozen looks in all.
LOOK_AGAIN = 1.25
# A clock read twice in a row differs by about this much; what exceeds the bracket by more is impossible.
BRACKET_SLACK_NS = 1_000

Between = Callable[[], bool]


def undisturbed() -> bool:
    """Nobody looks between two inferences."""
    return False


def measure(
    session: Session, feeds: Sequence[Feeds], plan: Plan, between: Between = undisturbed
) -> tuple[Samples, int]:
    """Samples of the session, by its own clock if it has one, and the harness's bracket around them in nanoseconds.

    Raises:
        RunError: the backend gave no outputs, or its own clock gave samples that cannot be read.
    """
    with no_garbage_collection():
        begin = perf_counter_ns()
        samples = session.measure(feeds, plan)
        if samples is None:
            samples, bracket = timed(session.run, feeds, plan, between)
            return replace(samples, series=(*samples.series, *_of_device(session, feeds, plan, samples))), bracket
        bracket = perf_counter_ns() - begin
    check(samples, len(feeds))
    return samples, bracket


def _of_device(session: Session, feeds: Sequence[Feeds], plan: Plan, timed_: Samples) -> tuple[Series, ...]:
    """What the session says of scopes inside an inference, held against the time that saying it took.

    Raises:
        RunError: it cannot be read, or it cannot have happened meanwhile.
    """
    begin = perf_counter_ns()
    series = session.device_series(feeds, plan)
    bracket = perf_counter_ns() - begin
    if series:
        said = replace(timed_, series=series)
        check(said, len(feeds))
        if not fits(said, bracket):
            raise RunError("the durations inside an inference add up to more time than passed, or are not positive")
    return series


def check(samples: Samples, feeds: int) -> None:
    """Refuse what a backend's own clock cannot have meant, before anybody computes with it.

    Raises:
        RunError: they are none, no whole nanoseconds, or made by a feed that there is not.
    """
    if not samples.series or any(np.size(s.samples_ns) == 0 for s in samples.series):
        raise RunError("the backend's own clock returned no samples")
    if any(np.asarray(s.samples_ns).dtype.kind not in "iu" or np.ndim(s.samples_ns) != 1 for s in samples.series):
        raise RunError("the backend's own clock returned durations that are not a list of whole nanoseconds")
    if not 0 <= samples.feed_index < feeds:
        raise RunError(f"the backend says that feed {samples.feed_index} of {feeds} made its last outputs")


def fits(samples: Samples, bracket_ns: int) -> bool:
    """Whether these durations, which do not overlap, could have happened inside the bracket.

    A duration of zero could not: the fastest no-op takes tens of nanoseconds. A clock too coarse to see an inference
    cannot tell it from one that never ran, so it cannot vouch for a published number.
    """
    # Summed as floats: absurd durations must not wrap around to a small sum.
    return all(
        np.sum(s.samples_ns, dtype=np.float64) <= bracket_ns + BRACKET_SLACK_NS
        and bool((np.asarray(s.samples_ns) > 0).all())
        for s in samples.series
    )


def timed(
    run: Callable[[Feeds], Outputs], feeds: Sequence[Feeds], plan: Plan, between: Between = undisturbed
) -> tuple[Samples, int]:
    """Warm up, then time `run` on the feeds in rotation until the plan is met.

    `between` two inferences it is asked now and then, before the first and after the last, too, whether somebody else
    disturbed what was timed since: then that is void, whatever it shows, and each feed is run once, untimed. Neither
    that nor the asking nor the warm-up is in the plan's limits or in the bracket.
    """
    warm = warm_up(run, feeds, plan)
    chunk = int(max(1, min(MAX_CHUNK, CHUNK_NS // max(1, warm.typical_ns))))
    samples = array("q")  # eight bytes each: a list of a million would show in the process's peak memory
    rotation, stop = cycle(feeds), _StopRule(plan)
    ran = counted = counted_ns = 0
    outputs: Outputs = {}
    if between():
        chunk_of(run, feeds, _untimed)
    begin = perf_counter_ns()
    while True:
        outputs = {}  # freed: beside the next outputs it would be memory that a deployed model does not take
        outputs = chunk_of(run, islice(rotation, chunk), samples.append)
        ran += chunk
        elapsed = perf_counter_ns() - begin
        stopped_by = stop.reason(samples, elapsed)
        if not stopped_by and elapsed < counted_ns + ASK_BETWEEN_NS:
            continue
        if between():
            del samples[counted:]
            outputs = {}
            chunk_of(run, feeds, _untimed)
            stop.look_again()
            begin = perf_counter_ns() - counted_ns
            continue
        if stopped_by:
            break
        counted, counted_ns = len(samples), elapsed
        begin = perf_counter_ns() - elapsed
    series = Series("end_to_end", "host", np.array(samples, dtype=np.int64))
    last = (ran - 1) % len(feeds)
    return Samples((series,), outputs, last, warm.count, stopped_by, warm.ended_by), elapsed


class _StopRule:
    """Why a plan's loop ends; it looks at the precision a dozen times."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._look_at_ns = 0.0

    def reason(self, samples: array[int], elapsed_ns: int) -> str:
        """Empty while it goes on."""
        plan = self._plan
        if len(samples) >= plan.min_count and elapsed_ns >= plan.min_s * 1e9:
            if plan.target is None:
                return "minimums met"
            if elapsed_ns >= self._look_at_ns:
                if stats.precise(np.frombuffer(samples, np.int64), plan.target):
                    return "precise enough"
                self._look_at_ns = elapsed_ns * LOOK_AGAIN
        return "time limit" if elapsed_ns >= plan.max_s * 1e9 else ""

    def look_again(self) -> None:
        """As soon as the minimums are met: what was seen last is void."""
        self._look_at_ns = 0.0


def _untimed(ns: int) -> None:
    """Keeps nothing."""


def chunk_of(run: Callable[[Feeds], Outputs], rotation: Iterable[Feeds], keep: Callable[[int], None]) -> Outputs:
    """Time one call of `run` per feed; the last outputs. This is the whole cost of the harness per inference."""
    clock = perf_counter_ns
    outputs = None
    for feed in rotation:
        outputs = None  # freed here, outside the timed span: a large output's memory goes back to the system
        begin = clock()
        outputs = run(feed)
        end = clock()
        keep(end - begin)
    if outputs is None:
        raise RunError("the backend returned no outputs from a timed inference")
    return outputs


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How many inferences, the fastest of them, and whether they were `steady` or the `limit` was reached."""

    count: int
    typical_ns: int
    ended_by: str


def warm_up(run: Callable[[Feeds], Outputs], feeds: Sequence[Feeds], plan: Plan) -> WarmUp:
    """Run until both minimums are met and the durations are steady, or the limit is reached."""
    rotation = cycle(feeds)
    typical: list[float] = []
    count, chunk, fastest = 0, 1, 0
    look_at_ns = 0.0
    begin = perf_counter_ns()
    while True:
        taken = array("q")
        chunk_of(run, islice(rotation, chunk), taken.append)
        count += chunk
        typical.append(float(np.median(np.frombuffer(taken, np.int64))))
        fastest = min(fastest or min(taken), min(taken))
        elapsed = perf_counter_ns() - begin
        if elapsed >= plan.warmup_max_s * 1e9:
            return WarmUp(count, fastest, "limit")
        if count >= plan.warmup_min_count and elapsed >= max(plan.warmup_min_s * 1e9, look_at_ns):
            if steady.steady(typical, len(feeds)):
                return WarmUp(count, fastest, "steady")
            look_at_ns = elapsed * 1.1
        chunk = int(max(1, min(MAX_CHUNK, WARM_UP_CHUNK_NS // max(1, fastest))))
        chunk += -chunk % len(feeds) if chunk > 1 else 0  # whole rotations have the same median


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A collection in the middle of an inference would be charged to it; Python's `timeit` does the same."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
