"""Load on streams, in a world whose clock moves only when every thread in it waits: all results are exact."""

from __future__ import annotations

import heapq
import itertools
import math
import subprocess
import sys
import threading
from collections import deque
from pathlib import Path

import msgspec
import numpy as np
import pytest

from backends.fake import Fake
from bench.cli.scenario import parse
from bench.errors import RunError, UsageError
from bench.evidence import load
from bench.fold.streams import server as folded_server
from bench.fold.streams import throughput as folded_throughput
from bench.interface import Options, Plan
from bench.measure import scenarios, server, stats
from bench.measure.scenarios import Scenario
from bench.measure.streams import Pool, ProcessStream, RealWorld, ThreadStream
from bench.record import ProbeFacts, Record, ServerFacts, StreamsFacts, TrialLine
from bench.registry import complete_options
from bench.report import loaded
from bench.runner import cell_of
from bench.store import read_records
from bench.worker import loaded as worker_loaded

MS = 1_000_000
S = 1_000_000_000
GOLDEN = Path(__file__).parent / "golden" / "schema-1.jsonl"


class World:
    """One thread runs at a time; when all wait, the clock moves on to the first that is due."""

    def __init__(self):
        self.time, self.left = 0, 0
        self.ready, self.asleep, self.order = deque(), [], itertools.count()
        self.done = threading.Semaphore(0)

    def now(self):
        return self.time

    def wait_until(self, due_ns):
        if due_ns > self.time:
            baton = threading.Semaphore(0)
            heapq.heappush(self.asleep, (due_ns, next(self.order), baton))
            self.give_way()
            baton.acquire()

    def give_way(self):
        if self.ready:
            self.ready.popleft().release()
        elif self.asleep:
            self.time, _, baton = heapq.heappop(self.asleep)
            baton.release()
        else:
            self.done.release()

    def tokens(self):
        world, queued, waiting = self, deque(), deque()

        class Tokens:
            def put(self, token):
                queued.append(token)
                if waiting:
                    world.ready.append(waiting.popleft())

            def get(self):
                while not queued:
                    baton = threading.Semaphore(0)
                    waiting.append(baton)
                    world.give_way()
                    baton.acquire()
                return queued.popleft()

        return Tokens()

    def together(self, jobs):
        results, errors, batons = {}, [], [threading.Semaphore(0) for _ in jobs]
        self.left = len(jobs)

        def work(number):
            batons[number].acquire()
            try:
                results[number] = jobs[number]()
            except BaseException as error:  # noqa: BLE001
                errors.append(error)
            self.left -= 1
            self.give_way()

        threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(jobs))]
        for thread in threads:
            thread.start()
        self.ready.extend(batons)
        self.give_way()
        self.done.acquire()
        assert self.left == 0, "every thread waits for another"
        if errors:
            raise errors[0]
        return [results[n] for n in range(len(jobs))]


class Busy:
    """A stream whose inferences take these times."""

    def __init__(self, world, times_ns):
        self.world, self.times = world, iter(times_ns)
        self.done = 0

    def run(self):
        self.world.wait_until(self.world.now() + next(self.times))
        self.done += 1

    def last(self):
        return {}, 0

    def cpu_s(self):
        return 0.0

    def close(self):
        pass


class Failing(Busy):
    def run(self):
        if self.done == 5:
            raise RunError("so it is")
        super().run()


def same(world, count, ns):
    return [Busy(world, itertools.repeat(ns)) for _ in range(count)]


def plan(**changed):
    return Plan(**{"min_count": 1, "min_s": 1.0, "max_s": 1e6, "warmup_min_s": 0.0, **changed})


@pytest.fixture
def world():
    return World()


# --- offline


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_throughput_is_inferences_over_time(world, count):
    found = scenarios.measure(Scenario("offline"), same(world, count, 10 * MS), plan(), 0, world)
    assert found.window == scenarios.Window(count, count * 100, 1.0)
    assert found.window.per_s == pytest.approx(count * 100)
    assert (found.served, found.latencies_ns.size, scenarios.fits(found)) == (None, 0, True)


def test_throughput_ends_with_the_last_stream_and_counts_whole_inferences(world):
    streams = [Busy(world, itertools.repeat(10 * MS)), Busy(world, itertools.repeat(150 * MS))]
    window, busy_s = scenarios.saturate(streams, 1, 1.0, 1e6, world)
    assert window == scenarios.Window(2, 100 + 7, 1.05)
    assert busy_s == pytest.approx(1.0 + 1.05)


