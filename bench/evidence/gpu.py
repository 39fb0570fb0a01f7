"""What an NVIDIA GPU says of itself while a process measures: clocks, power, heat, throttling, and who else uses it.

Which GPU is meant is seen from the process: the device files that it has open, and where NVML lists it. Asked of NVML
through nvidia-ml-py, where that is installed; a Jetson, which has no NVML of use, tells through sysfs. Never raises:
what cannot be had is absent, with the reason. Python 3.10; nvidia-ml-py is imported only where a process uses a GPU.
Source: nvidia-ml-py 13.615 (names), NVML's reference of clock event reasons, November 2026; no figure of a real GPU has
been seen by this module yet.
"""

from __future__ import annotations

import importlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LOOKS = 600
NONE = "not available: "
INSTALL = "nvidia-ml-py is not installed where the worker runs (pip install nvidia-ml-py)"
# Clock event reasons. The first kind makes the GPU another machine than the one that was to be measured; the second is
# how it was set up, or what its power supply allows for ever.
SLOWED = {0x8: "hardware slowdown", 0x20: "software thermal slowdown", 0x40: "hardware thermal slowdown",
          0x80: "power brake"}  # fmt: skip
LIMITED = {0x2: "application clocks", 0x4: "power cap", 0x10: "sync boost", 0x100: "display clocks"}
FIGURES = ("sm_mhz", "memory_mhz", "power_w", "energy_j", "temperature_c", "throttled", "peak_process_bytes", "foreign",
           "ecc", "mig")  # fmt: skip
_SM, _MEMORY, _TEMPERATURE = 1, 2, 0  # NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU
_JETSON = ("sys/class/devfreq", r"\.(gpu|ga10b|gv11b|gp10b)$")

Look = tuple[float, "int | None", "float | None", "float | None"]


@dataclass(frozen=True, slots=True)
class GpuSeen:
    """One GPU during one measurement. `timeline`: seconds, clock in MHz, watts and degrees at each look.

    `foreign`: other processes that used it at a look. `throttled`: a slowdown of the kinds in `throttle` was seen, or
    counted; `limited_by` holds what else kept its clock down.
    """

    name: str = ""
    capability: str = ""
    driver: str = ""
    sm_mhz: tuple[int, int] | None = None
    sm_mhz_most: int | None = None
    memory_mhz: tuple[int, int] | None = None
    power_w: tuple[float, float] | None = None
    power_limit_w: float | None = None
    energy_j: float | None = None
    temperature_c: float | None = None
    throttled: bool | None = None
    throttle: str = ""
    limited_by: str = ""
    peak_process_bytes: int | None = None
    foreign: int | None = None
    ecc: bool | None = None
    ecc_errors: int | None = None
    mig: bool | None = None
    timeline: list[Look] = field(default_factory=list)
    not_available: dict[str, str] = field(default_factory=dict)


def opened(pid: int, root: str = "/") -> list[int]:
    """The numbers of the GPUs whose device file the process has open; -1 for a Jetson's, which has no number."""
    found = set()
    try:
        folder = Path(root, "proc", str(pid), "fd")
        targets = [os.readlink(folder / name) for name in os.listdir(folder)]
    except OSError:
        return []
    for target in targets:
        if match := re.fullmatch(r"/dev/nvidia(\d+)", target):
            found.add(int(match[1]))
        elif re.fullmatch(r"/dev/(nvhost-gpu|nvgpu/.*|nvmap)", target):
            found.add(-1)
    return sorted(found)


def watch(pid: int, root: str = "/", load: Callable[[], Any] | None = None) -> Nvml | Jetson | None:
    """Something that looks at the GPU of a process, or None where it uses none. `load`: gives NVML's module."""
    numbers = opened(pid, root)
    if not numbers:
        return None
    if numbers == [-1]:
        return Jetson(root)
    return Nvml(pid, [n for n in numbers if n >= 0], load or (lambda: importlib.import_module("pynvml")))


class _Timeline:
    """Looks; every second one is dropped where they get too many."""

    def __init__(self) -> None:
        self.begin = time.monotonic()
        self.looks: list[Look] = []

    def add(self, mhz: int | None, watts: float | None, degrees: float | None) -> None:
        if len(self.looks) == LOOKS:
            self.looks = self.looks[::2]
        self.looks.append((round(time.monotonic() - self.begin, 3), mhz, watts, degrees))


