"""The timed loop, with a clock that only moves when a test's session says so."""

from __future__ import annotations

import gc
import itertools

import numpy as np
import pytest

from bench.errors import RunError
from bench.interface import Plan, Samples, Series, Session
from bench.measure import loop

MS = 1_000_000
NEVER = 1e9


class Clock:
    """Stands in for perf_counter_ns. Each look at it takes a nanosecond, so that no two are the same."""

    def __init__(self):
        self.now = 0
        self.looks = []

    def __call__(self):
        self.now += 1
        self.looks.append(self.now)
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(loop, "perf_counter_ns", made)
    return made


class Steps(Session):
    """Each run takes the next of these times."""

    def __init__(self, clock, times_ns):
        self.clock, self.times_ns = clock, iter(times_ns)
        self.fed = []

    def run(self, feeds):
        self.fed.append(feeds["n"])
        self.clock.now += next(self.times_ns)
        return {"n": feeds["n"]}


def constant(clock, ns):
    return Steps(clock, itertools.repeat(ns))


def plan(count=1, min_s=0.0, max_s=NEVER, warm=(1, 0.0, 0.0), target=None):
    """A plan whose warm-up is one inference, unless it says otherwise."""
    return Plan(count, min_s, max_s, *warm, target)


def feeds(count):
    return [{"n": index} for index in range(count)]


def test_samples_are_what_the_runs_took(clock):
    times = [5 * MS, 100 * MS, 300 * MS, 200 * MS]
    samples, bracket = loop.measure(Steps(clock, times), feeds(1), plan(count=3))
    (series,) = samples.series
    assert (series.scope, series.clock) == ("end_to_end", "host")
    assert series.samples_ns.dtype == np.int64
    assert series.samples_ns.tolist()[:3] == [t + 1 for t in times[1:]]
    assert loop.fits(samples, bracket)


def test_the_count_is_kept_for_slow_models(clock):
    samples, _ = loop.measure(constant(clock, 50 * MS), feeds(2), plan(count=7))
    assert len(samples.series[0].samples_ns) == 7
    assert samples.stopped_by == "minimums met"


def test_the_time_is_kept_for_fast_models(clock):
    samples, bracket = loop.measure(constant(clock, 1000), feeds(2), plan(count=1, min_s=1.0))
    assert 1e9 <= bracket <= 1e9 + 2 * loop.CHUNK_NS
    assert samples.stopped_by == "minimums met"
    assert len(samples.series[0].samples_ns) >= 0.9e9 / 1100


def test_both_minimums_hold(clock):
    samples, _ = loop.measure(constant(clock, 100 * MS), feeds(1), plan(count=3, min_s=1.0))
    assert len(samples.series[0].samples_ns) == 10
    samples, _ = loop.measure(constant(clock, 100 * MS), feeds(1), plan(count=20, min_s=1.0))
    assert len(samples.series[0].samples_ns) == 20


def test_what_was_disturbed_is_void_and_asking_takes_no_time_of_the_plan(clock):
    made, said = constant(clock, 10 * MS), itertools.chain([True, False, True], itertools.cycle([False, False, True]))
    ran = []

    def between():
        ran.append(len(made.fed))
        clock.now += 200 * MS
        return next(said)

    samples, bracket = loop.measure(made, feeds(2), plan(count=1, min_s=0.5), between)
    taken = samples.series[0].samples_ns
    assert 50 <= len(taken) <= 54
    assert taken.max() < 11 * MS
    assert 0.5e9 <= bracket < 0.55e9
    assert loop.fits(samples, bracket)
    assert ran[:4] == [1, 8, 13, 20]  # after the warm-up and each 50 ms; where it was disturbed both feeds run again
    assert samples.feed_index == made.fed[-1]


def test_what_is_disturbed_at_the_end_is_measured_again(clock):
    said = itertools.chain([False, True, False, True], itertools.repeat(False))
    made = Steps(clock, [90 * MS, 91 * MS, 90 * MS, 30 * MS, 31 * MS, 99 * MS, 90 * MS, 32 * MS])
    samples, _ = loop.measure(made, feeds(1), plan(count=3), lambda: next(said))
    assert samples.series[0].samples_ns.tolist() == [30 * MS + 1, 31 * MS + 1, 32 * MS + 1]
    assert samples.stopped_by == "minimums met"


@pytest.mark.parametrize("ns", [1000, 3 * MS, 150 * MS])
def test_the_longest_time_ends_it_whatever_is_missing(clock, ns):
    samples, bracket = loop.measure(constant(clock, ns), feeds(1), plan(count=10**9, max_s=1.0))
    assert samples.stopped_by == "time limit"
    assert bracket <= 1e9 + loop.CHUNK_NS + 2 * ns
    assert len(samples.series[0].samples_ns) >= 6


