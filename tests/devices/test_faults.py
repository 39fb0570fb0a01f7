"""What becomes of boards and of us: restarted, out of memory, with a wrong clock, and killed on this side."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from device_rig import MemoryLimit, board_processes, eventually, fake, records, without_memory_limit, wrong_clock

import bench
from bench.hosts.ssh import Login, SshHost
from bench.worker.bundle import WORKER_FILES

BOOT = "work/machines/rebooted/proc/sys/kernel/random/boot_id"


def trial_lines(cli):
    files = cli.folder.glob("results/records/*/*.jsonl")
    return [line for path in files for line in path.read_text().splitlines() if '"placement"' in line]


def add(project, name, python):
    """One more board, as the first but with another interpreter."""
    path = project.folder / "devices.toml"
    first = re.search(r"\[board\]\n(.*?)(?=\n\[)", path.read_text(), re.DOTALL)[1]
    entry = re.sub(r'(?m)^python = ".*"$', f'python = "{python}"', first)
    path.write_text(f'{path.read_text()}\n[{name}]\nssh = "board"\n{entry}\n')


# --- a board that is restarted


def test_trials_of_several_boots_are_told(cli, mlp_path, command_cache):
    """The lease is another's after a restart: nothing of the old one is in the way."""

    def restart():
        boot = command_cache / BOOT
        if eventually(lambda: trial_lines(cli), 100):
            boot.write_text("11111111-2222-3333-4444-555555555555\n")

    threading.Thread(target=restart, daemon=True).start()
    more = ("--trials", "3", "--max-trials", "3", "--min-time", "1", "--max-time", "1", "-o", "latency_us=100000")
    done = fake(cli, mlp_path, "fake:machine=rebooted", *more)
    assert done.code == 0, done.stderr
    (record,) = records(cli)
    assert record["status"] == "ok"
    assert any("was restarted between trials: they are of 2 boots" in note for note in record["notes"])


def test_what_a_restart_took_away_is_sent_again(ssh_host, relay, tmp_path, board_cache):
    (tmp_path / "a").write_bytes(b"1234")
    host = ssh_host(relay.port)
    host.put(tmp_path / "a", "k")
    relay.kill()
    assert eventually(lambda: not host._socket.exists())
    shutil.rmtree(board_cache)
    host.put(tmp_path / "a", "k")
    assert (board_cache / "objects/k/a").read_bytes() == b"1234"


def test_a_restart_between_trials_costs_no_record(project, mlp_path, relay, board_cache):
    """The link breaks, and a cache in memory is empty afterwards."""

    def restart():
        if eventually(lambda: trial_lines(project), 100):
            relay.kill()
            shutil.rmtree(board_cache, ignore_errors=True)

    threading.Thread(target=restart, daemon=True).start()
    more = ("--trials", "2", "--max-trials", "2", "--min-time", "1", "--max-time", "1", "-o", "latency_us=100000")
    done = fake(project, mlp_path, "behind", *more)
    assert done.code == 0, done.stderr
    (record,) = records(project)
    assert (record["status"], record["evidence"]["trials"]) == ("ok", 2)


# --- a board that runs out of memory


def test_a_board_out_of_memory(project, mlp_path, tmp_path):
    """The kernel of this very machine ends the child, which is the one that it shall take."""
    if reason := without_memory_limit():
        pytest.skip(reason)
    limit = MemoryLimit(400 << 20)
    try:
        add(project, "small", limit.python(tmp_path))
        done = fake(project, mlp_path, "small", "-o", "fault=leak", "-o", "leak_mib=256")
        (record,) = records(project)
        assert record["status"] == "crashed", done.stderr
        assert record["error"]["signal"] == "SIGKILL"
        assert "out of memory" in record["error"]["message"]
        assert "smaller batch" in record["error"]["hint"]
        assert done.code == 1
    finally:
        eventually(lambda: not (limit.folder / "cgroup.procs").read_text())
        limit.close()


