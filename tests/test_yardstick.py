"""Neighbours that a kernel cannot see: what reads the core, what waits for it to be left alone, and what is noisy."""

import itertools
import os
import threading
import time
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest

from bench import fold as folds
from bench import record as r
from bench import runner
from bench.evidence import cores, yardstick
from bench.evidence.yardstick import Alone, Yardstick
from bench.fold import core
from bench.fold import evidence as folded
from bench.parity.compare import TOLERANCES
from bench.report import causes
from tests.test_evidence import CASE, QUIET, trial
from tests.test_plausible import PEAKS

VIRTUAL = msgspec.structs.replace(PEAKS, core_ns=1000, virtual=True)
HERE = msgspec.structs.replace(CASE, peaks=VIRTUAL, max_foreign_cpu=0.03)


def read(*readings_ns, waited_s=0.0, **facts):
    return trial(core=r.CoreFacts(readings_ns=list(readings_ns), waited_s=waited_s), **facts)


def test_a_reading_is_the_time_of_the_arithmetic_and_is_kept():
    time.sleep(0.2)  # after a product numpy's own threads spin for an eighth of a second
    here = Yardstick()
    here.begin()
    assert not here.between()
    here.read()
    assert len(here.readings_ns) == 3
    assert here.waited_s == 0
    assert 0 < yardstick.fastest_ns() < 100 * min(here.readings_ns)


def test_several_threads_read_every_cpu_and_may_use_all_of_them_afterwards():
    allowed = os.sched_getaffinity(0)
    seen = []
    several = Yardstick(threads=2)
    several._here = lambda: seen.append(os.sched_getaffinity(0)) or 100 * len(seen)
    several.read()
    assert several.readings_ns == [100 * len(seen)]
    assert seen == [{cpu} for cpu in yardstick.sampled(sorted(allowed))]
    assert os.sched_getaffinity(0) == allowed


@pytest.mark.parametrize("siblings", [False, True])
def test_threads_of_ones_own_are_no_neighbour(monkeypatch, siblings):
    monkeypatch.setattr(yardstick, "OWN_TRIES", 2)
    monkeypatch.setattr(yardstick, "siblings", lambda: siblings)
    busy, stop = np.ones((300, 300)), threading.Event()

    def spin():
        while not stop.is_set():
            busy @ busy  # numpy gives Python's lock away meanwhile

    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one CPU: threads cannot run beside each other")
    thread = threading.Thread(target=spin)
    here = Yardstick(threads=2)
    time.sleep(0.2)  # until numpy's own threads have come to rest
    assert not yardstick.another_runs()
    thread.start()
    try:
        taken = [here._taken(yardstick.WARM_NS, yardstick.PRODUCTS) for _ in range(20)]
    finally:
        stop.set()
        thread.join()
    assert None in taken
    if siblings:  # a thread on the same core would look like a neighbour, so it is not left to chance
        assert taken.count(None) >= 18


def test_only_threads_that_may_share_a_core_are_looked_for(tmp_path):
    for cpu, text in enumerate(("0", "1")):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")
    (tmp_path / "sys/devices/system/cpu/online").write_text("0-1\n")
    assert not cores.siblings(str(tmp_path))
    for text in ("0-1", "0,1"):
        (folder / "thread_siblings_list").write_text(f"{text}\n")
        assert cores.siblings(str(tmp_path))
    assert not cores.siblings(str(tmp_path / "none"))


def standing_in(monkeypatch, readings, limit_s=60.0):
    """A yardstick whose readings are these."""
    left = iter(readings)
    here = Yardstick(alone=Alone(fastest_ns=1000, slack=0.03, limit_s=limit_s))
    monkeypatch.setattr(here, "_taken", lambda warm_ns, products: next(left))
    return here, left


@pytest.mark.parametrize(
    ("readings", "kept"),
    [
        ([1000], [1000]),
        ([1029], [1029]),
        ([1110, 1110, 1005], [1005]),
    ],
)
def test_it_begins_when_nobody_else_is_on_the_core(monkeypatch, readings, kept):
    here, left = standing_in(monkeypatch, readings)
    here.begin()
    assert here.readings_ns == kept
    assert (here.waited_s > 0) == (len(readings) > 1)
    assert here.void_s == 0  # nothing was timed yet
    assert next(left, "all read") == "all read"


def test_what_was_timed_beside_somebody_else_is_void_and_he_is_waited_for(monkeypatch):
    here, left = standing_in(monkeypatch, [1005, 1110, 1110, 1001, 1002])
    assert [here.between() for _ in range(3)] == [False, True, False]
    assert here.readings_ns == [1005, 1001, 1002]  # of what counts
    assert here.waited_s == here.void_s > 0
    assert next(left, "all read") == "all read"


