"""Whole runs on a device behind a real sshd: the same record as of this machine, whatever the link does."""

from __future__ import annotations

import json
import os
import threading
import time

import pytest
from device_rig import board_processes, fake, records


def test_the_same_kind_of_record_as_of_this_machine(project, mlp_path, board_cache):
    for device in ("local", "board"):
        done = fake(project, mlp_path, device)
        assert done.code == 0, done.stderr
    local, board = sorted(records(project), key=lambda r: r["case"]["device"] != "local")
    assert (local["status"], board["status"]) == ("ok", "ok")
    assert board["case"]["device"] == "board"
    assert {k for k in board if board[k] is None} == {k for k in local if local[k] is None}
    assert board["latency"]["n"] > 0
    assert board["parity"]["passed"]
    assert board["evidence"]["emulated"] == ""
    assert board_processes(board_cache) == []


def test_a_second_run_sends_nothing(project, mlp_path, board_cache):
    fake(project, mlp_path, "board")
    before = {p: p.stat().st_mtime_ns for p in board_cache.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert {p.parts[len(board_cache.parts)] for p in before} == {"objects"}
    done = fake(project, mlp_path, "board")
    after = {p: p.stat().st_mtime_ns for p in board_cache.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    assert after == before
    assert "sending" not in done.stderr


def test_a_models_hostile_path_and_name(project, mlp_path, tmp_path):
    folder = tmp_path / "it's $(touch pwned); `touch pwned`\n -x"
    folder.mkdir()
    model = folder / '-m "$(touch pwned)".onnx'
    model.write_bytes(mlp_path.read_bytes())
    done = fake(project, model, "board")
    assert done.code == 0, done.stderr
    assert not list(tmp_path.rglob("pwned"))
    assert not [p for p in (os.path.expanduser("~/pwned"), "pwned") if os.path.exists(p)]


def test_a_hostile_name_of_a_device(project, mlp_path):
    for name in ("-oProxyCommand=touch pwned", "a b", "$(touch pwned)", "a\nb", "'"):
        done = project("run", mlp_path, "--batch", "1", "-b", "fake", f"--device={name}")
        assert done.code == 2
        assert "is not a device's name" in done.stderr
    assert not (project.folder / "results").exists()


@pytest.mark.parametrize(
    ("device", "said"),
    [("changed", "the host key of changed has changed"), ("stranger", "stranger did not let us in")],
)
def test_a_device_that_cannot_be_reached_is_a_record(project, mlp_path, device, said):
    done = fake(project, mlp_path, device)
    assert done.code == 1
    (record,) = records(project)
    assert record["status"] == "failed"
    assert said in record["why"]
    assert record["error"]["hint"]


def test_a_refusing_device_is_tried_again_and_then_a_record(project, mlp_path, relay):
    relay.close()
    done = fake(project, mlp_path, "behind")
    assert done.code == 1
    assert done.stderr.count("beginning this trial again") == 2
    (record,) = records(project)
    assert "behind refused the connection" in record["why"]


def test_a_cut_in_the_middle_costs_no_record(project, mlp_path, relay, board_cache):
    def working():
        return len(board_processes(board_cache / "objects")) >= 2  # a supervisor, and its child

    def cut():
        for _ in range(2):  # on a busy machine the first hits the measurement of its peaks, which is done without then
            while not working():
                time.sleep(0.01)
            time.sleep(1.0)
            relay.kill()
            while working():
                time.sleep(0.01)

    threading.Thread(target=cut, daemon=True).start()
    done = fake(project, mlp_path, "behind", "-o", "latency_us=300000", "--min-count", "9", "--max-time", "4")
    assert done.code == 0, done.stderr
    assert "beginning this trial again" in done.stderr
    (record,) = records(project)
    assert record["status"] == "ok"
    end = time.monotonic() + 20
    while board_processes(board_cache) and time.monotonic() < end:
        time.sleep(0.1)
    assert board_processes(board_cache) == []


def test_a_crash_there_is_a_crash_and_not_a_lost_link(project, mlp_path):
    done = fake(project, mlp_path, "board", "-o", "fault=crash")
    assert done.code == 1
    (record,) = records(project)
    assert (record["status"], record["error"]["signal"]) == ("crashed", "SIGSEGV")


def test_cpus_of_a_device(project, mlp_path):
    assert fake(project, mlp_path, "board", "--cpus", "first").code == 0
    (record,) = records(project)
    assert record["case"]["options"]["cpus"] == [0]
    assert record["evidence"]["placement"]["affinity"] == [0]
    done = fake(project, mlp_path, "board", "--cpus", "big")
    assert done.code == 2
    assert "of one kind" in done.stderr
    done = fake(project, mlp_path, "board", "--cpus", "4000")
    assert done.code == 1
    assert "cannot be bound to the CPUs" in done.stdout


def test_what_is_there_and_what_is_missing(project, board_cache):
    done = project("devices", "check", "board", "stranger", "--json")
    assert done.code == 1
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert good["missing"] == []
    assert good["cache"] == str(board_cache)
    assert good["environment"]["cores"] == os.cpu_count()
    assert "did not let us in" in bad["missing"][0]
    assert "nothing is missing" in project("devices", "check", "board").stdout


def test_cleaning_removes_what_we_put_there_and_nothing_else(project, mlp_path, board_cache):
    fake(project, mlp_path, "board")
    (board_cache / "yours").write_text("x")
    done = project("devices", "clean", "board")
    assert done.code == 0
    assert "freed on board" in done.stderr
    assert [p.name for p in board_cache.iterdir()] == ["yours"]
    assert fake(project, mlp_path, "board").code == 0


def test_the_devices_that_are_known(project):
    lines = project("devices").stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["device", "local", "behind", "board", "changed", "stranger"]
    done = project("devices", "check", "local")
    assert done.code == 2
    assert "is this machine" in done.stderr
