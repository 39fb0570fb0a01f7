"""Supervisors that wait for the next trial: one way to the machine, a fresh process for each, and nothing left over."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

import pytest

from bench.cache import Cache
from bench.errors import BenchError
from bench.hosts.local import LocalHost
from bench.place import Place, started
from bench.registry import find
from bench.standby import Standby
from bench.worker.lease import Lease


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def home(cache, tmp_path, monkeypatch):
    """A place whose lease and scratch folders are the test's own."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "scratch"))
    return Place("local", LocalHost(tmp_path), cache, lease_folder=str(tmp_path))


@pytest.fixture
def place(home):
    with Standby() as supervisors:
        yield replace(home, supervisors=supervisors)


def free(folder):
    lease = Lease(str(folder), "a test")
    try:
        return lease.held
    finally:
        lease.release()


def processes():
    """The one that holds the runtime, and the supervisor, its parent."""
    (supervisor,) = (pid for pid in children(os.getpid()) if b"bench.worker.supervisor" in command(pid))
    return next((pid for pid in children(supervisor)), None), supervisor


def children(parent):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(pid))
    return found


def command(pid):
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        return file.read()


def test_trials_share_a_supervisor_and_nothing_else(place, tmp_path):
    fake, seen = find("fake"), []
    for _ in range(2):
        with started(place, fake, purpose="trial") as ready:
            assert not free(tmp_path)
            seen.append((ready.worker, *processes()))
        assert free(tmp_path)
        assert children(seen[-1][2]) == []
    (worker, child, supervisor), (other, next_child, same) = seen
    assert (worker, supervisor) == (other, same)
    assert child != next_child


def test_what_a_trial_left_in_its_folder_is_not_the_next_ones(place, tmp_path):
    fake = find("fake")
    with started(place, fake, purpose="trial"):
        (folder,) = (tmp_path / "scratch").iterdir()
        (folder / "left").write_text("by the runtime")
    with started(place, fake, purpose="trial"):
        (other,) = (tmp_path / "scratch").iterdir()
        assert other != folder
        assert not (other / "left").exists()


def test_one_whose_trial_failed_is_ended(place):
    fake = find("fake")
    with pytest.raises(BenchError), started(place, fake, purpose="trial") as ready:
        ready.worker.ask("load", {"artifact": {}, "options": {}})
    with pytest.raises(BenchError, match="closed"):
        ready.worker.ask("probe")
    with started(place, fake, purpose="trial") as fresh:
        assert fresh.worker is not ready.worker


def test_one_that_died_while_it_waited_is_replaced(place):
    fake = find("fake")
    with started(place, fake, purpose="trial") as ready:
        _, supervisor = processes()
    os.kill(supervisor, signal.SIGKILL)
    with started(place, fake, purpose="trial") as fresh:
        assert fresh.worker is not ready.worker
        assert fresh.worker.ask("probe")


def test_one_that_died_after_its_trial_costs_nobody_anything(place):
    fake = find("fake")
    with started(place, fake, purpose="trial") as ready:
        os.kill(processes()[1], signal.SIGKILL)
    with started(place, fake, purpose="trial") as fresh:
        assert fresh.worker is not ready.worker


def test_the_same_is_lent_to_one_at_a_time(place):
    fake = find("fake")
    lent = place.supervisors.lent
    with lent(place, fake) as one, lent(place, fake) as other:
        assert one is not other
    with lent(place, fake) as kept:
        assert kept is other  # the first that was given back
    with pytest.raises(BenchError, match="closed"):
        one.ask("rest")


def test_they_end_with_the_run(home, tmp_path):
    with Standby() as supervisors:
        with started(replace(home, supervisors=supervisors), find("fake"), purpose="trial") as ready:
            pass
        assert list((tmp_path / "scratch").iterdir())
    with pytest.raises(BenchError, match="closed"):
        ready.worker.ask("rest")
    assert not list((tmp_path / "scratch").iterdir())