def test_it_does_not_wait_for_ever(monkeypatch):
    here, _ = standing_in(monkeypatch, itertools.repeat(1110), limit_s=0.05)
    here.begin()
    assert here.waited_s >= 0.05
    assert not here.between()  # all the time there is has been waited: it counts, and against the trial
    assert here.readings_ns == [1110, 1110]


def test_what_is_measured_in_vain_takes_of_the_time_there_is(monkeypatch):
    now = itertools.count(step=1.0)
    monkeypatch.setattr(yardstick.time, "monotonic", lambda: next(now))
    here, _ = standing_in(monkeypatch, itertools.cycle([1110, 1000]), limit_s=20.0)
    voids = list(itertools.takewhile(bool, (here.between() for _ in range(100))))
    assert 3 <= len(voids) <= 12
    assert 20.0 <= here.waited_s <= 24.0


def test_where_it_cannot_be_told_nothing_is_waited_for(monkeypatch):
    monkeypatch.setattr(yardstick, "OWN_WAIT_S", 0.0)
    here, _ = standing_in(monkeypatch, itertools.repeat(None))
    here.begin()
    assert not here.between()
    assert (here.readings_ns, here.waited_s) == ([], 0.0)


def test_who_waits_looks_at_the_next_cpu_and_may_use_all_of_them_afterwards(monkeypatch):
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        pytest.skip("one CPU: there is no next one")
    asked = []
    bind = os.sched_setaffinity
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: asked.append(sorted(cpus)) or bind(pid, cpus))
    here, _ = standing_in(monkeypatch, [1110, 1110, 1000])
    here.begin()
    second, third = (allowed[n % len(allowed)] for n in (1, 2))
    assert asked == [[second], allowed, [third], allowed]
    assert sorted(os.sched_getaffinity(0)) == allowed


def test_at_most_so_many_cpus_evenly():
    assert yardstick.sampled(range(4)) == [0, 1, 2, 3]
    assert yardstick.sampled(range(128)) == list(range(0, 128, 8))


def test_what_a_neighbour_takes_makes_a_trial_noisy_in_a_virtual_machine_only():
    alone, beside = read(1000, 1010, 1005), read(1000, 1110, 1110)
    assert core.slowed(beside, 1000) == pytest.approx(0.0733, abs=1e-4)
    assert core.slowed(alone, 1000) == pytest.approx(0.005)
    for one, is_noisy in ((alone, False), (beside, True)):
        assert folds.noisy(one, 0.03, core.fastest_ns(HERE, [one])) is is_noisy
        assert not folds.noisy(one, 1.0, core.fastest_ns(HERE, [one]))
        real = msgspec.structs.replace(HERE, peaks=msgspec.structs.replace(VIRTUAL, virtual=False))
        assert core.fastest_ns(real, [one]) is None
        assert not folds.noisy(one, 0.03, None)


def test_who_was_there_for_much_of_the_time_makes_a_trial_noisy_though_the_rest_looks_clean():
    def lost(void_s, bracket_s=1.0):
        facts = r.CoreFacts(readings_ns=[1000], waited_s=void_s + 1, void_s=void_s)
        return trial(core=facts, bracket_ns=round(bracket_s * 1e9))

    assert [core.crowded(one, 1000) for one in (trial(), lost(0.0), lost(1.0), lost(0.3, 0.9))] == [0, 0, 0.5, 0.25]
    assert not folds.noisy(lost(0.3, 0.9), 0.03, 1000)
    assert folds.noisy(lost(0.4), 0.03, 1000)
    assert not folds.noisy(lost(0.4), 1.0, 1000)
    assert not folds.noisy(lost(0.4), 0.03, None)  # no virtual machine
    told = folded.noise([lost(0.1), lost(1.0)], 0.03, 1000)
    assert told == "a neighbour of this virtual machine, unseen from inside, was there for up to 50% of the time"
    assert folds.fold(HERE, [lost(1.0), lost(0.5), lost(0.0)], None).status != "ok"


def test_the_fastest_is_of_the_machine_or_of_a_trial():
    assert core.fastest_ns(HERE, []) == 1000
    assert core.fastest_ns(HERE, [read(1110), read(905, 900, 910), trial()]) == 900
    beside = read(*[1100] * 17, 890, 880, 870)  # of so many the lowest may be luck
    assert core.fastest_ns(HERE, [beside]) == 890
    unknown = msgspec.structs.replace(HERE, peaks=msgspec.structs.replace(VIRTUAL, core_ns=None))
    assert core.fastest_ns(unknown, [trial()]) is None
    assert core.fastest_ns(unknown, [read(1110), read(1000)]) == 1000
    assert core.fastest_ns(msgspec.structs.replace(HERE, peaks=None), [read(1000)]) is None


