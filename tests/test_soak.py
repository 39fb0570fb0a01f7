"""Soaks: the histogram loses nothing but a part in 2048, and begin, end and tail are what they are said to be."""

from __future__ import annotations

import gc
import itertools
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import fold as folds
from bench import record as r
from bench import soak as near
from bench.errors import RunError
from bench.interface import Samples, Series, Session
from bench.measure import loop, soak
from bench.report import markdown, picture, words
from bench.report import soak as told
from bench.runner import cell_of
from bench.store import read_lines
from tests.test_plausible import PEAKS

GOLDEN = Path(__file__).parent / "golden"
LINES = list(read_lines(GOLDEN / "schema-1.jsonl"))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
END = r.EndLine(schema=1, id=CASE.id, stopped_by="the soak has ended")
replace = msgspec.structs.replace
MS = 1_000_000
DURATIONS = st.integers(1, 2**52)


# --- the histogram


@given(st.lists(DURATIONS, min_size=1, max_size=50))
def test_a_bin_tells_its_durations_to_a_part_in_2048(samples):
    told_ns = soak.middle_ns(soak.bins_of(samples))
    assert all(abs(int(a) - b) <= b / 2048 for a, b in zip(told_ns, samples, strict=True))


@given(DURATIONS, DURATIONS)
def test_bins_rise_with_durations(a, b):
    first, second = soak.bins_of([min(a, b), max(a, b)])
    assert first <= second


@pytest.mark.parametrize("ns", [1, 2, 3, 999, 1024, 2047])
def test_short_durations_are_exact(ns):
    assert soak.middle_ns(soak.bins_of([ns])).tolist() == [ns]


@given(st.lists(st.lists(DURATIONS, min_size=1, max_size=30), min_size=1, max_size=5))
def test_no_duration_is_lost(chunks):
    found = soak.Histogram()
    for chunk in chunks:
        found.add(np.array(chunk, np.int64))
    every = [ns for chunk in chunks for ns in chunk]
    keys, counts = found.bins()
    assert (found.n, sum(counts), found.min_ns, found.max_ns) == (len(every), len(every), min(every), max(every))
    assert dict(zip(keys, counts, strict=True)) == Counter(soak.bins_of(every).tolist())
    assert keys == sorted(keys)


def test_what_is_not_positive_is_counted_and_does_not_fit():
    found = soak.Histogram()
    found.add(np.array([0, -5, 7], np.int64))
    assert found.bins()[1] == [2, 1]
    assert found.min_ns == -5


# --- the stretch, with a clock that moves when the session says so


class Clock:
    def __init__(self):
        self.now = 0

    def __call__(self):
        self.now += 1
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(loop, "perf_counter_ns", made)
    monkeypatch.setattr(soak, "perf_counter_ns", made)
    return made


class Steps(Session):
    def __init__(self, clock, times_ns, own=None):
        self.clock, self.times, self.own, self.fed = clock, iter(times_ns), own, []

    def run(self, feeds):
        self.fed.append(feeds["n"])
        self.clock.now += next(self.times)
        return {"n": feeds["n"]}

    def measure(self, feeds, plan):
        return self.own(plan) if self.own else None


FEEDS = [{"n": 0}, {"n": 1}]


@pytest.mark.parametrize("ns", [1000, 3 * MS, 700 * MS])
def test_a_stretch_lasts_as_long_as_asked_and_keeps_every_duration(clock, ns):
    session = Steps(clock, itertools.repeat(ns))
    found = soak.stretch(session, FEEDS, 2.0)
    assert 2e9 <= found.bracket_ns <= 2e9 + soak.FOLD_NS // 8 + 2 * ns
    assert found.histogram.n == len(session.fed)
    assert found.histogram.max_ns == found.histogram.min_ns == ns + 1
    assert found.fits
    assert (found.outputs["n"], found.feed_index) == (session.fed[-1], session.fed[-1])
    assert session.fed == [n % 2 for n in range(len(session.fed))]
    assert gc.isenabled()