def test_slow_models_get_enough_inferences_and_the_limit_is_kept(world):
    found = scenarios.measure(Scenario("offline"), same(world, 2, 500 * MS), plan(), 0, world)
    assert found.window.inferences == 2 * scenarios.WINDOW
    found = scenarios.measure(Scenario("offline"), same(world, 2, 500 * MS), plan(max_s=3.2), 0, world)
    assert (found.window.inferences, found.window.seconds, found.stopped_by) == (14, 3.5, "time limit")


@pytest.mark.parametrize(
    ("cores", "best", "tried"), [(1, 1, [1, 2]), (2, 2, [1, 2, 4]), (4, 4, [1, 2, 4, 8]), (3, 4, [1, 2, 4])]
)
def test_the_sweep_ends_where_another_stream_gains_too_little(world, cores, best, tried):
    made = []

    class Shared(Busy):
        def run(self):
            self.world.wait_until(self.world.now() + round(10 * MS * max(1, len(made) / cores)))

    pool = Pool(lambda number: made.append(number) or Shared(world, ()))
    counts = scenarios.stream_counts(Scenario("offline"), cores)
    ready = scenarios.prepare(pool, plan(), counts, world)
    assert (ready.streams, [window.streams for window in ready.sweep]) == (best, tried)


@pytest.mark.parametrize(
    ("scenario", "cores", "threads", "counts"),
    [
        (Scenario("offline"), 2, 1, [1, 2, 4]),
        (Scenario("offline"), 1, 1, [1, 2]),
        (Scenario("offline", streams=5), 2, 1, [5]),
        (Scenario("server", rate=1.0), 8, 1, [8]),
        (Scenario("server", rate=1.0), 8, 3, [2]),
        (Scenario("server", rate=1.0), 2, 4, [1]),
        (Scenario("multi-stream", samples_per_query=4), 8, 1, [4]),
        (Scenario("multi-stream", samples_per_query=8), 2, 1, [2]),
    ],
)
def test_how_many_streams(scenario, cores, threads, counts):
    assert scenarios.stream_counts(scenario, cores, threads) == counts


# --- multi-stream


@pytest.mark.parametrize(("count", "samples"), [(1, 8), (2, 8), (3, 8), (8, 8), (3, 1), (2, 5)])
def test_a_query_lasts_until_its_last_sample(world, count, samples):
    streams = same(world, count, 10 * MS)
    found = scenarios.measure(Scenario("multi-stream", None, samples), streams, plan(), 0, world)
    assert found.latencies_ns.tolist() == [math.ceil(samples / count) * 10 * MS] * scenarios.QUERIES
    assert found.window.inferences == sum(s.done for s in streams) == samples * scenarios.QUERIES
    assert scenarios.fits(found)


def test_a_slow_sample_is_the_latency_of_its_query_alone(world):
    times = itertools.chain([MS] * 8, [50 * MS], itertools.repeat(MS))
    found = scenarios.queries([Busy(world, times), *same(world, 1, MS)], 4, plan(), world)
    assert found.latencies_ns[4] == 50 * MS
    assert sorted(set(np.delete(found.latencies_ns, 4).tolist())) == [2 * MS]


def test_queries_end_at_the_limit(world):
    found = scenarios.queries(same(world, 2, 100 * MS), 4, plan(max_s=1.0), world)
    assert (len(found.latencies_ns), found.stopped_by) == (5, "time limit")


# --- server


def by_simulation(due_ns, service_ns, count):
    """Latencies of a first-come-first-served queue with so many servers (Kiefer and Wolfowitz)."""
    free, found = [0] * count, []
    for due, service in zip(due_ns.tolist(), service_ns, strict=True):
        start = max(due, heapq.heappop(free))
        heapq.heappush(free, start + service)
        found.append(start + service - due)
    return found


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("share", [0.3, 0.8, 0.97])
def test_latencies_are_those_of_a_queue(world, count, share):
    service = np.random.default_rng(count).integers(2 * MS, 18 * MS, 2000).tolist()
    rate = share * count * 100
    due = server.arrivals(rate, 2000, (7, count))
    shared = iter(service)  # queries begin in the order of their arrival, so each takes its own
    found = server.serve([Busy(world, shared) for _ in range(count)], due, rate, 1e3, world)
    assert found.latencies_ns.tolist() == by_simulation(due, service, count)
    assert found.late_ns == 0
    assert not found.overloaded