# --- a clock that is wrong


def test_a_wrong_clock_is_told_and_changes_nothing(project, mlp_path, tmp_path):
    add(project, "wrong", wrong_clock(tmp_path))
    done = project("devices", "check", "wrong", "--json")
    assert done.code == 1
    (found,) = (json.loads(line) for line in done.stdout.splitlines())
    assert -21 * 365 * 86400 < found["skew_s"] < -19 * 365 * 86400
    assert any("its clock is" in word and "Measurements do not mind" in word for word in found["missing"])
    done = fake(project, mlp_path, "wrong", "-o", "latency_us=20000")
    assert done.code == 0, done.stderr
    (record,) = records(project)
    assert record["status"] == "ok"
    assert 20e6 <= record["latency"]["p50_ns"] < 200e6
    assert 0 < record["evidence"]["observed"]["seconds"] < 60
    assert record["started_at"][:4] >= "2026", "the host's own clock"


def test_what_is_being_received_survives_a_clock_that_jumps(ssh_host, tmp_path, board_cache):
    """Another's upload, which looks old because the clock was set meanwhile: it is at work, so it stays."""
    import fcntl

    busy, left = (board_cache / "incoming" / name for name in ("busy", "left"))
    for folder in (busy, left):
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    lock = os.open(busy, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (tmp_path / "a").write_bytes(b"1")
        ssh_host().put(tmp_path / "a", "k")
    finally:
        os.close(lock)
    assert [p.name for p in (board_cache / "incoming").iterdir()] == ["busy"]


def test_no_duration_is_taken_by_the_wall_clock():
    """Whatever travels to a worker knows no time of day."""
    for name in WORKER_FILES:
        text = (Path(bench.__file__).parent / name).read_text()
        assert not re.search(r"\btime\.time(_ns)?\(|\bdatetime\b|CLOCK_REALTIME", text), name


# --- killed on this side


def test_a_killed_near_side_leaves_no_orphan_there(project, mlp_path, board_cache):
    words = ("run", mlp_path, "--batch", "1", "-b", "fake", "--device", "board", "-o", "latency_us=1000000")
    words += ("--max-foreign-cpu", "1", "--trials", "1", "--min-time", "60", "--max-time", "60")
    process = subprocess.Popen(
        [*project.command, *map(str, words)], cwd=project.folder, env=project.environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    objects = board_cache / "objects"
    assert eventually(lambda: len(board_processes(objects)) >= 2, 60), "a supervisor, and its child"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert eventually(lambda: not board_processes(board_cache), 45)
    done = fake(project, mlp_path, "board")
    assert done.code == 0, "the machine is free again"


LEFT = """
import os, sys
from bench.hosts.ssh import Login, SshHost
host = SshHost(Login("loop", "loop", sys.argv[1]))
host.run(["true"], timeout_s=30)
print(host._folder, flush=True)
os.kill(os.getpid(), 9)
"""


def test_what_a_killed_one_left_is_swept_by_the_next(sshd, monkeypatch, tmp_path):
    config = str(sshd.config("loop"))
    left = subprocess.run([sys.executable, "-c", LEFT, config], capture_output=True, text=True, check=False)
    folder = Path(left.stdout.strip())
    assert folder.is_dir()
    host, other = (SshHost(Login("loop", "loop", config)) for _ in range(2))
    try:
        assert not folder.exists()
        assert host._folder.is_dir(), "not what is in use"
    finally:
        host.close()
        other.close()


@pytest.mark.slow
def test_the_connection_of_a_killed_one_ends_by_itself(sshd):
    from device_rig import processes

    left = subprocess.run(
        [sys.executable, "-c", LEFT, str(sshd.config("loop"))], capture_output=True, text=True, check=False
    )
    folder = left.stdout.strip()
    assert processes(folder), "it outlives us for a while"
    assert eventually(lambda: not processes(folder), 60)
    shutil.rmtree(folder)