class Nvml:
    """Looks through NVML. Made when a measurement begins; `end` says what was seen."""

    def __init__(self, pid: int, numbers: list[int], load: Callable[[], Any]) -> None:
        self._pid, self._timeline = pid, _Timeline()
        self._absent: dict[str, str] = {}
        self._seen: dict[str, list[float]] = {"sm": [], "memory": [], "watts": [], "degrees": [], "own": []}
        self._reasons, self._foreign = 0, 0
        self._nvml: Any = None
        self._gpu: Any = None
        try:
            self._nvml = load()
            self._nvml.nvmlInit()
            self._gpu = self._of(numbers)
        except ImportError:
            self._why = INSTALL
        except Exception as error:  # noqa: BLE001 - NVML's errors have one class per code, and no evidence ends a trial
            self._why = f"NVML: {error}"
        else:
            self._why = "" if self._gpu is not None else "the process has several GPUs open: set CUDA_VISIBLE_DEVICES"
        if self._gpu is None:
            self._absent = dict.fromkeys(FIGURES, self._why)
        self._energy_at = self._ask("energy_j", "nvmlDeviceGetTotalEnergyConsumption")
        self._errors_at = self._ecc_errors()
        self.look()

    def look(self) -> None:
        """Take a reading."""
        if self._gpu is None:
            return
        sm = self._keep("sm", self._ask("sm_mhz", "nvmlDeviceGetClockInfo", _SM))
        self._keep("memory", self._ask("memory_mhz", "nvmlDeviceGetClockInfo", _MEMORY))
        milliwatts = self._ask("power_w", "nvmlDeviceGetPowerUsage")
        watts = self._keep("watts", None if milliwatts is None else milliwatts / 1000)
        degrees = self._keep("degrees", self._ask("temperature_c", "nvmlDeviceGetTemperature", _TEMPERATURE))
        self._reasons |= int(self._ask("throttled", "nvmlDeviceGetCurrentClocksEventReasons") or 0)
        self._processes()
        self._timeline.add(None if sm is None else int(sm), watts, degrees)

    def end(self) -> GpuSeen:
        """Take the last reading, and say what was seen."""
        self.look()
        energy, errors = self._ask("energy_j", "nvmlDeviceGetTotalEnergyConsumption"), self._ecc_errors()
        limit = self._ask("power_limit_w", "nvmlDeviceGetEnforcedPowerLimit")
        most = self._ask("sm_mhz_most", "nvmlDeviceGetMaxClockInfo", _SM)
        known = self._gpu is not None and "throttled" not in self._absent
        slowed = [word for bit, word in SLOWED.items() if self._reasons & bit]
        return GpuSeen(
            name=_text(self._ask("name", "nvmlDeviceGetName")),
            capability=".".join(map(str, self._ask("capability", "nvmlDeviceGetCudaComputeCapability") or ())),
            driver=self._driver(),
            sm_mhz=_whole(self._seen["sm"]),
            sm_mhz_most=None if most is None else int(most),
            memory_mhz=_whole(self._seen["memory"]),
            power_w=_range(self._seen["watts"]),
            power_limit_w=None if limit is None else limit / 1000,
            energy_j=None if energy is None or self._energy_at is None else (energy - self._energy_at) / 1000,
            temperature_c=max(self._seen["degrees"], default=None),
            throttled=bool(slowed) if known else None,
            throttle=", ".join(slowed),
            limited_by=", ".join(word for bit, word in LIMITED.items() if self._reasons & bit),
            peak_process_bytes=int(max(self._seen["own"])) if self._seen["own"] else None,
            foreign=self._foreign if self._gpu is not None and "foreign" not in self._absent else None,
            ecc=_flag(self._ask("ecc", "nvmlDeviceGetEccMode")),
            ecc_errors=None if errors is None or self._errors_at is None else errors - self._errors_at,
            mig=_flag(self._ask("mig", "nvmlDeviceGetMigMode")),
            timeline=self._timeline.looks,
            not_available={name: f"{NONE}{why}" for name, why in self._absent.items()},
        )

    def _of(self, numbers: list[int]) -> Any:
        """The GPU that the process is listed at, or the only one that it has open."""
        nvml = self._nvml
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        for handle in handles:
            if self._pid in (process.pid for process in nvml.nvmlDeviceGetComputeRunningProcesses(handle)):
                return handle
        open_ = [handle for handle in handles if nvml.nvmlDeviceGetMinorNumber(handle) in numbers]
        return open_[0] if len(open_) == 1 else None

    def _ask(self, figure: str, function: str, *arguments: Any) -> Any:
        """What NVML says, or None with the reason kept."""
        if self._gpu is None:
            return None
        try:
            return getattr(self._nvml, function)(self._gpu, *arguments)
        except Exception as error:  # noqa: BLE001 - as above
            self._absent[figure] = str(error)
            return None

    def _keep(self, figure: str, value: float | None) -> float | None:
        if value is not None:
            self._seen[figure].append(value)
        return value

    def _processes(self) -> None:
        """Who uses the GPU. In a container NVML may list processes by numbers that are not ours, or none at all."""
        listed = self._ask("foreign", "nvmlDeviceGetComputeRunningProcesses")
        if listed is None:
            return
        own = [process for process in listed if process.pid == self._pid]
        if not own:
            self._absent["peak_process_bytes"] = "NVML does not list the process: is it in a container?"
            # One process that is listed by another number may be ours.
            self._foreign = max(self._foreign, len(listed) - 1)
            return
        self._foreign = max(self._foreign, len(listed) - len(own))
        self._keep("own", own[0].usedGpuMemory)

    def _ecc_errors(self) -> int | None:
        kinds = [
            getattr(self._nvml, name, None) for name in ("NVML_MEMORY_ERROR_TYPE_UNCORRECTED", "NVML_VOLATILE_ECC")
        ]
        found = self._ask("ecc_errors", "nvmlDeviceGetTotalEccErrors", *kinds)
        return None if found is None else int(found)

    def _driver(self) -> str:
        try:
            return _text(self._nvml.nvmlSystemGetDriverVersion())
        except Exception:  # noqa: BLE001 - as above
            return ""