def test_a_stall_is_charged_to_every_query_that_should_have_come_meanwhile(world):
    due = np.arange(1, 1001) * 10 * MS
    times = itertools.chain(itertools.repeat(MS, 300), [2 * S], itertools.repeat(MS))
    found = server.serve([Busy(world, times)], due, 100.0, 1.0, world)
    stalled = due[300] + 2 * S
    during = (due >= due[300]) & (due < stalled)
    assert during.sum() == 200
    assert (found.latencies_ns[during] >= stalled - due[during]).all()
    assert (found.latencies_ns[:300] == MS).all()


def test_arrivals_are_poisson_and_the_same_for_the_same_seed():
    found = server.arrivals(1000.0, 20_000, (3, 0))
    gaps = np.diff(found) / 1e6
    assert gaps.mean() == pytest.approx(1, abs=0.03)
    assert gaps.std() == pytest.approx(1, abs=0.05)
    assert (gaps > 2).mean() == pytest.approx(math.exp(-2), abs=0.01)
    assert (found == server.arrivals(1000.0, 20_000, (3, 0))).all()
    assert (found != server.arrivals(1000.0, 20_000, (3, 1))).any()


@pytest.mark.parametrize(("rate", "overloaded"), [(50.0, False), (90.0, False), (110.0, True), (500.0, True)])
def test_a_server_that_falls_behind_says_so(world, rate, overloaded):
    found = scenarios.measure(Scenario("server", rate=rate), same(world, 1, 10 * MS), plan(), 0, world)
    assert found.served.overloaded is overloaded
    assert (found.stopped_by == "overloaded") is overloaded
    assert scenarios.fits(found)


def test_an_endless_backlog_is_given_up(world):
    found = scenarios.measure(Scenario("server", rate=1e4), same(world, 2, 100 * MS), plan(), 0, world)
    assert found.served.scheduled == 10_000
    assert found.served.overloaded
    assert world.time < 2.3 * S
    assert found.window.inferences == len(found.latencies_ns) < 50


def test_slow_rates_keep_to_the_limit(world):
    found = scenarios.measure(Scenario("server", rate=2.0), same(world, 1, MS), plan(max_s=10.0), 0, world)
    assert (found.served.scheduled, found.stopped_by) == (20, "time limit")


@pytest.mark.parametrize(("count", "bound"), [(1, 30 * MS), (1, 100 * MS), (2, 25 * MS), (4, 11 * MS)])
def test_the_highest_rate_holds_the_bound_and_little_more_does_not(world, count, bound):
    scenario = Scenario("server", latency_bound_ns=bound)
    found = scenarios.measure(scenario, same(world, count, 10 * MS), plan(), 1, world)
    rate = found.served.rate
    held = [p.rate for p in found.probes if p.held]
    assert rate == max(held)
    assert min([1.1 * 100 * count, *(p.rate for p in found.probes if not p.held)]) <= rate * server.RATE_STEP
    assert np.sort(found.latencies_ns)[math.ceil(0.99 * len(found.latencies_ns)) - 1] <= bound
    assert all(p.queries >= scenarios.QUERIES for p in found.probes if p.held)

    def true_p99(at):
        latencies = by_simulation(server.arrivals(at, 50_000, (99,)), [10 * MS] * 50_000, count)
        return np.quantile(latencies, 0.99)

    assert true_p99(rate / 1.25) <= bound
    assert true_p99(rate * 1.25) > bound


def test_a_rate_that_fails_is_given_up_early(world):
    found = scenarios.highest_rate(same(world, 1, 10 * MS), 12 * MS, plan(), 0, world)
    missed = [p for p in found.probes if not p.held]
    assert missed
    assert all(p.p99_ns is None and p.queries < scenarios.QUERIES for p in missed)
    assert found.others > 0


def test_no_rate_holds_an_impossible_bound(world):
    found = scenarios.highest_rate(same(world, 2, 10 * MS), 5 * MS, plan(max_s=60.0), 0, world)
    assert found.served.rate == 0
    assert [p.held for p in found.probes] == [False], "not one query was in time, so it is not tried again"
    assert found.stopped_by == "no rate holds the bound"
    assert found.latencies_ns.size == 0
    assert scenarios.fits(found)


def test_a_search_that_would_take_too_long_says_so(world):
    found = scenarios.highest_rate(same(world, 1, 500 * MS), S, plan(max_s=10.0), 0, world)
    assert found.probes == ()
    assert "queries at 1.8 per s take over" in found.stopped_by