def noisy(clock, ns, share, seed=1):
    random = np.random.default_rng(seed)
    return Steps(clock, (int(ns * (1 + share * random.standard_normal())) for _ in itertools.count()))


def test_it_ends_when_the_median_is_precise(clock):
    """1.25 standard errors of the mean, twice: 5 % of noise take about 150 samples for 1 %, 0.5 % take the minimum."""
    samples, _ = loop.measure(noisy(clock, 10 * MS, 0.05), feeds(1), plan(count=11, target=0.01))
    assert samples.stopped_by == "precise enough"
    assert 60 < len(samples.series[0].samples_ns) < 500
    samples, _ = loop.measure(noisy(clock, 10 * MS, 0.005), feeds(1), plan(count=20, target=0.01))
    assert samples.stopped_by == "precise enough"
    assert 20 <= len(samples.series[0].samples_ns) <= 22


def test_both_minimums_hold_however_precise_it_is(clock):
    samples, bracket = loop.measure(constant(clock, 1000), feeds(1), plan(count=3, min_s=0.5, target=0.5))
    assert bracket >= 0.5e9
    assert samples.stopped_by == "precise enough"
    samples, _ = loop.measure(constant(clock, 100 * MS), feeds(1), plan(count=30, target=0.5))
    assert len(samples.series[0].samples_ns) == 30


def test_it_gives_up_precision_at_the_longest_time(clock):
    samples, bracket = loop.measure(noisy(clock, 10 * MS, 0.2), feeds(1), plan(count=11, max_s=1.0, target=0.001))
    assert samples.stopped_by == "time limit"
    assert 1e9 <= bracket <= 1e9 + 2 * loop.CHUNK_NS


def test_precision_is_looked_at_a_dozen_times(clock, monkeypatch):
    looks = []
    monkeypatch.setattr(loop.stats, "precise", lambda samples, target: looks.append(len(samples)))
    loop.measure(constant(clock, MS), feeds(1), plan(count=11, min_s=0.5, max_s=10.0, target=0.01))
    assert 8 <= len(looks) <= 16
    assert np.all(np.diff(looks) > 0.2 * np.array(looks[:-1]))


def test_at_least_one_sample(clock):
    samples, _ = loop.measure(constant(clock, 1000 * MS), feeds(1), plan(count=0, max_s=0.0, warm=(0, 0.0, 0.0)))
    assert len(samples.series[0].samples_ns) == 1
    assert samples.warmup_count == 1


@pytest.mark.parametrize(("count", "ns"), [(1, 50 * MS), (2, 50 * MS), (3, 50 * MS), (3, 2000), (7, 9 * MS)])
def test_feeds_rotate_and_the_last_is_named(clock, count, ns):
    session = constant(clock, ns)
    samples, _ = loop.measure(session, feeds(count), plan(count=10))
    timed = session.fed[samples.warmup_count :]
    assert timed == [index % count for index in range(len(timed))]
    assert samples.feed_index == timed[-1]
    assert samples.outputs == {"n": timed[-1]}


@pytest.mark.parametrize(
    ("warm", "count", "ended_by"),
    [
        ((5, 0.0, NEVER), 6, "steady"),  # the fewest that can be seen to be steady
        ((0, 0.95, NEVER), 10, "steady"),
        ((3, 0.95, NEVER), 10, "steady"),
        ((20, 0.95, NEVER), 20, "steady"),
        ((10**9, 0.0, 0.95), 10, "limit"),
        ((3, 5.0, 0.0), 1, "limit"),
    ],
)
def test_warm_up(clock, warm, count, ended_by):
    ns = 100 * MS
    samples, bracket = loop.measure(constant(clock, ns), feeds(2), plan(count=2, warm=warm))
    assert samples.warmup_count == count
    assert samples.warmup_ended_by == ended_by
    assert bracket < 3 * ns, "the warm-up is not in the bracket"


def test_one_slow_first_run_does_not_spoil_the_stop_rule(clock):
    session = Steps(clock, itertools.chain([3000 * MS], itertools.repeat(1000)))
    _, bracket = loop.measure(session, feeds(1), plan(count=1, max_s=0.1, warm=(3, 0.0, 4.0)))
    assert bracket <= 0.1e9 + 2 * loop.CHUNK_NS


def test_the_harness_looks_at_the_clock_twice_a_run(clock):
    session = constant(clock, 1000)
    loop.measure(session, feeds(1), plan(count=1, min_s=0.1))
    assert len(clock.looks) < 2.1 * len(session.fed) + 20