class Jetson:
    """Looks through sysfs: the GPU of a Jetson is part of its one chip, and uses its memory."""

    def __init__(self, root: str) -> None:
        self._root, self._timeline = root, _Timeline()
        folder, pattern = _JETSON
        found = [p for p in sorted(Path(root, folder).glob("*")) if re.search(pattern, p.name)]
        self._clock = found[0] if found else None
        self._zones = [
            z for z in Path(root, "sys/class/thermal").glob("thermal_zone*") if "gpu" in _line(z / "type").lower()
        ]
        self._mhz: list[float] = []
        self._degrees: list[float] = []
        self.look()

    def look(self) -> None:
        """Take a reading."""
        hertz = _number(self._clock / "cur_freq") if self._clock else None
        heats = [heat for zone in self._zones if (heat := _number(zone / "temp")) is not None]
        if hertz:
            self._mhz.append(hertz / 1e6)
        self._degrees += [heat / 1000 for heat in heats]
        self._timeline.add(round(hertz / 1e6) if hertz else None, None, max(heats) / 1000 if heats else None)

    def end(self) -> GpuSeen:
        """Take the last reading, and say what was seen."""
        self.look()
        most = _number(self._clock / "max_freq") if self._clock else None
        figures = ("power_w", "energy_j", "throttled", "peak_process_bytes", "foreign", "ecc", "mig", "memory_mhz")
        return GpuSeen(
            name=_line(Path(self._root, "proc/device-tree/model")).strip("\0"),
            sm_mhz=_whole(self._mhz),
            sm_mhz_most=round(most / 1e6) if most else None,
            temperature_c=max(self._degrees, default=None),
            timeline=self._timeline.looks,
            not_available=dict.fromkeys(figures, f"{NONE}a Jetson does not tell"),
        )


def _whole(values: list[float]) -> tuple[int, int] | None:
    return (round(min(values)), round(max(values))) if values else None


def _range(values: list[float]) -> tuple[float, float] | None:
    return (min(values), max(values)) if values else None


def _flag(value: Any) -> bool | None:
    """The present mode, of a pair of the present and the pending one."""
    return None if value is None else bool(value[0])


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")


def _line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _number(path: Path) -> float | None:
    try:
        return float(_line(path))
    except ValueError:
        return None