def test_the_counts_are_those_of_the_statistics():
    assert stats.min_count(0.99) == scenarios.QUERIES


# --- what goes wrong


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario("offline"),
        Scenario("multi-stream", None, 8),
        Scenario("server", rate=200.0),
        Scenario("server", latency_bound_ns=S),
    ],
    ids=lambda s: f"{s.name} {s.rate or ''}",
)
def test_a_stream_that_fails_ends_all(world, scenario):
    streams = [*same(world, 2, 10 * MS), Failing(world, itertools.repeat(10 * MS))]
    with pytest.raises(RunError, match="so it is"):
        scenarios.measure(scenario, streams, plan(), 0, world)
    assert max(s.done for s in streams) <= 12


@pytest.mark.parametrize(
    ("latencies", "busy_s", "possible"),
    [([5, 10], 2e-8, True), ([5, 0], 2e-8, False), ([5, 12], 2e-8, False), ([], 3e-8, False), ([], 0.0, True)],
)
def test_what_could_have_happened(latencies, busy_s, possible):
    window = scenarios.Window(2, 2, 1e-8)
    found = scenarios.Loaded(window, busy_s, "", np.array(latencies, np.int64))
    assert scenarios.fits(found) is possible


# --- real streams


class Recording:
    def __init__(self):
        self.fed, self.closed = [], False

    def run(self, feeds):
        self.fed.append(feeds["n"])
        return {"n": feeds["n"]}

    def close(self):
        self.closed = True


def test_streams_rotate_through_the_feeds_each_from_another_one():
    session = Recording()
    stream = ThreadStream(session, [{"n": n} for n in range(3)], first=4)
    for _ in range(5):
        stream.run()
    assert session.fed == [1, 2, 0, 1, 2]
    assert stream.last() == ({"n": 2}, 2)


def test_a_pool_makes_what_is_asked_for_and_closes_all():
    sessions = [Recording() for _ in range(3)]
    with Pool(lambda number: ThreadStream(sessions[number], [{"n": 0}], number)) as pool:
        assert len(pool.first(1)) == 1
        assert len(pool.first(2)) == 2
        assert pool.first(1) == pool.first(2)[:1]
    assert [s.closed for s in sessions] == [True, True, False]