@pytest.mark.parametrize(("ns", "looks"), [(1000, soak.LOOKS), (3 * MS, 8), (700 * MS, 2)])
def test_it_is_looked_between_two_inferences_for_no_time(clock, ns, looks):
    seen = []

    def look():
        seen.append(clock.now)
        clock.now += 50 * MS

    session = Steps(clock, itertools.repeat(ns))
    found = soak.stretch(session, FEEDS, 2.0, look)
    assert looks - 1 <= len(seen) <= looks
    assert 2e9 <= found.bracket_ns <= 2e9 + soak.FOLD_NS // 8 + 2 * ns
    assert found.histogram.max_ns == ns + 1
    assert found.fits


def test_memory_does_not_grow_with_time(clock, monkeypatch):
    """What is kept at any moment is a chunk and the bins."""
    most = 0
    real = np.frombuffer

    def spy(taken, kind):
        nonlocal most
        most = max(most, len(taken))
        return real(taken, kind)

    monkeypatch.setattr(soak.np, "frombuffer", spy)
    found = soak.stretch(Steps(clock, itertools.repeat(100)), FEEDS, 0.1)
    assert found.histogram.n > 5 * most > 0 or most <= loop.MAX_CHUNK
    assert most <= loop.MAX_CHUNK


def test_one_slow_inference_is_kept_exactly(clock):
    found = soak.stretch(Steps(clock, itertools.chain([MS] * 100, [123_456_789], itertools.repeat(MS))), FEEDS, 1.0)
    assert found.histogram.max_ns == 123_456_790
    assert found.histogram.bins()[1][-1] == 1


def test_a_session_with_a_clock_of_its_own(clock):
    def own(plan):
        assert (plan.min_s, plan.max_s, plan.target) == (3.0, 3.0, None)
        clock.now += 3_000_000_000
        return Samples((Series("compute", "device", np.full(30, 100 * MS, np.int64)),), {"n": 1}, 1)

    found = soak.stretch(Steps(clock, [], own), FEEDS, 3.0)
    assert (found.scope, found.clock, found.histogram.n, found.feed_index) == ("compute", "device", 30, 1)
    assert found.fits


def test_a_clock_that_lies_does_not_fit(clock):
    def own(plan):
        clock.now += 1_000_000_000
        return Samples((Series("compute", "device", np.full(30, 100 * MS, np.int64)),), {"n": 1}, 1)

    assert not soak.stretch(Steps(clock, [], own), FEEDS, 1.0).fits


def test_samples_that_cannot_be_read_are_refused(clock):
    bad = Samples((Series("compute", "device", np.zeros(0, np.int64)),), {}, 0)
    with pytest.raises(RunError, match="no samples"):
        soak.stretch(Steps(clock, [], lambda plan: bad), FEEDS, 1.0)


# --- how long a stretch is


@pytest.mark.parametrize(
    ("seconds", "first_run_s", "stretch_s"),
    [(600, 0.007, 5.0), (90, 0.007, 1.0), (3600, 0.05, 30.0), (600, 2.0, 24.0), (60, 30.0, 20.0), (3, 0.001, 1.0)],
)
def test_how_long_a_stretch_is(seconds, first_run_s, stretch_s):
    assert near.Soak(seconds, first_run_s, "c", 0, 60.0).stretch_s == pytest.approx(stretch_s)


# --- the record


def bins(*samples_ms):
    found = soak.Histogram()
    found.add(np.array([round(ms * MS) for ms in samples_ms], np.int64))
    keys, counts = found.bins()
    return found.max_ns, r.BinsFacts(keys=keys, counts=counts)


def part(
    number, ms, n=100, seconds=10.0, *, foreign=0.001, throttle="", celsius=None, extra=(), began_at="1", core=None
):
    max_ns, made = bins(*[ms] * n, *extra)
    seen = r.ObservedFacts(
        seconds=seconds,
        frequency_mhz=(2000 - 10 * number, 3000),
        governor="performance",
        turbo=True,
        temperature_c=celsius,
        temperature_of="cpu" if celsius else "",
        throttled=bool(throttle),
        throttle=throttle,
        energy_j=20.0,
        timeline=[],
        not_available={} if celsius else {"temperature_c": "not available: no sensor"},
    )
    load = replace(TRIAL.load, wall_s=seconds, foreign_cpu=foreign, reason="" if foreign is not None else "no /proc")
    return r.SliceLine(
        schema=1,
        id=CASE.id,
        index=0,
        number=number,
        began_at=began_at,
        at_s=number * seconds,
        seconds=seconds,
        scope="end_to_end",
        clock="host",
        max_ns=max_ns,
        bins=made,
        fits=True,
        load=load,
        observed=seen,
        rss_bytes=50 << 20,
        core_ns=core,
    )


