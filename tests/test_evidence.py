"""What machines tell of clocks, heat, throttling and energy, on file systems made up for it; waiting for quiet."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, fields
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import fold as folds
from bench import record as r
from bench.artifacts import prepare
from bench.cache import Cache
from bench.evidence import clocks, load, quiet, watch
from bench.evidence.yardstick import Alone
from bench.fold import evidence as folded
from bench.hosts.local import LocalHost
from bench.interface import Options, Plan
from bench.models import resolve
from bench.pace import ALONE_WAIT_S, COOL_WITHIN_C, WAIT_AFTER_NOISE_S, Calm, Pace, alone
from bench.parity.compare import TOLERANCES
from bench.place import Place, Wait
from bench.registry import complete_options, find
from bench.runner import Settings
from bench.store import read_lines
from bench.trial import TrialPlan, run_trial

GOLDEN = Path(__file__).parent / "golden" / "schema-1.jsonl"
CASE = next(line for line in read_lines(GOLDEN) if isinstance(line, r.CaseLine))
CPUS = sorted(os.sched_getaffinity(0))
CPU = CPUS[0]
CPUFREQ = f"sys/devices/system/cpu/cpu{CPU}/cpufreq"
ZONE = "sys/class/thermal/thermal_zone0"
RAPL = "sys/class/powercap/intel-rapl:0"
THROTTLE = f"sys/devices/system/cpu/cpu{CPU}/thermal_throttle"


@pytest.fixture
def files(tmp_path):
    """Writes files of a made-up machine; `files.root` is its root."""

    def write(**texts):
        for name, text in texts.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(text))

    write.root = str(tmp_path)
    return write


def stat_line(pid, state, cpu, command="a (b) c"):
    """A line of /proc/PID/stat, as proc(5) has it."""
    fields = [state, *["0"] * 35, str(cpu), "0", "0"]
    return f"{pid} ({command}) {' '.join(fields)}"


def on_cpu(files, cpu=CPU, state="S"):
    me = os.getpid()
    files(**{f"proc/{me}/task/{me}/stat": stat_line(me, state, cpu)})


def watched(files, change=lambda: None):
    found = watch.Watch(os.getpid(), files.root)
    change()
    return found.end()


# --- a machine that tells nothing


def test_a_machine_that_tells_nothing_says_why(files):
    found = watched(files)
    figures = ("frequency_mhz", "governor", "turbo", "temperature_c", "throttled", "energy_j")
    assert [getattr(found, name) for name in figures] == [None] * 6
    assert set(found.not_available) == set(figures)
    assert all(reason.startswith("not available: ") for reason in found.not_available.values())
    assert found.timeline == []


def test_this_machine_can_be_watched_whatever_it_tells():
    found = watch.Watch(os.getpid()).end()
    for name in ("frequency_mhz", "governor", "turbo", "temperature_c", "throttled", "energy_j"):
        assert (getattr(found, name) is None) == (name in found.not_available)
    assert msgspec.convert(json.loads(json.dumps(asdict(found))), r.ObservedFacts).seconds == found.seconds


def test_a_process_that_is_gone_is_watched_to_its_end(files):
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert watch.Watch(gone.pid, files.root).end().frequency_mhz is None


# --- clocks


def test_clocks_are_those_of_the_cpus_that_it_runs_on(files):
    files(**{f"{CPUFREQ}/scaling_cur_freq": 2400000, f"{CPUFREQ}/scaling_governor": "powersave"})
    files(**{f"sys/devices/system/cpu/cpu{n}/cpufreq/scaling_cur_freq": 400000 for n in range(900, 903)})
    on_cpu(files)
    found = watch.Watch(os.getpid(), files.root)
    found.look(time.monotonic() + 2)
    files(**{f"{CPUFREQ}/scaling_cur_freq": 1800000})
    seen = found.end()
    assert seen.frequency_mhz == (1800, 2400)
    assert "frequency_mhz" not in seen.not_available
    assert [entry[1] for entry in seen.timeline] == [2400, 1800]
    assert "temperature_c" in seen.not_available


def test_looks_are_a_second_apart(files):
    files(**{f"{CPUFREQ}/scaling_cur_freq": 1000000})
    on_cpu(files)
    found = watch.Watch(os.getpid(), files.root)
    begin = time.monotonic()
    for tenth in range(40):
        found.look(begin + tenth / 10)
    assert len(found.end().timeline) in (4, 5)


def test_hours_take_no_more_room_than_minutes(files):
    files(**{f"{CPUFREQ}/scaling_cur_freq": 1000000, f"{ZONE}/type": "cpu", f"{ZONE}/temp": 40000})
    on_cpu(files)
    found = watch.Watch(os.getpid(), files.root)
    begin = time.monotonic()
    for second in range(1, 3 * watch.LOOKS):
        if second == 1000:
            files(**{f"{CPUFREQ}/scaling_cur_freq": 700000, f"{ZONE}/temp": 91000})
        if second == 1001:
            files(**{f"{CPUFREQ}/scaling_cur_freq": 1000000, f"{ZONE}/temp": 40000})
        found.look(begin + second)
    seen = found.end()
    assert watch.LOOKS / 2 <= len(seen.timeline) <= watch.LOOKS
    assert [entry[1] for entry in seen.timeline].count(700) == 1
    assert max(entry[2] for entry in seen.timeline) == seen.temperature_c == 91.0
    assert [entry[0] for entry in seen.timeline] == sorted(entry[0] for entry in seen.timeline)
    assert seen.frequency_mhz == (700, 1000)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [(watch.Observed, r.ObservedFacts), (quiet.Waited, r.WaitedFacts), (load.Load, r.LoadFacts)],
)
def test_what_workers_tell_is_what_records_keep(theirs, ours):
    """Workers have no msgspec, so each of these is written twice: the same fields, in the same order."""
    assert tuple(field.name for field in fields(theirs)) == ours.__struct_fields__


def test_threads_that_run_count_and_those_that_sleep_do_not(files):
    for thread, state, cpu in ((10, "S", 3), (11, "R", 5), (12, "S", 7), (13, "R", 5)):
        files(**{f"proc/10/task/{thread}/stat": stat_line(thread, state, cpu)})
    assert clocks.running_cpus(10, files.root) == (3, 5)
    files(**{"proc/10/task/14/stat": "cut off"})
    assert clocks.running_cpus(10, files.root) == (3, 5)
    assert clocks.running_cpus(99, files.root) == ()


CPUINFO = "processor\t: {n}\nmodel name\t: X\ncpu MHz\t\t: {mhz}\nflags\t\t: fpu {flag} sse\n\n"


def test_cpuinfo_is_believed_only_where_the_cpu_counts_its_cycles(files):
    files(**{"proc/cpuinfo": "".join(CPUINFO.format(n=n, mhz=2000 + n, flag="aperfmperf") for n in range(3))})
    assert clocks.megahertz([0, 2], files.root) == [2000, 2002]
    files(**{"proc/cpuinfo": "".join(CPUINFO.format(n=n, mhz=2596.144, flag="hypervisor") for n in range(3))})
    assert clocks.megahertz([0, 2], files.root) == []
    assert clocks.virtual(files.root)
    assert "virtual machine" in watched(files).not_available["frequency_mhz"]


@pytest.mark.parametrize(
    ("name", "text", "turbo"),
    [
        ("intel_pstate/no_turbo", 0, True),
        ("intel_pstate/no_turbo", 1, False),
        ("cpufreq/boost", 1, True),
        ("cpufreq/boost", 0, False),
        ("cpufreq/boost", "?", None),
    ],
)
def test_turbo(files, name, text, turbo):
    files(**{f"sys/devices/system/cpu/{name}": text})
    assert clocks.turbo(files.root) is turbo


def test_governors_that_differ_are_all_named(files):
    for cpu, name in enumerate(("performance", "powersave", "performance")):
        files(**{f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor": f"{name}\n"})
    assert clocks.governor([0, 2], files.root) == "performance"
    assert clocks.governor([0, 1, 2, 3], files.root) == "performance, powersave"


# --- heat


def test_the_processors_own_sensor_counts_not_a_disks(files):
    files(**{f"{ZONE}/type": "nvme", f"{ZONE}/temp": 80000})
    zone = "sys/class/thermal/thermal_zone1"
    files(**{f"{zone}/type": "x86_pkg_temp", f"{zone}/temp": 51000})
    seen = watched(files, lambda: files(**{f"{zone}/temp": 63500}))
    assert (seen.temperature_c, seen.temperature_of) == (63.5, "x86_pkg_temp")


def test_a_sensor_that_refuses_is_no_sensor(files):
    files(**{f"{ZONE}/type": "cpu-thermal", f"{ZONE}/temp": ""})
    assert watched(files).temperature_c is None


def test_hwmon_where_no_zone_is_the_processors(files):
    files(**{f"{ZONE}/type": "iwlwifi", f"{ZONE}/temp": 70000})
    files(**{"sys/class/hwmon/hwmon0/name": "k10temp", "sys/class/hwmon/hwmon0/temp1_input": 45125})
    files(**{"sys/class/hwmon/hwmon0/temp2_input": 99000})
    assert clocks.hottest(clocks.thermometers(files.root)) == (45.125, "k10temp")


def test_sensors_that_share_a_name(files):
    for n in range(3):
        zone = f"sys/class/thermal/thermal_zone{n}"
        files(**{f"{zone}/type": "cpu", f"{zone}/temp": 40000 + 1000 * n})
    assert clocks.hottest(clocks.thermometers(files.root)) == (42.0, "cpu 3")


# --- throttling


def test_a_counter_that_moves_is_throttling(files):
    files(**{f"{THROTTLE}/core_throttle_count": 7, f"{THROTTLE}/package_throttle_count": 9})
    assert watched(files).throttled is False
    seen = watched(files, lambda: files(**{f"{THROTTLE}/core_throttle_count": 10}))
    assert seen.throttled
    assert seen.throttle == f"core_throttle_count of cpu{CPU} +3"


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("0", "0", ""),
        ("50000", "50000", ""),  # since boot, but not now
        ("0", "50005", "under-voltage, throttled"),
        ("0", "80000", "the soft temperature limit"),  # came and went between two looks
        ("50005", "50000", "under-voltage, throttled"),  # was so at the begin
    ],
)
def test_a_raspberry_pi_says_what_slows_it(files, before, after, words):
    files(**{clocks.PI_THROTTLED: before})
    seen = watched(files, lambda: files(**{clocks.PI_THROTTLED: after}))
    assert seen.throttled is bool(words)
    assert seen.throttle == words


def test_a_cooling_device_that_slows_the_clock(files):
    for n, (kind, state) in enumerate((("Fan", 3), ("cpufreq-cpu0", 0), ("intel_powerclamp", -1))):
        files(
            **{
                f"sys/class/thermal/cooling_device{n}/type": kind,
                f"sys/class/thermal/cooling_device{n}/cur_state": state,
            }
        )
    assert watched(files).throttled is False
    seen = watched(files, lambda: files(**{"sys/class/thermal/cooling_device1/cur_state": 2}))
    assert seen.throttled
    assert "cpufreq-cpu0" in seen.throttle


# --- energy


def rapl(files, microjoules, whole=1000):
    files(**{f"{RAPL}/name": "package-0", f"{RAPL}/max_energy_range_uj": whole, f"{RAPL}/energy_uj": microjoules})


@settings(max_examples=30)
@given(st.lists(st.integers(0, 999), max_size=6), st.integers(0, 999))
def test_energy_adds_up_over_any_number_of_turns(tmp_path_factory, steps, start):
    root = tmp_path_factory.mktemp("rapl")

    def write(**texts):
        for name, text in texts.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(str(text))

    at = start
    rapl(write, at)
    found = watch.Watch(os.getpid(), str(root))
    for number, step in enumerate(steps):
        at = (at + step) % 1000
        rapl(write, at)
        found.look(time.monotonic() + 10 * (number + 1))
    assert found.end().energy_j == pytest.approx(sum(steps) / 1e6)


def test_parts_of_a_package_are_not_counted_twice(files):
    rapl(files, 100)
    for n, name in enumerate(("core", "dram", "psys")):
        zone = f"sys/class/powercap/intel-rapl:0:{n}"
        files(**{f"{zone}/name": name, f"{zone}/max_energy_range_uj": 1000, f"{zone}/energy_uj": 50})
    assert list(clocks.energy_zones(files.root)[0]) == ["package-0"]


def test_energy_that_only_root_may_read_says_so(files):
    files(**{f"{RAPL}/name": "package-0", f"{RAPL}/max_energy_range_uj": 1000})
    assert "only root" in watched(files).not_available["energy_j"]


def test_energy_that_stops_being_told_is_not_guessed(files, tmp_path):
    rapl(files, 100)
    seen = watched(files, (tmp_path / RAPL / "energy_uj").unlink)
    assert seen.energy_j is None
    assert "not available: " in seen.not_available["energy_j"]


# --- memory


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 10**8))
def test_the_peak_without_samples_is_never_below_that_before_the_loop(before, grown, samples):
    kept = samples * load.BYTES_PER_SAMPLE
    found = load.peak_without(before, before + grown, kept)
    assert before <= found <= before + grown
    assert load.peak_without(before, None, samples) is None


# --- waiting for quiet


def shares(monkeypatch, values):
    """The share that others use, window by window."""
    left = iter(values)
    monkeypatch.setattr(quiet, "snapshot", lambda: None)
    monkeypatch.setattr(
        quiet,
        "between",
        lambda before, after: load.Load(0.5, v := next(left), 0.0, 0, 0, "" if v is not None else "/proc/stat"),
    )


def wait_for(waiting):
    """Step through its windows without sleeping."""
    now = time.monotonic()
    for _ in range(100):
        now += waiting.left_s(now) + 1e-6
        if found := waiting.look(now):
            return found
    raise AssertionError("it never ends")


def test_it_waits_until_others_are_done(monkeypatch, files):
    shares(monkeypatch, [0.9, 0.5, 0.01])
    found = wait_for(quiet.Quiet(5.0, 0.03, root=files.root))
    assert found.quiet
    assert found.foreign_cpu == 0.01
    assert found.waited_s == pytest.approx(1.5, abs=0.1)


def test_it_waits_no_longer_than_it_may(monkeypatch, files):
    shares(monkeypatch, [0.9] * 99)
    found = wait_for(quiet.Quiet(5.0, 0.03, root=files.root))
    assert found.quiet is False
    assert found.waited_s == pytest.approx(5.0, abs=0.1)


def test_it_waits_for_the_processor_to_cool(monkeypatch, files):
    shares(monkeypatch, [0.0] * 99)
    files(**{f"{ZONE}/type": "cpu-thermal", f"{ZONE}/temp": 60000})
    hot = wait_for(quiet.Quiet(2.0, 0.03, 50.0, root=files.root))
    assert (hot.quiet, hot.temperature_c) == (False, 60.0)
    assert wait_for(quiet.Quiet(2.0, 0.03, 61.0, root=files.root)).quiet
    assert wait_for(quiet.Quiet(2.0, 0.03, None, root=files.root)).quiet


def test_where_nobody_can_tell_it_does_not_wait(monkeypatch, files):
    shares(monkeypatch, [None])
    found = wait_for(quiet.Quiet(60.0, 0.03, root=files.root))
    assert found.quiet is None
    assert found.reason
    assert found.waited_s < 1


# --- what a run makes of it


def observed(**facts):
    absent = {"turbo": "not available: no switch for it"}
    seen = r.ObservedFacts(
        seconds=1.0, frequency_mhz=(2000, 3000), governor="performance", turbo=None, temperature_c=50.0,
        temperature_of="cpu", throttled=False, throttle="", energy_j=3.0, timeline=[], not_available=absent,
    )  # fmt: skip
    return msgspec.structs.replace(seen, **facts)


QUIET = r.LoadFacts(wall_s=1.0, foreign_cpu=0.0, steal=0.0, involuntary_switches=0, major_faults=0)


def trial(**facts):
    return r.TrialLine(
        schema=1, id="c", index=0, started_at="2026-11-20T03:00:00Z", environment={}, runtimes={}, load=QUIET, **facts
    )


def test_a_throttled_trial_is_noisy_whatever_is_allowed():
    hot = trial(observed=observed(throttled=True, throttle="core_throttle_count of cpu0 +3"))
    assert folds.noisy(hot, 0.03)
    assert folds.noisy(hot, 1.0)
    assert not folds.noisy(trial(observed=observed()), 0.03)
    assert not folds.noisy(trial(observed=observed(throttled=None)), 0.03)
    assert folded.noise([hot], 0.03) == "the CPU was throttled during the measurement (core_throttle_count of cpu0 +3)"


def test_a_device_that_software_imitates_is_as_emulated_as_a_machine():
    real = r.PlacementFacts(device="vulkan:0", precision="model", nodes=None, affinity=[0])
    placed = msgspec.structs.replace(real, emulated="Vulkan on the CPU (llvmpipe)")
    assert folds.fold(CASE, [trial(placement=placed)], None).evidence.emulated == "Vulkan on the CPU (llvmpipe)"
    assert folds.fold(CASE, [trial(placement=real)], None).evidence.emulated == ""
    board = msgspec.structs.replace(trial(placement=real), environment={"emulated": "qemu-user"})
    assert folds.fold(CASE, [board], None).evidence.emulated == "qemu-user"


def test_extremes_over_trials_and_a_figure_that_one_lacks_is_absent():
    both = folded.observed([observed(), observed(frequency_mhz=(1000, 2500), temperature_c=60.0, energy_j=2.0)])
    assert both.frequency_mhz == (1000, 3000)
    assert (both.temperature_c, both.energy_j, both.seconds) == (60.0, 5.0, 2.0)
    reason = {"temperature_c": "not available: no sensor"}
    one = folded.observed([observed(), observed(temperature_c=None, temperature_of="", not_available=reason)])
    assert (one.temperature_c, one.temperature_of) == (None, "")
    assert one.not_available["temperature_c"] == reason["temperature_c"]
    assert folded.observed([]) is None


def energy(trials, scenario="single-stream"):
    """What a record says of it."""
    options = r.OptionFacts(threads=1, precision="model", cpus=[], batch=None, scenario=scenario, extra={})
    line = msgspec.structs.replace(CASE, case=msgspec.structs.replace(CASE.case, options=options))
    found = folds.fold(line, trials, None).evidence
    return found.energy_per_inference_j, found.energy_reason


def test_energy_per_inference_counts_the_warm_up_too():
    series = [r.Series(scope="end_to_end", clock="host", samples_ns=[1] * 8)]
    told = trial(observed=observed(energy_j=3.0), series=series, warmup_count=2)
    assert energy([told, told]) == (0.3, "")
    lacking = trial(observed=observed(energy_j=None, not_available={"energy_j": "not available: why"}), series=series)
    assert energy([told, lacking]) == (None, "not available: why")
    assert energy([told, trial(series=series)])[0] is None
    assert energy([])[0] is None
    assert "server" in energy([told], "server")[1]


def test_what_is_waited_for_before_a_trial():
    calm = Calm(Settings())
    assert calm.wait() is None
    calm.learn(trial(), noisy=True)
    assert calm.wait().seconds == WAIT_AFTER_NOISE_S
    calm.learn(trial(), noisy=False)
    assert calm.wait() is None


def test_a_cooldown_is_to_the_temperature_of_the_first_wait():
    calm = Calm(Settings(cooldown_s=60.0))
    assert calm.wait().max_temperature_c is None
    for degrees in (40.0, 70.0):
        waited = r.WaitedFacts(waited_s=0.5, quiet=True, foreign_cpu=0.0, temperature_c=degrees)
        calm.learn(trial(waited=waited), noisy=False)
        assert calm.wait().max_temperature_c == 40.0 + COOL_WITHIN_C
    assert calm.wait().seconds == 60.0


def test_a_core_that_is_left_alone_is_waited_for_where_that_can_be_told_and_as_long_as_a_cooldown():
    assert alone(Settings(), None) is None
    assert alone(Settings(max_foreign_cpu=1.0), 1000) is None
    assert alone(Settings(), 1000) == Alone(1000, 0.03, ALONE_WAIT_S)
    assert alone(Settings(cooldown_s=1.0), 1000).limit_s == ALONE_WAIT_S
    assert alone(Settings(cooldown_s=60.0), 1000).limit_s == 60.0


class Clock:
    """A clock that goes on when somebody sleeps."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("bench.pace.time.monotonic", lambda: self.now)
        monkeypatch.setattr("bench.pace.time.sleep", self.sleep)

    def sleep(self, seconds):
        self.now += seconds