class Output:
    """Says when it is freed."""

    def __init__(self, log):
        self.log = log

    def __del__(self):
        self.log.append("freed")


@pytest.mark.parametrize("ns", [50 * MS, 7 * MS])
def test_outputs_are_freed_before_the_clock_starts(clock, monkeypatch, ns):
    log = []

    class Logged(Session):
        def run(self, feeds):
            log.append("run")
            clock.now += ns
            return {"y": Output(log)}

    monkeypatch.setattr(loop, "perf_counter_ns", lambda: log.append("clock") or clock())
    samples, _ = loop.measure(Logged(), feeds(1), plan(count=12))
    events = log[len(log) - log[::-1].index("run") - 1 :]
    assert "freed" not in events, "the last outputs are kept"
    starts = [index for index, event in enumerate(log) if event == "run"][samples.warmup_count :]
    for start in starts:
        assert (log[start - 1], log[start + 1]) == ("clock", "clock"), "nothing else happens while it is timed"
    for start, following in itertools.pairwise(starts):
        assert log[start:following].count("freed") == 1, "no two outputs live at once"


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_garbage_collection_is_off_meanwhile_and_as_it_was_after(clock, enabled, fails):
    seen = []

    class Watching(Session):
        def run(self, feeds):
            seen.append(gc.isenabled())
            clock.now += MS
            if fails and len(seen) == 3:
                raise RunError("x")
            return {}

    was = gc.isenabled()
    gc.enable() if enabled else gc.disable()
    try:
        if fails:
            with pytest.raises(RunError):
                loop.measure(Watching(), feeds(1), plan(count=9))
        else:
            loop.measure(Watching(), feeds(1), plan(count=9))
        assert gc.isenabled() is enabled
    finally:
        gc.enable() if was else gc.disable()
    assert seen
    assert not any(seen)


def test_a_run_that_returns_nothing(clock):
    class Silent(Session):
        def run(self, feeds):
            clock.now += MS

    with pytest.raises(RunError, match="no outputs"):
        loop.measure(Silent(), feeds(1), plan(count=9))


def test_an_error_of_a_run_is_passed_on(clock):
    class Failing(Session):
        def run(self, feeds):
            raise RunError("so it is")

    with pytest.raises(RunError, match="so it is"):
        loop.measure(Failing(), feeds(1), plan())


# --- clocks of backends


def own(samples_ns, outputs=None, index=0, more=()):
    class Own(Session):
        def run(self, feeds):
            raise AssertionError("its own clock takes the time")

        def measure(self, feeds, plan):
            series = (Series("compute", "device", np.asarray(samples_ns)), *more)
            return Samples(series, outputs or {}, index, 4, "enough")

    return Own()


def test_a_backends_own_clock_is_used_and_bracketed(clock):
    session = own([5, 6])
    inner = session.measure

    def measure(feeds, plan):
        clock.now += 100
        return inner(feeds, plan)

    session.measure = measure
    samples, bracket = loop.measure(session, feeds(1), plan())
    assert samples.series[0].samples_ns.tolist() == [5, 6]
    assert samples.warmup_count == 4
    assert bracket == 101


@pytest.mark.parametrize(
    ("samples_ns", "index"),
    [
        (np.array([], np.int64), 0),
        ([1.5, 2.0], 0),
        ([[1, 2]], 0),
        (["a"], 0),
        (7, 0),
        ([1], 2),
        ([1], -1),
    ],
)
def test_what_a_backends_own_clock_cannot_have_meant(samples_ns, index):
    with pytest.raises(RunError):
        loop.measure(own(samples_ns, index=index), feeds(2), plan())


def test_a_backends_own_clock_without_any_series():
    session = own([1])
    session.measure = lambda feeds, plan: Samples((), {}, 0)
    with pytest.raises(RunError, match="no samples"):
        loop.measure(session, feeds(1), plan())


SLACK = loop.BRACKET_SLACK_NS


@pytest.mark.parametrize(
    ("samples_ns", "possible"),
    [
        ([40, 60], True),
        ([1], True),
        ([40, 60 + SLACK], True),
        ([40, 61 + SLACK], False),
        ([50, 0], False),
        ([50, -1], False),
        ([2**62, 2**62, 2**62], False),
        ([2**63 - 1, 1], False),
    ],
)
def test_samples_that_could_have_happened(samples_ns, possible):
    good = Series("compute", "device", np.array([1]))
    series = Series("compute", "device", np.array(samples_ns, np.int64))
    assert loop.fits(Samples((series,), {}, 0), 100) is possible
    assert loop.fits(Samples((good, series), {}, 0), 100) is possible, "each series is looked at"
