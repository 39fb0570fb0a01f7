"""Lanes, blocks, retries, turns: the executor on devices whose trials are simulated."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest

from bench.cache import Cache
from bench.cli import chosen
from bench.errors import BenchError, Unreachable
from bench.matrix import execute, journal
from bench.matrix.contact import Contact
from bench.models import resolve
from bench.place import Place
from bench.plausible.peaks import Peaks
from bench.preparation import Preparation
from bench.record import ErrorFacts
from bench.registry import find
from bench.runner import Case, Settings, case_facts, cell_of
from bench.store import read_run

SETTINGS = Settings(trials=2, max_foreign_cpu=1.0)
LOST = ErrorFacts(phase="load", kind="link", error="Unreachable", message="the worker's supervisor is gone")
CRASH = ErrorFacts(phase="load", kind="crash", error="Crashed", message="SIGSEGV", signal="SIGSEGV")


class Devices:
    """Simulated devices: what their trials end with, who they are, and a diary of who measured when."""

    def __init__(self):
        self.errors: dict[str, list[ErrorFacts | None]] = {}
        self.boots: dict[str, str] = {}
        self.refusals: Counter[str] = Counter()
        self.busy: Counter[str] = Counter()
        self.at_once: Counter[str] = Counter()
        self.begun: list[tuple[str, str]] = []
        self.contacts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def contact(self, place, backend):
        self.contacts[place.device] += 1
        if self.refusals[place.device]:
            self.refusals[place.device] -= 1
            raise Unreachable(f"{place.device} refused")
        return Contact("simulated", self.boots.get(place.device, place.device))

    def trial(self, place, plan, index, wait=None, **more):
        from bench.record import TrialLine
        from bench.store import now

        boot = self.boots.get(place.device, place.device)
        with self._lock:
            self.busy[boot] += 1
            self.at_once[boot] = max(self.at_once[boot], self.busy[boot])
            self.begun.append((place.device, f"{plan.options.threads}"))
        time.sleep(0.002)
        with self._lock:
            self.busy[boot] -= 1
            errors = self.errors.get(place.device, [])
            error = errors.pop(0) if errors else None
        if isinstance(error, Exception):
            raise error
        return TrialLine(
            schema=1, id=plan.case_id, index=index, started_at=now(), environment={}, runtimes={}, error=error
        )


class Watch:
    """What was told."""

    def __init__(self):
        self.records, self.said = [], []

    def say(self, device, message):
        self.said.append((device, message))

    def trial(self, device, title, number, of):
        pass

    def done(self, device, result):
        self.records.append((device, result))


@pytest.fixture
def devices(monkeypatch):
    found = Devices()
    monkeypatch.setattr("bench.runner.run_trial", found.trial)
    reason = {"threads": 1, "flop_per_s": None, "copy_bytes_per_s": None, "arch": "", "clock_hz": None}
    reason |= {"features": [], "numpy": "", "foreign_cpu": None, "reason": "simulated"}
    monkeypatch.setattr(Peaks, "of", lambda self, backend, options: reason)
    return found


@pytest.fixture
def case(mlp_path, command_cache):
    """A case on a device; prepared once per session, its answers judged by the first backend that may."""
    cache = Cache(command_cache)
    resolved = resolve(str(mlp_path), cache, shapes={}, batch=1)
    local = chosen.place("local", cache, lambda message: None)

    def of(device="a", threads=1):
        wanted = chosen.Wanted(threads, "model", 1, (), (), None)
        backend = find("fake")
        return Case(resolved, backend, device, chosen.options_of([backend], wanted, local)["fake"], 1)

    return of


@pytest.fixture
def run(devices, tmp_path, command_cache):
    """Run cases; the watch, and the records."""

    def of(cases, rules=None, again=None, executor=execute.threads):
        watch = Watch()
        local = chosen.place("local", Cache(command_cache), lambda message: None)
        places = {case.device: replace(local, device=case.device) for case in cases}
        with execute.Files(tmp_path, "run", lambda message: None) as files:
            settings = execute.Run(
                files=files,
                settings=SETTINGS,
                rules=rules or execute.Rules(retries=1, retry_wait_s=0.0),
                machine="here",
                watch=watch,
                again=again or {},
                preparation=Preparation(),
                begin=time.monotonic(),
                contact=devices.contact,
            )
            execute.execute(cases, places, settings, executor)
        return watch, read_run(journal.run_files(tmp_path, "run"))

    return of


def ends(records):
    return Counter((r.case.device, r.error.kind if r.error else "") for r in records)


def test_every_cell_of_every_device_is_recorded_once(run, case, devices):
    cases = [case(d, t) for d in "abc" for t in range(1, 12)]
    watch, records = run(cases)
    assert Counter(r.cell for r in records) == Counter(cell_of(case_facts(c)) for c in cases)
    assert len(watch.records) == len(cases)
    assert all(r.evidence.complete for r in records)
    assert max(devices.at_once.values()) == 1


def test_within_a_block_trials_come_in_rounds_and_blocks_one_after_the_other(run, case, devices):
    run([case("a", t) for t in range(1, 11)])
    first = [str(t) for t in range(1, 9)]
    assert [t for _, t in devices.begun] == [*first, *reversed(first), "9", "10", "10", "9"]


def test_devices_that_are_one_machine_take_turns(run, case, devices):
    devices.boots = {"a": "one", "b": "one"}
    run([case(d, t) for d in "ab" for t in range(1, 7)])
    assert devices.at_once == {"one": 1}


def test_a_lost_link_is_tried_again_and_leaves_one_record(run, case, devices, tmp_path):
    devices.errors["a"] = [None, LOST]
    watch, records = run([case("a", 1), case("a", 2)])
    assert ends(records) == {("a", ""): 2}
    assert any("measured again: load: the worker's supervisor is gone" in r.notes for r in records)
    assert len(watch.records) == 2
    lines = (tmp_path / "records" / "simulated" / "run.jsonl").read_text()
    assert lines.count('"type":"case"') == 3  # what was lost stays in the file


def test_what_a_runtime_did_is_not_tried_again(run, case, devices):
    devices.errors["a"] = [CRASH]
    _, records = run([case("a", 1), case("a", 2)])
    assert ends(records) == {("a", "crash"): 1, ("a", ""): 1}
    assert len(devices.begun) == 3


def test_retries_are_bounded(run, case, devices):
    devices.errors["a"] = [LOST] * 99
    _, records = run([case("a", 1)], execute.Rules(retries=3, retry_wait_s=0.0))
    assert ends(records) == {("a", "link"): 1}
    assert len(devices.begun) == 4


def test_a_device_that_is_gone_costs_the_others_nothing_and_is_given_up(run, case, devices):
    devices.errors["a"] = [LOST] * 999
    watch, records = run([case(d, t) for d in "ab" for t in range(1, 25)])
    assert ends(records) == {("a", "link"): 24, ("b", ""): 24}
    assert sum(d == "a" for d, _ in devices.begun) == 16  # one block, twice
    assert len(watch.records) == 48


def test_a_device_that_was_never_reached_has_its_records_too(run, case, devices):
    devices.refusals["a"] = 99
    _, records = run([case("a", 1), case("a", 2), case("b", 1)])
    assert ends(records) == {("a", "Unreachable"): 2, ("b", ""): 1}
    assert {r.machine for r in records if r.case.device == "a"} == {"here"}
    assert devices.contacts == {"a": 2, "b": 1}


def test_a_device_that_comes_back_is_measured(run, case, devices):
    devices.refusals["a"] = 1
    _, records = run([case("a", 1)])
    assert ends(records) == {("a", ""): 1}


def test_an_error_of_ours_on_one_device_leaves_the_others_alone(run, case, devices):
    devices.errors["a"] = [ZeroDivisionError("ours")]
    with pytest.raises(BenchError, match="a broke off, and the others are done: ZeroDivisionError: ours"):
        run([case("a", 1), case("b", 1), case("b", 2)])


def test_a_spent_budget_prepares_nothing_and_is_recorded(run, case, devices, monkeypatch):
    monkeypatch.setattr(Preparation, "reference", lambda *a: pytest.fail("prepared"))
    _, records = run([case("a", t) for t in range(1, 4)], execute.Rules(budget_s=0.0))
    assert [r.status for r in records] == ["skipped"] * 3
    assert devices.begun == []


def test_what_is_resumed_takes_the_place_of_what_was_interrupted(run, case, tmp_path):
    one = case("a", 1)
    cell = cell_of(case_facts(one))
    _, (first,) = run([one], execute.Rules(budget_s=0.0))
    came = journal.progress(tmp_path, "run")
    assert not came.done
    assert came.again[cell].id == first.id
    _, (second,) = run([one], again=dict(came.again))
    assert second.id != first.id
    assert "measured again: the budget is spent" in second.notes
    assert journal.progress(tmp_path, "run") == journal.Progress(frozenset({cell}), {})


def test_a_reference_that_cannot_be_had_is_tried_once_for_all(monkeypatch, case, command_cache):
    """And a way that was closed is tried again."""
    tried = []

    def fails(error):
        def complete(*args, **more):
            tried.append(1)
            raise error

        return complete

    preparation, one = Preparation(), case()
    place: Place = chosen.place("local", Cache(command_cache), lambda message: None)
    for error, count in ((Unreachable("gone"), 3), (BenchError("no backend may judge"), 1)):
        tried.clear()
        monkeypatch.setattr("bench.reference.complete", fails(error))
        for _ in range(3):
            with pytest.raises(BenchError, match=error.message):
                preparation.reference(one.resolved, place, {})
        assert len(tried) == count


def test_blocks_are_of_one_model_and_eight_at_most(case):
    other = replace(case(), resolved=replace(case().resolved, model=replace(case().resolved.model, sha256="other")))
    cases = [*(case("a", t) for t in range(1, 10)), other, case("a", 10)]
    assert [len(block) for block in execute.blocks(cases)] == [8, 1, 1, 1]


def test_another_executor_may_drive_the_lanes(run, case):
    """The seam: whoever drives every lane to its end has run the matrix."""
    driven = []

    def one_after_the_other(lanes):
        for lane in lanes:
            driven.append(lane.device)
            lane.work()

    _, records = run([case(d) for d in "ab"], executor=one_after_the_other)
    assert driven == ["a", "b"]
    assert len(records) == 2


def test_an_interruption_that_comes_to_another_thread_ends_the_run():
    # As the kernel may choose while a lane starts a process; the main thread does not wake of it.
    program = """
import signal, threading, time
from bench.matrix.execute import Lane, threads

def lane():
    time.sleep(0.5)  # by now the main thread waits
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
    time.sleep(600)

try:
    threads([Lane("there", lane)])
except KeyboardInterrupt:
    print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout == "interrupted\n", done.stderr


def test_conversions_are_made_ahead_for_other_machines_alone(run, case, devices, monkeypatch):
    """While a device measures, this machine prepares its next block; while this machine measures, nobody does."""
    from bench.evidence.boot import boot_id

    by_thread = []
    real = Preparation.reference

    def reference(self, *args):
        by_thread.append(threading.current_thread().name)
        return real(self, *args)

    monkeypatch.setattr(Preparation, "reference", reference)
    run([case("a", t) for t in range(1, 10)])
    assert any("_prepare" in name for name in by_thread)
    by_thread.clear()
    devices.boots["b"] = boot_id()
    run([case("b", t) for t in range(1, 10)])
    assert set(by_thread) == {"b"}
