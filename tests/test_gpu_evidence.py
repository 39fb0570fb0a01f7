"""What a GPU says while a process measures: a made-up NVML, a made-up Jetson, and what becomes of it in a record."""

from __future__ import annotations

import os
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest

from bench import fold as folds
from bench import record as r
from bench.evidence import gpu, watch
from bench.fold import evidence as folded
from bench.fold.gpu import gpu_of, shared
from bench.store import read_lines

LINES = list(read_lines(Path(__file__).parent / "golden" / "schema-1.jsonl"))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine) and line.series)
ME = 4711


class NotSupported(Exception):
    pass


class Nvml:
    """One GPU, whose answers are the attributes; `lacks` names functions that this GPU does not have."""

    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0

    def __init__(self, **changes):
        self.answers = {
            "Name": "NVIDIA H200", "CudaComputeCapability": (9, 0), "ClockInfo": 1980, "MaxClockInfo": 1980,
            "PowerUsage": 120_000, "EnforcedPowerLimit": 700_000, "TotalEnergyConsumption": 5_000, "Temperature": 41,
            "CurrentClocksEventReasons": 0, "EccMode": (1, 1), "MigMode": (0, 0), "TotalEccErrors": 0, "MinorNumber": 0,
            "ComputeRunningProcesses": [SimpleNamespace(pid=ME, usedGpuMemory=900 << 20)],
        } | changes  # fmt: skip
        self.lacks = set()

    def nvmlInit(self):
        pass

    def nvmlDeviceGetCount(self):
        return 1

    def nvmlDeviceGetHandleByIndex(self, index):
        return "gpu"

    def nvmlSystemGetDriverVersion(self):
        return b"580.95.05"

    def __getattr__(self, name):
        what = name.removeprefix("nvmlDeviceGet")

        def answer(handle, *arguments):
            if what in self.lacks:
                raise NotSupported("Not Supported")
            return self.answers[what]

        return answer


@pytest.fixture
def machine(tmp_path):
    """A file system on which process ME has device files open."""

    def made(*devices):
        folder = tmp_path / "proc" / str(ME) / "fd"
        folder.mkdir(parents=True)
        for number, device in enumerate(devices):
            os.symlink(device, folder / str(number))
        return str(tmp_path)

    return made


def watched(root, nvml, change=lambda: None):
    found = gpu.watch(ME, root, lambda: nvml)
    change()
    return found.end()


def test_a_process_without_a_gpu_is_not_watched(machine):
    assert gpu.watch(ME, machine("/dev/null", "/dev/pts/0")) is None
    assert gpu.watch(12345678) is None
    assert watch.Watch(os.getpid()).end().gpu is None


def test_the_gpus_that_a_process_has_open(machine):
    assert gpu.opened(ME, machine("/dev/nvidia3", "/dev/nvidia0", "/dev/nvidia-uvm", "/dev/nvidiactl")) == [0, 3]


def test_what_nvml_says(machine):
    nvml = Nvml()

    def change():
        nvml.answers |= {"ClockInfo": 1500, "PowerUsage": 650_000, "Temperature": 70, "TotalEnergyConsumption": 25_000}
        nvml.answers["ComputeRunningProcesses"] = [SimpleNamespace(pid=ME, usedGpuMemory=1 << 30)]

    found = watched(machine("/dev/nvidia0"), nvml, change)
    assert (found.name, found.capability, found.driver) == ("NVIDIA H200", "9.0", "580.95.05")
    assert (found.sm_mhz, found.sm_mhz_most, found.power_w, found.power_limit_w) == (
        (1500, 1980),
        1980,
        (120.0, 650.0),
        700.0,
    )
    assert (found.energy_j, found.temperature_c, found.peak_process_bytes) == (20.0, 70, 1 << 30)
    assert (found.throttled, found.throttle, found.limited_by, found.foreign) == (False, "", "", 0)
    assert (found.ecc, found.ecc_errors, found.mig) == (True, 0, False)
    assert found.not_available == {}
    assert [look[1:] for look in found.timeline] == [(1980, 120.0, 41), (1500, 650.0, 70)]


def test_reasons_of_any_look_are_kept(machine):
    nvml = Nvml(CurrentClocksEventReasons=0x20 | 0x4)
    found = watched(machine("/dev/nvidia0"), nvml, lambda: nvml.answers.update(CurrentClocksEventReasons=1))
    assert (found.throttled, found.throttle, found.limited_by) == (True, "software thermal slowdown", "power cap")
    capped = watched_again(nvml, 0x4)
    assert (capped.throttled, capped.limited_by) == (False, "power cap")


def watched_again(nvml, reasons):
    nvml.answers["CurrentClocksEventReasons"] = reasons
    return gpu.Nvml(ME, [0], lambda: nvml).end()


def test_others_on_the_gpu_are_counted(machine):
    others = [SimpleNamespace(pid=pid, usedGpuMemory=1) for pid in (ME, 1, 2)]
    assert watched(machine("/dev/nvidia0"), Nvml(ComputeRunningProcesses=others)).foreign == 2


def test_in_a_container_processes_have_other_numbers(machine):
    listed = [SimpleNamespace(pid=99, usedGpuMemory=5)]
    found = watched(machine("/dev/nvidia0"), Nvml(ComputeRunningProcesses=listed))
    assert (found.foreign, found.peak_process_bytes) == (0, None)
    assert "container" in found.not_available["peak_process_bytes"]
    assert watched_again(Nvml(ComputeRunningProcesses=[]), 0).foreign == 0