def test_what_other_cases_showed_by_the_end_counts():
    """Its own readings are even, and as fast as was known when it began: somebody was there all the time."""
    even = [read(1000, 1005, 1000)]
    end = r.EndLine(schema=r.SCHEMA, id=HERE.id, stopped_by="enough trials")
    for known, noisy in ((None, 0), (1010, 0), (800, 1)):
        made = folds.fold(HERE, even, msgspec.structs.replace(end, core_ns=known))
        assert made.evidence.trials_noisy == noisy
    assert made.evidence.core_slowed == pytest.approx(0.252, abs=0.001)
    assert core.informed(HERE, None) is core.informed(HERE, 1000) is HERE
    bare = msgspec.structs.replace(HERE, peaks=None)
    assert core.informed(bare, 800) is bare


class Known:
    """The peaks of a machine, as cases share them."""

    def __init__(self):
        self.ns = 1000

    def learn(self, numpy, core_ns):
        self.ns = min(self.ns, core_ns)

    def fastest(self, numpy):
        return self.ns


def test_cases_hear_of_each_other_s_trials(monkeypatch):
    """A trial that looked quiet is not, once another case has had the core alone."""
    monkeypatch.setattr(runner, "case_line", lambda *args: HERE)
    case = SimpleNamespace(
        resolved=SimpleNamespace(model=SimpleNamespace(name="net")),
        backend=SimpleNamespace(name="fake"),
        scenario=SimpleNamespace(name="single-stream", soak_s=None),
    )
    settings = runner.Settings(1, runner.plan_of(1, 0.1, 1.0, None), TOLERANCES["fp32"], 0.03)
    peaks, files = Known(), ([], [])
    beside, alone = (runner.Running(case, settings, file, peaks) for file in files)
    first = beside.keep(read(1000, 1000))
    assert not beside.noisy(first)
    alone.keep(read(900, 900))
    assert peaks.ns == 900
    second = beside.keep(msgspec.structs.replace(read(1000, 1000), index=1))
    assert beside.noisy(first)
    assert beside.noisy(second)
    beside.end("the machine stayed busy")
    assert beside.record().evidence.trials_noisy == 2
    assert files[0][-1].core_ns == 900
    assert folds.fold(HERE, files[0][:-1], files[0][-1]) == beside.record()


def test_a_record_beside_a_neighbour_says_so_and_is_not_published():
    made = folds.fold(HERE, [read(1110, 1120, waited_s=3.0), read(1100, waited_s=1.0), read(1000)], None)
    assert made.evidence.trials_noisy == 2
    assert made.evidence.core_slowed == 0.0  # of the trial that is used
    assert made.evidence.core_ns == 1000
    assert made.evidence.waited_s == 4.0
    told = folded.noise([read(1110)], 0.03, 1000)
    assert told.startswith("the CPU was up to 11% slower than it can be: a neighbour of this virtual machine, unseen")
    assert folded.noise([read(1110)], 0.03) == "others used up to 0% of the CPU during the timed loop"
    busier = trial(core=r.CoreFacts(readings_ns=[1500]))
    busier = msgspec.structs.replace(busier, load=msgspec.structs.replace(QUIET, foreign_cpu=0.2))
    assert folded.noise([busier], 0.03, 1000) == "others used up to 20% of the CPU during the timed loop"


def test_of_records_that_differ_the_neighbour_is_a_cause():
    def seen(share):
        made = folds.fold(HERE, [read(round(1000 * (1 + share)))], None)
        return msgspec.structs.replace(made, environment={"runtimes": {"fake": "1"}})

    made = folds.fold(HERE, [read(1000, 1020), read(1000, 1010, 1020), trial()], None)
    assert made.evidence.core_ns == 1010
    assert folds.fold(HERE, [trial()], None).evidence.core_ns is None
    slow = seen(0.02)
    assert slow.evidence.core_slowed == pytest.approx(0.02)
    assert "a neighbour slowed the CPU by up to 2.0%" in causes.changed(seen(0.0), slow)


def test_of_records_that_differ_a_cpu_of_another_speed_is_a_cause_though_neither_knew():
    """On a machine that is fresh every night nobody remembers that the core was faster the night before."""

    def seen(core_ns, numpy="2.4.6"):
        made = folds.fold(HERE, [read(core_ns)], None)
        evidence = msgspec.structs.replace(made.evidence, core_slowed=0.0)
        return msgspec.structs.replace(made, evidence=evidence, environment={"runtimes": {"f": "1"}, "numpy": numpy})

    assert "the CPU was 25% slower (a neighbour, or its clock)" in causes.changed(seen(2800), seen(3500))
    assert "the CPU was 25% faster (a neighbour, or its clock)" in causes.changed(seen(3500), seen(2800))
    assert not any("CPU was" in one for one in causes.changed(seen(2800), seen(2860)))
    assert not any("CPU was" in one for one in causes.changed(seen(2800), seen(3500, "2.5.0")))