def test_rounds_that_are_spread_begin_evenly(monkeypatch):
    clock, said = Clock(monkeypatch), []
    pace = Pace(6, 600.0)
    begun = []
    for number in range(8):
        pace.wait(number, said.append, math.inf)
        begun.append(clock.now - 1000.0)
        clock.now += 7.0 * number  # trials of any length
    assert begun == [0.0, 120.0, 240.0, 360.0, 480.0, 600.0, 720.0, 840.0]
    assert pace.until_last_s(2) == 0.0
    assert said[0] == "waiting 120 s for round 2: the trials are to be spread"


def test_a_round_that_is_late_begins_at_once_and_the_next_is_in_time(monkeypatch):
    clock, begun = Clock(monkeypatch), []
    pace = Pace(4, 15.0)
    for number, took in enumerate((300.0, 8.0, 1.0, 1.0)):  # in the first a model is converted
        pace.wait(number, lambda message: None, math.inf)
        begun.append(clock.now - 1000.0)
        clock.now += took
        assert pace.until_last_s(number) == (15.0, 2.0, 1.0, 0.0)[number]
    assert begun == [0.0, 305.0, 313.0, 315.0]


def test_nobody_waits_for_a_round_that_will_not_be(monkeypatch):
    clock = Clock(monkeypatch)
    Pace(2, 3600.0).wait(1, lambda message: None, 1005.0)
    assert clock.now == 1005.0