def test_what_a_gpu_does_not_tell_has_its_reason(machine):
    nvml = Nvml()
    nvml.lacks = {"PowerUsage", "CurrentClocksEventReasons", "EccMode", "TotalEccErrors", "ComputeRunningProcesses"}
    found = gpu.Nvml(ME, [0], lambda: nvml).end()
    assert found.power_w is None
    assert (found.throttled, found.foreign, found.ecc) == (None, None, None)
    assert found.not_available


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (lambda: (_ for _ in ()).throw(ImportError("pynvml")), "nvidia-ml-py is not installed"),
        (lambda: SimpleNamespace(nvmlInit=lambda: 1 / 0), "NVML: division by zero"),
    ],
)
def test_without_nvml_everything_is_absent_with_the_reason(machine, load, said):
    found = gpu.watch(ME, machine("/dev/nvidia0"), load).end()
    assert (found.sm_mhz, found.throttled, found.foreign, found.name) == (None, None, None, "")
    assert said in found.not_available["sm_mhz"]


def test_of_several_open_gpus_the_one_that_lists_the_process(machine):
    class Two(Nvml):
        def nvmlDeviceGetCount(self):
            return 2

        def nvmlDeviceGetHandleByIndex(self, index):
            return index

        def nvmlDeviceGetMinorNumber(self, handle):
            return handle

        def nvmlDeviceGetComputeRunningProcesses(self, handle):
            return self.answers["ComputeRunningProcesses"] if handle == self.mine else []

    nvml = Two()
    nvml.mine = 1
    assert gpu.Nvml(ME, [0, 1], lambda: nvml)._gpu == 1
    nvml.mine = None
    assert gpu.Nvml(ME, [1], lambda: nvml)._gpu == 1
    assert "CUDA_VISIBLE_DEVICES" in gpu.Nvml(ME, [0, 1], lambda: nvml).end().not_available["sm_mhz"]


def test_a_jetson_tells_through_files(machine, tmp_path):
    root = machine("/dev/nvhost-gpu")
    files = {
        "sys/class/devfreq/17000000.gpu/cur_freq": "612000000", "sys/class/devfreq/17000000.gpu/max_freq": "918000000",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal", "sys/class/thermal/thermal_zone1/temp": "51000",
        "proc/device-tree/model": "NVIDIA Jetson Orin NX\0",
    }  # fmt: skip
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = gpu.watch(ME, root).end()
    assert (found.name, found.sm_mhz, found.sm_mhz_most) == ("NVIDIA Jetson Orin NX", (612, 612), 918)
    assert (found.temperature_c, found.throttled) == (51.0, None)
    assert "a Jetson does not tell" in found.not_available["power_w"]


def test_a_long_measurement_keeps_so_many_looks():
    timeline = gpu._Timeline()
    for index in range(5 * gpu.LOOKS):
        timeline.add(index, None, None)
    assert len(timeline.looks) <= gpu.LOOKS
    assert timeline.looks[0][1] == 0


# --- in a record


def trial(index=0, **changes):
    seen = gpu.GpuSeen(
        name="NVIDIA H200", throttled=False, foreign=0, sm_mhz=(1500, 1980), power_w=(100.0, 600.0), energy_j=10.0,
        peak_process_bytes=1 << 30, temperature_c=60.0, timeline=[(0.0, 1500, 100.0, 60.0)],
    )  # fmt: skip
    facts = msgspec.convert(asdict(replace(seen, **changes)), r.GpuFacts)
    observed = msgspec.structs.replace(quiet_observed(), gpu=facts)
    return msgspec.structs.replace(TRIAL, index=index, observed=observed)


def quiet_observed():
    return r.ObservedFacts(
        seconds=1.0, frequency_mhz=None, governor=None, turbo=None, temperature_c=None, temperature_of="",
        throttled=None, throttle="", energy_j=None, timeline=[], not_available={},
    )  # fmt: skip


def test_a_gpu_that_others_used_or_that_was_throttled_makes_a_trial_noisy():
    assert not folds.noisy(trial(), 1.0)
    assert folds.noisy(trial(foreign=1), 1.0)
    hot = trial(throttled=True, throttle="hardware thermal slowdown")
    assert folds.noisy(hot, 1.0)
    assert "the GPU was throttled" in folded.noise([hot], 0.03)
    assert folded.noise([trial(foreign=2)], 0.03) == "2 other processes used the GPU"
    assert shared(TRIAL) == ""


def test_a_record_has_the_extremes_and_no_timeline():
    found = gpu_of([trial().observed, trial(1, sm_mhz=(1200, 1900), temperature_c=70.0, energy_j=5.0).observed])
    assert (found.sm_mhz, found.temperature_c, found.energy_j) == ((1200, 1980), 70.0, 15.0)
    assert found.timeline == []
    assert gpu_of([trial().observed, quiet_observed()]) is None
    assert gpu_of([trial().observed, trial(temperature_c=None).observed]).temperature_c is None


def test_a_trial_s_line_survives_its_file():
    assert r.decode_line(r.encode_line(trial())) == trial()