def soak_case(seconds=200.0, **more):
    options = replace(CASE.case.options, scenario="soak", soak_s=seconds, extra={})
    facts = replace(CASE.case, options=options)
    return replace(CASE, cell="soak", case=facts, max_foreign_cpu=0.03, trials_wanted=1, counts=None, **more)


def soak_trial(foreign=0.001, **more):
    load = replace(TRIAL.load, foreign_cpu=foreign, reason="")
    return replace(TRIAL, index=0, series=[], observed=None, load=load, fits=True, warmup_count=100, **more)


def slower(count=20, by=0.01, **more):
    """Each slice a percent slower than the one before it."""
    return [part(n, 10 * (1 + by * n), **more) for n in range(count)]


def folded(slices, *, trials=None, end=END, **more):
    return folds.fold(soak_case(**more), [soak_trial()] if trials is None else trials, end, slices)


def test_the_begin_is_held_against_the_end():
    found = folded(slower())
    assert (found.status, found.latency, found.latencies) == ("ok", None, [])
    assert found.soak.compared_s == 60.0
    assert found.soak.begin_p50_ns == pytest.approx(10.2 * MS, rel=1e-3)  # the lower one of the two in the middle
    assert found.soak.end_p50_ns == pytest.approx(11.6 * MS, rel=1e-3)
    assert found.soak.sustained == pytest.approx(11.6 / 10.2, rel=1e-3)
    assert (found.soak.n, found.soak.measured_s, found.soak.per_s) == (2000, 200.0, 10.0)


@pytest.mark.parametrize(("count", "compared_s", "slices"), [(9, 30.0, 3), (3, 10.0, 1), (18, 60.0, 6), (60, 60.0, 6)])
def test_a_short_soak_compares_thirds(count, compared_s, slices):
    ms = [10.0] * slices + [15.0] * (count - 2 * slices) + [20.0] * slices
    found = folded([part(n, x) for n, x in enumerate(ms)]).soak
    assert found.compared_s == compared_s
    assert found.sustained == pytest.approx(2.0, rel=1e-3)


def test_percentiles_stand_where_the_count_allows():
    slices = [part(n, 10, n=700, extra=[500.0]) for n in range(10)]
    found = folded(slices).soak
    at = {p.q: p for p in found.percentiles}
    assert at[0.999].ns == pytest.approx(500 * MS, rel=1e-3)
    assert found.max_ns == 500 * MS
    assert {t.times: t.n for t in found.tail} == {2: 10, 5: 10, 10: 10, 100: 0}
    few = folded([part(n, 10, n=30) for n in range(3)]).soak
    assert {p.q: p.ns is None for p in few.percentiles} == {0.5: False, 0.9: False, 0.95: True, 0.99: True, 0.999: True}
    assert [s.p99_ns for s in few.spans] == [None] * 3


def test_a_slice_without_a_median_says_so():
    found = folded([part(n, 3000, n=3) for n in range(3)]).soak
    assert (found.p50_ns, found.sustained, found.spans[0].p50_ns) == (None, None, None)
    assert "fewer inferences than a median takes" in found.sustained_reason


@pytest.mark.parametrize(("busy", "span"), [(0, "first"), (19, "last")])
def test_a_busy_begin_or_end_is_not_compared(busy, span):
    slices = [part(n, 10, foreign=0.5 if n == busy else 0.001) for n in range(20)]
    found = folded(slices)
    assert found.status == "ok"
    assert found.soak.sustained is None
    assert f"in the {span} 60 s" in found.soak.sustained_reason
    assert "–" in told.change(found.soak)


def test_an_unknown_load_is_not_compared():
    slices = [part(n, 10, foreign=None if n == 0 else 0.001) for n in range(20)]
    assert "not known" in folded(slices).soak.sustained_reason


VIRTUAL = replace(PEAKS, core_ns=1000, virtual=True)