@pytest.mark.parametrize(("wanted", "spread_s"), [(6, None), (1, 60.0)])
def test_rounds_that_are_not_spread_follow_one_another(monkeypatch, wanted, spread_s):
    clock = Clock(monkeypatch)
    pace = Pace(wanted, spread_s)
    for number in range(12):
        pace.wait(number, pytest.fail, math.inf)
        assert pace.until_last_s(number) == 0.0
    assert clock.now == 1000.0


# --- through the front door

HOG = "print(flush=True)\nwhile True: pass"


def test_beside_a_hog_no_case_is_published_as_clean(cli, mlp_path, tmp_path):
    """Whatever it measures there, it repeats within bounds, says `noisy`, and prints no number."""
    hogs = [subprocess.Popen([sys.executable, "-c", HOG], stdout=subprocess.PIPE) for _ in range(os.cpu_count() or 1)]
    try:
        for hog in hogs:
            hog.stdout.readline()
        done = cli(
            "run", mlp_path, "--batch", "1", "-b", "fake", "-o", "latency_us=2000", "--trials", "1",
            "--min-time", "0.5", "--target", "none", "--results", tmp_path,
        )  # fmt: skip
    finally:
        for hog in hogs:
            hog.kill()
            hog.communicate()
    (record,) = [json.loads(text) for text in cli("report", tmp_path, "--json").stdout.splitlines()]
    assert record["status"] == "noisy", record
    assert record["evidence"]["foreign_cpu"] > record["evidence"]["max_foreign_cpu"]
    assert record["evidence"]["trials_noisy"] == record["evidence"]["trials"]
    at_most_s = WAIT_AFTER_NOISE_S + 1 + record["evidence"]["trials"] * (ALONE_WAIT_S + 1)
    assert 0 < record["evidence"]["waited_s"] <= at_most_s
    assert done.code == 0
    assert [line for line in done.stderr.splitlines() if ": trial " in line] == [
        "mlp on fake: trial 1 of 1",
        "mlp on fake: trial 2 of 2, 1 noisy",
    ]
    assert "--cooldown 60 waits for quiet" in done.stderr
    table = done.stdout
    assert re.search(r"noisy\S*: others used", table)
    assert "Timing in ms" not in table
    assert "Median latency" not in table


