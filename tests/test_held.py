"""A machine that is held: one lease for all, workers that stay, and none that goes on after it failed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.cache import Cache
from bench.errors import BenchError
from bench.held import hold
from bench.hosts.local import LocalHost
from bench.place import Place, started
from bench.registry import find
from bench.worker.lease import Lease


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def place(cache, tmp_path):
    return Place("local", LocalHost(tmp_path), cache, lease_folder=str(tmp_path))


def free(folder):
    lease = Lease(str(folder), "a test")
    try:
        return lease.held
    finally:
        lease.release()


def test_the_machine_is_ours_from_begin_to_end(place, tmp_path):
    fake = find("fake")
    with hold(place, fake, purpose="search") as (held, _):
        assert not free(tmp_path)
        for purpose in ("part", "reference", "part"):
            with started(held, fake, purpose=purpose) as ready:
                assert ready.probe.available
            assert not free(tmp_path)
    assert free(tmp_path)


def test_workers_stay_until_they_fail_or_are_ended(place):
    fake = find("fake")
    with hold(place, fake, purpose="search") as (held, staying):
        seen = []
        for _ in range(2):
            with started(held, fake, purpose="part") as ready:
                seen.append(ready)
        assert seen[0] is seen[1]
        with started(held, fake, purpose="reference") as ready:
            assert ready is not seen[0]
        with pytest.raises(BenchError), started(held, fake, purpose="part") as ready:
            ready.worker.ask("load", {"artifact": {}, "options": {}})
        assert not staying.has("part")
        assert staying.has("reference")
        with started(held, fake, purpose="part") as ready:
            assert ready is not seen[0]
            ready.worker.ask("probe")
        staying.end("part")
        assert not staying.has("part")
    with pytest.raises(BenchError, match="closed"):
        ready.worker.ask("probe")


def test_room_is_made_for_one_of_them_on_its_machine_alone(place):
    fake = find("fake")
    with hold(place, fake, purpose="search") as (held, staying):
        for purpose in ("conversion", "part", "reference"):
            with started(held, fake, purpose=purpose):
                pass
        staying.make_room(replace(held, device="a board"), but="conversion")
        assert staying.has("part")
        staying.make_room(held, but="conversion")
        assert [staying.has(purpose) for purpose in ("conversion", "part", "reference")] == [True, False, False]


def test_the_machine_is_given_back_where_the_search_fails(place, tmp_path):
    with pytest.raises(ZeroDivisionError), hold(place, find("fake"), purpose="search"):
        raise ZeroDivisionError
    assert free(tmp_path)