@pytest.mark.parametrize(("slow", "span"), [(0, "first"), (19, "last")])
def test_a_begin_or_end_beside_an_unseen_neighbour_is_not_compared(slow, span):
    slices = [part(n, 10, core=1900 if n == slow else 1000) for n in range(20)]
    found = folded(slices, peaks=VIRTUAL)
    assert (found.status, found.soak.sustained) == ("ok", None)
    assert found.soak.sustained_reason == (
        f"the CPU was 15% slower than it can be in the {span} 60 s: a neighbour, or its clock"
    )
    assert [s.core_slowed for s in found.soak.spans].count(0.0) == 19
    assert "busy in 1 of 20 slices" in markdown.document([found])
    assert folded(slices, peaks=replace(VIRTUAL, virtual=False)).soak.sustained == 1.0
    assert folds.fold(
        replace(soak_case(peaks=VIRTUAL), max_foreign_cpu=1.0), [soak_trial()], END, slices
    ).soak.sustained


def test_a_soak_beside_an_unseen_neighbour_is_noisy():
    beside = soak_trial(core=r.CoreFacts(readings_ns=[1000] * 50 + [1100] * 50))
    found = folded([part(n, 10, core=1050) for n in range(20)], trials=[beside], peaks=VIRTUAL)
    assert (found.status, round(found.evidence.core_slowed, 3)) == ("noisy", 0.05)
    assert "up to 5% slower than it can be" in found.why


def test_throttling_is_what_a_soak_is_for():
    slices = [part(n, 10, throttle="core_throttle_count of cpu0 +3" if n >= 15 else "") for n in range(20)]
    found = folded(slices)
    assert found.status == "ok"
    assert found.soak.throttled_s == [150.0, 160.0, 170.0, 180.0, 190.0]
    assert found.evidence.observed.throttled


def test_what_was_seen_and_used_is_of_all_slices():
    found = folded(slower(celsius=61.0)).evidence
    assert found.observed.frequency_mhz == (1810, 3000)
    assert (found.observed.temperature_c, found.observed.energy_j) == (61.0, 400.0)
    assert found.energy_per_inference_j == pytest.approx(400 / 2100)


def test_a_soak_beside_others_is_noisy():
    assert folded(slower(), trials=[soak_trial(foreign=0.2)]).status == "noisy"


def test_a_wrong_answer_outweighs_all():
    wrong = replace(TRIAL.parity, passed=False, problem="y: off")
    assert folded(slower(), trials=[soak_trial(parity=wrong)]).status == "wrong"


def test_durations_that_cannot_be_are_implausible():
    assert folded(slower(), trials=[replace(soak_trial(), fits=False)]).status == "implausible"


def test_what_the_machine_cannot_compute_is_implausible():
    counts = r.CountFacts(macs=10**12, least_macs=10**12, bytes=1, parameters=1, uncounted=[])
    peaks = r.PeakFacts(
        threads=1, flop_per_s=1e11, copy_bytes_per_s=1e10, arch="x86_64", clock_hz=3e9, features=["avx2"], numpy="2",
        foreign_cpu=0.0,
    )  # fmt: skip
    case = replace(soak_case(), counts=counts, peaks=peaks)
    found = folds.fold(case, [soak_trial()], END, slower())
    assert found.status == "implausible"
    assert found.work.flop_per_s == pytest.approx(2e12 / (found.soak.p50_ns / 1e9))


def test_a_soak_that_was_killed_keeps_what_was_measured():
    found = folded(slower(7), trials=[], end=None, seconds=600.0)
    assert (found.status, found.why) == ("skipped", "interrupted after 70 s of 600 s")
    assert len(found.soak.spans) == 7


def test_a_crash_keeps_what_was_measured():
    crash = r.ErrorFacts(phase="measure", kind="crash", error="Crashed", message="died of SIGSEGV")
    found = folded(slower(7), trials=[replace(soak_trial(), error=crash, load=None, fits=None)])
    assert (found.status, len(found.soak.spans)) == ("crashed", 7)


def test_only_the_last_attempt_counts_whatever_the_order_of_lines():
    lost = [part(n, 50, began_at="1") for n in range(4)]
    again = [part(n, 10, began_at="2") for n in range(20)]
    found = folded([*reversed(again), *lost]).soak
    assert [s.at_s for s in found.spans] == [10.0 * n for n in range(20)]
    assert found.p50_ns == pytest.approx(10 * MS, rel=1e-3)