def test_every_measurement_is_watched(cli, mlp_path, tmp_path):
    done = cli(
        "run", mlp_path, "--batch", "1", "-b", "fake", "--trials", "1", "--min-time", "0.05", "--min-count", "8",
        "--target", "none", "--max-foreign-cpu", "1", "--cooldown", "1", "--results", tmp_path, "--json",
    )  # fmt: skip
    evidence = json.loads(done.stdout)["evidence"]
    seen = evidence["observed"]
    assert seen["seconds"] > 0
    for name in ("frequency_mhz", "temperature_c", "throttled", "energy_j"):
        assert (seen[name] is None) == (name in seen["not_available"])
    assert (evidence["energy_per_inference_j"] is None) == bool(evidence["energy_reason"])
    assert 0 < evidence["waited_s"] < 3


class MadeUp(LocalHost):
    """This machine, whose supervisors look at another's files."""

    machine = "/"

    def start(self, argv):
        return super().start([self.machine if word == "/" else word for word in argv])


def test_what_the_supervisor_sees_is_in_the_trials_line(files, mlp_path, tmp_path):
    files(**{f"{CPUFREQ}/scaling_cur_freq": 2500000, f"{CPUFREQ}/scaling_governor": "schedutil"})
    files(**{f"{ZONE}/type": "cpu-thermal", f"{ZONE}/temp": 61200, clocks.PI_THROTTLED: "20002"})
    rapl(files, 100)
    host = MadeUp(tmp_path / "work")
    host.machine = files.root
    place = Place("local", host, Cache(tmp_path / "cache"), lease_folder=str(tmp_path))
    fake = find("fake")
    resolved = resolve(str(mlp_path), place.cache, shapes={}, batch=1)
    options = Options(extra=complete_options(fake.create(), {}))
    prepared = prepare(place, fake, resolved.model, options)
    plan = Plan(min_count=8, min_s=0.02, max_s=0.1, warmup_min_s=0.01, warmup_max_s=0.05, target=None)
    data_sets = resolved.data_sets
    wanted = TrialPlan("c", fake, prepared.artifact, prepared.key, options, data_sets, TOLERANCES["fp32"], plan)
    line = run_trial(place, wanted, 0, Wait(1.0, 1.0, max_temperature_c=60.0))
    assert line.error is None
    assert r.decode_line(r.encode_line(line)) == line
    seen = line.observed
    assert (seen.governor, seen.temperature_c, seen.temperature_of) == ("schedutil", 61.2, "cpu-thermal")
    assert seen.throttle == "the clock is capped"
    assert folds.noisy(line, 1.0)
    assert seen.energy_j == 0
    assert (line.waited.quiet, line.waited.temperature_c) == (False, 61.2)
    assert 1.0 <= line.waited.waited_s < 30