def test_real_threads_run_at_the_same_time_and_tell_of_errors():
    world, meeting = RealWorld(), threading.Barrier(3, timeout=30)
    assert sorted(world.together([meeting.wait] * 3)) == [0, 1, 2]
    with pytest.raises(ZeroDivisionError):
        world.together([lambda: 1 // 0, lambda: 1])
    due = world.now() + 2 * MS
    world.wait_until(due)
    assert world.now() >= due
    assert scenarios.queries([ThreadStream(Recording(), [{"n": 0}]) for _ in range(2)], 3, plan(min_s=0.0), world)


@pytest.fixture
def artefact(mlp_path, tmp_path):
    from bench.cache import Cache
    from bench.models import resolve

    model = resolve(str(mlp_path), Cache(tmp_path / "cache"), shapes={}, batch=1, say=lambda message: None).model
    (tmp_path / "work").mkdir()
    options = Options(extra=complete_options(Fake(), {}))
    return Fake().prepare(model, options, tmp_path / "work", None), options


def test_a_process_answers_as_the_session_does(artefact):
    made, options = artefact
    feeds = [{"x": np.full((1, 16), n, np.float32)} for n in range(2)]
    stream = ProcessStream("backends.fake:Fake", made, options, feeds, 1)
    try:
        stream.run()
        outputs, feed = stream.last()
        assert feed == 1
        np.testing.assert_array_equal(outputs["y"], Fake().load(made, options).run(feeds[1])["y"])
        assert stream.cpu_s() > 0
    finally:
        stream.close()


@pytest.mark.parametrize(("fault", "words"), [("raise", "told to fail"), ("exit", "exit code 3")])
def test_what_befalls_a_process_is_an_error(artefact, fault, words):
    made, _ = artefact
    options = Options(extra=complete_options(Fake(), {"fault": fault}))
    stream = ProcessStream("backends.fake:Fake", made, options, [{"x": np.zeros((1, 16), np.float32)}])
    try:
        with pytest.raises(RunError, match=words):
            stream.run()
    finally:
        stream.close()


# --- the command's words


def asked(**changed):
    return {"scenario": "single-stream", "streams": None, "samples_per_query": None, "rate": None,
            "latency_bound": None, **changed}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "scenario"),
    [
        ({}, Scenario()),
        ({"scenario": "offline"}, Scenario("offline")),
        ({"scenario": "offline", "streams": "3"}, Scenario("offline", 3)),
        ({"scenario": "multi-stream"}, Scenario("multi-stream", None, 8)),
        ({"scenario": "multi-stream", "samples_per_query": "4"}, Scenario("multi-stream", None, 4)),
        ({"scenario": "server", "rate": "2.5", "streams": "1"}, Scenario("server", 1, None, 2.5)),
        ({"scenario": "server", "latency_bound": "15ms"}, Scenario("server", None, None, None, 15 * MS)),
        ({"scenario": "server", "latency_bound": "0.5 us"}, Scenario("server", None, None, None, 500)),
    ],
)
def test_what_is_asked_for(words, scenario):
    assert parse(asked(**words)) == scenario


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"scenario": "ofline"}, "did you mean offline"),
        ({"scenario": "server"}, "--rate or --latency-bound; neither"),
        ({"scenario": "server", "rate": "9", "latency_bound": "1ms"}, "both were given"),
        ({"scenario": "server", "rate": "0"}, "--rate 0 is not possible"),
        ({"scenario": "server", "rate": "-3"}, "--rate -3 is not possible"),
        ({"scenario": "server", "rate": "nan"}, "--rate nan is not possible"),
        ({"scenario": "server", "rate": "inf"}, "--rate inf is not possible"),
        ({"scenario": "server", "rate": "fast"}, "--rate fast is not possible"),
        ({"scenario": "server", "latency_bound": "15"}, "write it with its unit"),
        ({"scenario": "server", "latency_bound": "0ms"}, "is no time"),
        ({"scenario": "server", "rate": "9", "streams": "0"}, "--streams 0 is not possible"),
        ({"scenario": "offline", "streams": "1.5"}, "--streams 1.5 is not possible"),
        ({"scenario": "multi-stream", "samples_per_query": "0"}, "--samples-per-query 0 is not possible"),
        ({"scenario": "offline", "rate": "9"}, "add --scenario server"),
        ({"latency_bound": "15ms"}, "--latency-bound means nothing with --scenario single-stream"),
        ({"streams": "2"}, "--streams means nothing"),
        ({"scenario": "offline", "samples_per_query": "2"}, "add --scenario multi-stream"),
    ],
)
def test_impossible_requests_are_refused_in_words(words, says):
    with pytest.raises(UsageError) as caught:
        parse(asked(**words))
    assert says in str(caught.value)


# --- records and tables


def trial(index=0, *, inferences=100, seconds=1.0, server=None, stopped_by="enough"):
    return TrialLine(
        schema=1, id="a", index=index, started_at="", environment={}, runtimes={}, stopped_by=stopped_by,
        throughput=StreamsFacts(streams=2, inferences=inferences, seconds=seconds), server=server,
    )  # fmt: skip


def served(rate, *, overloaded=False):
    probes = [ProbeFacts(rate=10.0, queries=662, p99_ns=5 * MS, held=True)]
    return ServerFacts(rate=rate, scheduled=662, overloaded=overloaded, late_ns=60_000, seed=0, probes=probes)


def test_throughput_is_of_the_trial_in_the_middle_and_counts_the_batch():
    found = folded_throughput([trial(inferences=n) for n in (300, 100, 200)], 4)
    assert (found.per_s, found.inferences, found.trial_per_s) == (800.0, 200, [1200.0, 400.0, 800.0])
    assert folded_throughput([trial(inferences=n) for n in (200, 100)], 1).per_s == 100.0


def test_a_rate_is_one_that_every_trial_held():
    found = folded_server([trial(server=served(rate)) for rate in (30.0, 10.0, 20.0)])
    assert (found.rate, found.trial_rates) == (10.0, [30.0, 10.0, 20.0])
    assert folded_server([trial(server=served(30.0)), trial(server=served(None))]).rate is None
    assert folded_server([trial(server=served(5.0)), trial(server=served(5.0, overloaded=True))]).overloaded


def test_older_cells_stay_theirs():
    for record in read_records(GOLDEN):
        assert cell_of(record.case) == record.cell


@pytest.mark.parametrize(
    "changed", [{"streams": 2}, {"samples_per_query": 8}, {"rate": 1.0}, {"latency_bound_ns": 5}, {"scenario": "x"}]
)
def test_the_parameters_belong_to_the_cell(changed):
    case = read_records(GOLDEN)[0].case
    other = msgspec.structs.replace(case, options=msgspec.structs.replace(case.options, **changed))
    assert cell_of(other) != cell_of(case)