def test_a_slice_comes_back_from_its_line():
    line = part(3, 12.5, extra=[1.0, 900.0])
    assert r.decode_line(r.encode_line(line)) == line


def test_a_soak_is_another_cell_and_how_long_it_lasts_is_part_of_it():
    facts = [CASE.case, soak_case(600.0).case, soak_case(3600.0).case]
    assert len({cell_of(f) for f in facts}) == 3


def test_the_load_of_all_stretches_is_by_their_time():
    load = TRIAL.load
    one, two = (
        replace(load, wall_s=1.0, foreign_cpu=0.4, steal=0.0),
        replace(load, wall_s=3.0, foreign_cpu=0.0, steal=0.2),
    )
    whole = near.whole_load([one, two])
    assert (whole.wall_s, whole.foreign_cpu, whole.steal) == (4.0, pytest.approx(0.1), pytest.approx(0.15))
    assert near.whole_load([one, replace(two, foreign_cpu=None, reason="why")]).foreign_cpu is None


# --- what is shown


def test_a_soak_is_a_section_of_its_own_and_no_cell():
    normal = folds.fold(CASE, [TRIAL], replace(END, stopped_by="enough trials"))
    text = markdown.document([normal, folded(slower())])
    medians, sustained = text.split("**Sustained load**")
    assert "Median latency" in medians
    assert "+13.7%" in sustained
    assert "▁" in sustained
    assert markdown.document([folded(slower(), trials=[soak_trial(foreign=0.2)])]).count("Not published") == 1


def test_the_table_says_what_is_missing():
    text = markdown.document([folded([part(n, 10, foreign=0.5 if n == 0 else 0.001) for n in range(20)])])
    row = next(line for line in text.splitlines() if line.startswith("| tiny_mlp"))
    assert "busy in 1 of 20 slices" in row
    assert "| – |" in " ".join(row.split())


@pytest.mark.parametrize(
    ("values", "bars"),
    [
        ([100, 100, 100], "▁▁▁"),
        ([100, 110, 120], "▁▅█"),
        ([100, 200, None, 400], "▁▃ █"),
        ([], ""),
        ([None], ""),
    ],
)
def test_bars(values, bars):
    assert told.sparkline(values) == bars


def test_many_slices_are_drawn_as_few_bars_and_the_slowest_of_them_shows():
    values = [100] * 120
    values[57] = 300
    assert len(told.sparkline(values)) == told.SPARK_WIDTH
    assert told.sparkline(values).count("█") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (90, "1 min 30 s"), (600, "10 min"), (3600, "1 h"), (3905, "1 h 5 min")],
)
def test_durations_in_words(seconds, text):
    assert words.duration(seconds) == text


def test_the_page_has_every_slice_and_says_how_to_get_a_picture():
    page = told.page(folded(slower(celsius=55.0)), None)
    assert 'pip install "deploybench[pictures]"' in page
    assert page.count("\n| 0:") + page.count("\n| 1:") + page.count("\n| 2:") + page.count("\n| 3:") == 20
    assert "p99.9" in page
    assert "of 6636 inferences" in page
    assert "](soak.svg)" in told.page(folded(slower()), "soak.svg")


def test_without_matplotlib_there_is_no_picture(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert picture.svg(folded(slower())) is None


def test_the_same_record_makes_the_same_picture():
    pytest.importorskip("matplotlib", reason='matplotlib is not installed: pip install "deploybench[pictures]"')
    hot = [part(n, 10, celsius=50.0 + n, throttle="hot" if n > 15 else "", extra=[500.0]) for n in range(20)]
    first, second = picture.svg(folded(hot)), picture.svg(folded(hot))
    assert first == second
    for said in ("latency, ms", "clock, MHz", "heat, °C", "memory, MiB", "lie above"):
        assert said in first
    assert "heat, °C" not in picture.svg(folded(slower()))
    assert "CPU slower" not in picture.svg(folded(slower()))
    assert "CPU slower, %" in picture.svg(folded(slower(core=1000), peaks=VIRTUAL))
    assert "<dc:date>" not in first
