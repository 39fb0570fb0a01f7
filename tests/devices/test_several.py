"""One run on several devices: machines at once, devices of one machine in turns, one table, whatever fails."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from device_rig import spans

FAST = ("--trials", "1", "--max-time", "0.2", "--min-time", "0.05", "--max-foreign-cpu", "1")
A, B = "fake:machine=a", "fake:machine=b"


@pytest.fixture
def run(cli, mlp_path):
    """`run` of the tiny model on `fake` on these devices; how it ended, and its records in the table's order."""

    def of(devices, *more, backends=("fake",)):
        words = [word for device in devices for word in ("--device", device)]
        words += [word for backend in backends for word in ("-b", backend)]
        done = cli("run", mlp_path, "--batch", "1", *words, *FAST, *more)
        found = [json.loads(line) for line in cli("report", "--json").stdout.splitlines()]
        order = [d for d in devices for r in found if r["case"]["device"] == d]
        return done, sorted(found, key=lambda r: order.index(r["case"]["device"]))

    return of


def test_machines_measure_at_once(cli, run):
    """From the records alone: each began before the other was done, to the second that they are written in."""
    done, records = run((A, B), "--trials", "2", "--min-time", "2.5", "--max-time", "2.5", "-o", "latency_us=100000")
    assert done.code == 0, done.stderr
    assert [r["status"] for r in records] == ["ok", "ok"]
    assert len({r["run"] for r in records}) == 1
    assert len({r["machine"] for r in records}) == 2
    assert len({r["environment"]["boot"] for r in records}) == 2
    found = spans(cli, (A, B))
    last_begin = max(trials[0][0] for trials in found.values()) + 1
    first_end = min(trials[-1][1] for trials in found.values())
    assert last_begin < first_end
    head = next(line for line in done.stdout.splitlines() if line.startswith("| model"))
    assert [cell.strip() for cell in head.split("|")[1:-1]] == ["model", f"fake, {A}", f"fake, {B}"]
    assert done.stdout.index("Devices side by side") < done.stdout.index(f"Device {A}")


def test_devices_that_are_one_machine_take_turns(cli, run):
    devices = ("fake:", "fake:banner")
    done, records = run(devices, "--trials", "2", "--min-time", "1.2", "--max-time", "1.2", "-o", "latency_us=100000")
    assert done.code == 0, done.stderr
    assert len({r["environment"]["boot"] for r in records}) == 1
    first, second = sorted(spans(cli, devices).values())
    assert first[-1][0] < second[0][0], "not even a trial in between"


def test_one_device_is_shown_as_ever(run):
    done, records = run((A, A))
    assert done.code == 0
    assert len(records) == 1
    assert "side by side" not in done.stdout


def test_a_device_that_cannot_be_reached_costs_the_others_nothing(run, cli):
    done, records = run(("fake:refuse", A), "-o", "latency_us=1000")
    assert done.code == 1
    assert [r["status"] for r in records] == ["failed", "ok"]
    assert "refused the connection" in records[0]["why"]
    assert records[0]["error"]["phase"] == "connect"
    assert "[failed]" in done.stdout
    (table,) = cli.folder.glob("results/tables/*/*.md")
    assert table.read_text() == done.stdout


def test_a_device_that_breaks_off_costs_the_others_nothing(run):
    done, records = run((A, "fake:machine=b,cut=3000"))
    assert done.code == 1
    assert [r["status"] for r in records] == ["ok", "failed"]


def test_without_names_of_backends_those_that_any_device_has(run):
    done, records = run(("fake:refuse", A), backends=())
    assert done.code == 1
    found = {(r["case"]["device"], r["case"]["backend"]) for r in records}
    assert {backend for _, backend in found} >= {"ort-cpu"}
    assert len(found) == 2 * len({backend for _, backend in found})


def test_a_governor_that_cannot_be_set_is_a_record(run):
    done, records = run((A, B), "--governor", "nosuchgovernor", "--json")
    assert done.code == 1
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [r["id"] for r in records]
    assert {r["status"] for r in records} == {"failed"}
    assert all("governor" in r["why"] for r in records)


def test_what_is_refused_is_refused_before_anything_runs(run, cli):
    for devices, more in (((A, "a b"), ()), ((A, B), ("--governor", "$(x)")), ((A, "fake:machine=../x"), ())):
        done, _ = run(devices, *more)
        assert done.code == 2
    assert not (cli.folder / "results").exists()


def test_a_board_and_this_machine_in_one_table(project, run):
    """Two ways to one machine, and that machine itself: three devices that take turns."""
    devices = ("local", "board", "behind")
    done, records = run(devices, "--min-time", "1", "--max-time", "1", "-o", "latency_us=100000")
    assert done.code == 0, done.stderr
    assert [(r["case"]["device"], r["status"]) for r in records] == [(device, "ok") for device in devices]
    assert len({r["environment"]["boot"] for r in records}) == 1
    head = next(line for line in done.stdout.splitlines() if line.startswith("| model"))
    assert [cell.strip() for cell in head.split("|")[2:-1]] == [f"fake, {device}" for device in devices]
    turns = sorted(span for trials in spans(project, devices).values() for span in trials)
    assert all(this[0] + 1 <= following[0] for this, following in pairwise(turns))