def of(scenario, *trials, latencies_ns=(), **options) -> Record:
    """A published record of this scenario."""
    base = next(r for r in read_records(GOLDEN) if r.status == "ok")
    latency = base.latency and msgspec.structs.replace(
        base.latency,
        percentiles=[
            msgspec.structs.replace(p, ns=latencies_ns[0] if latencies_ns else None) for p in base.latency.percentiles
        ],
    )
    asked_for = msgspec.structs.replace(base.case.options, scenario=scenario, **options)
    case = msgspec.structs.replace(base.case, options=asked_for)
    return msgspec.structs.replace(
        base, case=case, latency=latency, throughput=folded_throughput(trials, 1), server=folded_server(trials)
    )


@pytest.mark.parametrize(
    ("record", "begins", "unit"),
    [
        (of("offline", trial(), trial(inferences=120)), "100 (100–120), 2 streams", "(samples per s)"),
        (of("multi-stream", trial(), samples_per_query=8, latencies_ns=[9 * MS]), "9.00", "ms p99"),
        (of("server", trial(server=served(50.0)), rate=50.0, latencies_ns=[9 * MS]), "9.00", "ms p99"),
        (of("server", trial(server=served(9e3, overloaded=True)), rate=9e3), "overloaded: answers 100", "per s)"),
        (of("server", trial(server=served(70.0)), trial(server=served(80.0)), latency_bound_ns=15 * MS),
         "70.0 (70.0–80.0)", "(queries per s)"),
        (of("server", trial(server=served(None), stopped_by="no rate holds the bound"), latency_bound_ns=MS),
         "none: no rate holds the bound", "(queries per s)"),
    ],
)  # fmt: skip
def test_what_a_cell_says(record, begins, unit):
    assert loaded.cell(record).startswith(begins)
    assert loaded.unit(record).endswith(unit)
    from bench.report.markdown import document

    text = document([record])
    assert loaded.cell(record) in text
    assert text.count("**") == 2


def test_too_few_queries_print_no_p99():
    text = loaded.cell(of("multi-stream", trial(), samples_per_query=8))
    assert text.startswith("– (")
    assert "of 662 queries)" in text


# What the harness itself keeps is not the runtime's memory.


def test_what_is_kept_of_a_loaded_phase_is_known():
    window = scenarios.Window(1, 10, 1.0)
    latencies = np.ones(700, np.int64)
    assert worker_loaded.kept_bytes(scenarios.Loaded(window, 0.5, "", latencies)) == 700 * load.BYTES_PER_SAMPLE
    answered = server.Served(100.0, 900, latencies, 0.5, 1.0, None, overloaded=False)
    probes = (server.Probe(50.0, 1200, 1, held=True), server.Probe(100.0, 700, None, held=False))
    searched = scenarios.Loaded(window, 0.5, "", latencies, answered, probes)
    assert worker_loaded.kept_bytes(searched) == 1200 * load.BYTES_PER_QUERY


@pytest.mark.slow
@pytest.mark.parametrize(("what", "each"), [("server", load.BYTES_PER_QUERY), ("multi-stream", load.BYTES_PER_SAMPLE)])
def test_a_query_takes_as_much_memory_as_is_taken_off(what, each):
    program = f"""
from bench.evidence.load import memory_bytes
from bench.interface import Plan
from bench.measure import scenarios, server
from bench.measure.streams import RealWorld
class Nothing:
    def run(self): pass
def phase(count):
    if {what!r} == "server":
        server.serve([Nothing(), Nothing()], server.arrivals(1e6, count, (0,)), 1e6, 60.0, RealWorld())
    else:
        scenarios.queries([Nothing()], 1, Plan(min_count=count, min_s=0.0, max_s=60.0), RealWorld())
phase(2000)
before = memory_bytes()[1]
phase(400_000)
print((memory_bytes()[1] - before) / 400_000)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(each, rel=0.1)


def test_streams_that_are_processes_tell_where_they_live(artefact):
    feeds = [{"x": np.ones((1, 16), np.float32)}]
    with Pool(lambda number: ProcessStream("backends.fake:Fake", *artefact, feeds, number)) as pool:
        pool.first(2)
        assert len(set(pool.pids())) == 2
        assert all(load.memory_bytes(pid)[1] > 10 << 20 for pid in pool.pids())
