"""How busy the machine was, and what machine it is."""

from __future__ import annotations

import getpass
import io
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bench.evidence import environment, load
from bench.evidence.load import MIN_CORE_S, MIN_WINDOW_S, Snapshot, between

CORES = os.cpu_count() or 1
SECONDS = st.floats(0, 1e7)
SHARES = st.floats(0, 1)
quick = settings(max_examples=60, deadline=None, derandomize=True)


def later(before, wall_s, own_s=0.0, foreign_s=0.0, steal_s=0.0, **more):
    """The snapshot after these things have happened."""
    left_s = wall_s * before.cores - own_s - foreign_s - steal_s
    idle = None if before.idle_s is None else before.idle_s + left_s
    steal = None if before.steal_s is None else before.steal_s + steal_s
    return Snapshot(
        before.wall_ns + int(wall_s * 1e9),
        idle,
        steal,
        before.own_s + own_s,
        before.involuntary + more.get("involuntary", 0),
        before.major_faults + more.get("major_faults", 0),
        before.cores,
    )


STARTS = st.builds(
    Snapshot,
    st.integers(0, 2**62),
    SECONDS,
    SECONDS,
    st.floats(0, 1e5),
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(1, 256),
)
LONG_ENOUGH = st.floats(max(MIN_WINDOW_S, MIN_CORE_S) + 0.01, 1e4)


@quick
@given(STARTS, LONG_ENOUGH, SHARES, SHARES, SHARES, st.integers(0, 999), st.integers(0, 999))
def test_shares_are_of_all_cores(before, wall_s, own, foreign, steal, involuntary, faults):
    capacity = wall_s * before.cores
    after = later(
        before,
        wall_s,
        own * capacity,
        foreign * capacity,
        steal * capacity,
        involuntary=involuntary,
        major_faults=faults,
    )
    found = between(before, after)
    assert found.wall_s == pytest.approx(wall_s, rel=1e-6, abs=1e-6)
    assert found.foreign_cpu == pytest.approx(foreign, abs=1e-5)
    assert found.steal == pytest.approx(steal, abs=1e-5)
    assert (found.involuntary_switches, found.major_faults, found.reason) == (involuntary, faults, "")


@quick
@given(STARTS, LONG_ENOUGH, st.floats(0, 100), st.floats(0, 1))
def test_rounding_never_makes_a_negative_share(before, wall_s, own_s, lost_s):
    """The kernel counts the machine in ticks and a process in nanoseconds: the parts may exceed the whole."""
    found = between(before, later(before, wall_s, own_s, -lost_s, -lost_s))
    assert found.foreign_cpu >= 0
    assert found.steal >= 0


@quick
@given(STARTS, st.floats(0, MIN_WINDOW_S - 0.01))
@example(Snapshot(0, 0.0, 0.0, 0.0, 0, 0, cores=1), MIN_CORE_S - 0.01)
def test_a_short_window_tells_nothing(before, wall_s):
    found = between(before, later(before, wall_s, 0.0, 5.0))
    assert found.foreign_cpu is None
    assert found.steal is None
    assert "too short" in found.reason


def test_where_proc_cannot_be_read():
    before = Snapshot(0, None, None, 0.0, 0, 0)
    found = between(before, later(before, 1.0, major_faults=3))
    assert (found.foreign_cpu, found.steal, found.major_faults) == (None, None, 3)
    assert "/proc/stat" in found.reason


def test_a_machine_without_the_columns(monkeypatch):
    real = open
    for text in ("cpu 1 2 3\n", "", "intr 1 2 3 4 5 6 7 8 9\n", "cpu 0 0 0 0 0 0 0 0\ncpu0 0 0 0 0 0 0 0 0\n"):

        def fake(path, *rest, text=text):
            return real(os.devnull) if path != "/proc/stat" else io.StringIO(text)

        monkeypatch.setattr(load, "open", fake, raising=False)
        assert load.snapshot().idle_s is None


def test_what_the_machine_counts(monkeypatch):
    text = "cpu 1 2 3 400 50 6 7 80 9 0\ncpu0 0 0 0 300\ncpu1 0 0 0 100\nintr 5 5 5\ncpufreq 1\n"
    monkeypatch.setattr(load, "open", lambda path: io.StringIO(text), raising=False)
    found, tick = load.snapshot(), os.sysconf("SC_CLK_TCK")
    assert (found.idle_s, found.steal_s, found.cores) == (450 / tick, 80 / tick, 2)


BUSY = "import time; end = time.monotonic() + 30\nprint(flush=True)\nwhile time.monotonic() < end: pass"


def test_a_busy_neighbour_shows():
    neighbours = [
        subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, start_new_session=True)
        for _ in range(CORES)
    ]
    try:
        for neighbour in neighbours:
            neighbour.stdout.readline()
        before = load.snapshot()
        time.sleep(1.0)
        found = between(before, load.snapshot())
    finally:
        for neighbour in neighbours:
            neighbour.kill()
            neighbour.communicate()
    assert found.foreign_cpu > 0.2


PIECES = """
import time
print(flush=True)
while True:
    end = time.perf_counter() + 0.003
    while time.perf_counter() < end: pass
    time.sleep(0.017)
"""


def test_a_neighbour_that_works_in_short_pieces_shows_every_time():
    """It takes 15 % of a core. A kernel that only samples what a core does when busy sees twice that, or nothing."""
    neighbour = subprocess.Popen([sys.executable, "-c", PIECES], stdout=subprocess.PIPE, start_new_session=True)
    try:
        neighbour.stdout.readline()
        shares = []
        for _ in range(10):
            before = load.snapshot()
            time.sleep(0.4)
            shares.append(between(before, load.snapshot()).foreign_cpu)
    finally:
        neighbour.kill()
        neighbour.communicate()
    assert min(shares) > 0.05 / CORES


def test_our_own_work_is_not_foreign():
    """Whoever else is busy: what we burn on one core shows as ours."""
    before = load.snapshot()
    end = time.monotonic() + 0.6
    while time.monotonic() < end:
        sum(range(1000))
    after = load.snapshot()
    assert after.own_s - before.own_s > 0.05
    assert after.own_s - before.own_s <= (after.wall_ns - before.wall_ns) / 1e9 + 0.05


def test_memory():
    rss, peak = load.memory_bytes()
    assert 1 << 20 < rss <= peak < 1 << 40


def test_memory_where_proc_is_not(monkeypatch):
    def absent(*rest):
        raise FileNotFoundError

    monkeypatch.setattr(load, "open", absent, raising=False)
    assert load.memory_bytes() == (None, None)


# --- what machine it is


def test_the_environment_names_nobody():
    found = json.dumps(asdict(environment.collect()))
    secrets = {platform.node(), str(Path.home()), str(Path.cwd()), sys.executable, sys.prefix}
    machine_id = Path("/etc/machine-id")
    if machine_id.exists():
        secrets.add(machine_id.read_text().strip())
    if getpass.getuser() != "root":
        secrets.add(getpass.getuser())
    assert not [secret for secret in secrets if len(secret) > 3 and secret in found]
    for value in asdict(environment.collect()).values():
        assert not str(value).startswith(("/", "~"))


def test_the_environment_is_the_same_twice_and_plain():
    first, second = environment.collect(), environment.collect()
    assert first == second
    json.dumps(asdict(first))
    assert first.cores == CORES
    assert first.machine == first.machine.lower()
    assert set(first.machine) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_the_environment_where_nothing_can_be_read(tmp_path):
    found = environment.collect(str(tmp_path))
    assert (found.memory_bytes, found.governor, found.mhz_max, found.boot) == (None, None, None, "unknown")
    assert found.cpu == platform.machine()
    assert found.machine


@pytest.mark.parametrize(
    ("cpuinfo", "cpu", "label"),
    [
        ("model name\t: AMD EPYC 7B13 64-Core Processor\n", "AMD EPYC 7B13 64-Core Processor", "amd-epyc-7b13-64-core"),
        ("model name\t: Intel(R) Xeon(R) CPU @ 2.20GHz\n", "Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon"),
        (
            "processor\t: 0\nmodel name\t: ARMv7\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
            "Raspberry Pi 4 Model B Rev 1.4",
            "raspberry-pi-4-model-b-rev-1-4",
        ),
        ("processor\t: 0\n", platform.machine(), platform.machine().replace("_", "-")),
    ],
)
def test_the_machines_name(tmp_path, cpuinfo, cpu, label):
    for path, text in (("proc/cpuinfo", cpuinfo), ("etc/machine-id", "0123456789abcdef")):
        (tmp_path / path).parent.mkdir()
        (tmp_path / path).write_text(text)
    found = environment.collect(str(tmp_path))
    assert found.cpu == cpu
    assert found.machine.startswith(f"{label}-{CORES}c-")
    assert "0123456789abcdef" not in found.machine


def test_a_pause_is_in_no_window():
    at = load.Snapshot(0, 10.0, 0.0, 1.0, 3, 0, cores=2)
    paused = replace(at, wall_ns=400_000_000, idle_s=10.4, own_s=1.4, involuntary=4)
    again = replace(at, wall_ns=2_400_000_000, idle_s=14.0, own_s=1.8, involuntary=9, major_faults=2)
    after = replace(at, wall_ns=2_800_000_000, idle_s=14.4, own_s=2.2, involuntary=10, major_faults=2)
    found = load.between(at, load.without(after, [(paused, again)]))
    assert found == load.Load(0.8, pytest.approx(0.0), 0.0, 2, 0)
    assert load.without(after, []) == after
    unknown = replace(after, idle_s=None)
    assert load.between(at, load.without(unknown, [(paused, again)])).foreign_cpu is None
