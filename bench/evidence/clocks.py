"""What the machine tells of its clocks, heat, throttling and energy. Every figure is read, none is worked out.

Functions take the file system's root, so that tests can show them any machine. What a machine does not tell is None or
empty: a virtual machine usually tells nothing. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

CPU = "sys/devices/system/cpu"
# Boards and laptops have sensors of disks, radios and batteries too; these words name those of the processor.
# Source: type and name files of mainline drivers (x86_pkg_temp, coretemp, k10temp, zenpower, cpu-thermal, soc_thermal).
OF_PROCESSOR = re.compile(r"cpu|soc|pkg|core|k10temp|zenpower|big|little|cluster", re.IGNORECASE)
# Cooling by slower clocks: ACPI's on x86, cpufreq's on boards. Source: Linux 6.x, drivers/acpi/processor_thermal.c,
# drivers/thermal/cpufreq_cooling.c ("thermal-cpufreq-0" before 5.15, "cpufreq-cpu0" since).
SLOWING = re.compile(r"Processor|(thermal-)?cpufreq-", re.IGNORECASE)
PI_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
# Source: Raspberry Pi documentation, vcgencmd get_throttled: these are about now; shifted left by 16, since boot.
PI_BITS = {1: "under-voltage", 2: "the clock is capped", 4: "throttled", 8: "the soft temperature limit"}


def read(path: str | Path) -> str | None:
    """The file's text without blanks at its ends, or None: drivers refuse to answer in many ways."""
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None


def number(path: str | Path) -> int | None:
    """The file's whole number, or None."""
    try:
        return int(read(path) or "")
    except ValueError:
        return None


def running_cpus(pid: int, root: str = "/", at_most: int = 16) -> tuple[int, ...]:
    """The CPUs that the process's first thread last ran on, and that its running threads are on now."""
    # The state is field 3 of proc(5), the CPU field 39.
    found = {
        int(fields[36])
        for thread, fields in threads(pid, root, at_most)
        if len(fields) > 36 and (thread == pid or fields[0] == "R")
    }
    return tuple(sorted(found))


def threads(pid: int, root: str = "/", at_most: int | None = None) -> Iterator[tuple[int, list[str]]]:
    """The process's threads, by number, each with what the kernel says of it from the state (`R`: it runs) on.

    Each is read when it is come to, which takes 25 us. Nothing is said of one that has ended meanwhile.
    """
    try:
        numbers = sorted(int(name) for name in os.listdir(f"{root}/proc/{pid}/task"))[:at_most]
    except (OSError, ValueError):
        return
    for thread in numbers:
        # Behind the command's name, which may hold anything.
        yield thread, (read(f"{root}/proc/{pid}/task/{thread}/stat") or "").rpartition(")")[2].split()


def megahertz(cpus: Iterable[int], root: str = "/") -> list[float]:
    """The clocks of these CPUs now.

    /proc/cpuinfo is believed only where the CPU counts its cycles for it (`aperfmperf`): elsewhere it repeats the
    nominal clock, which is what virtual machines show. Source: Linux, arch/x86/kernel/cpu/aperfmperf.c.
    """
    wanted = list(cpus)
    khz = [number(f"{root}/{CPU}/cpu{cpu}/cpufreq/scaling_cur_freq") for cpu in wanted]
    if found := [k / 1000 for k in khz if k]:
        return found
    blocks = (read(f"{root}/proc/cpuinfo") or "").split("\n\n")
    told = {}
    for block in blocks:
        facts = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", block, re.MULTILINE))
        if "aperfmperf" in facts.get("flags", "").split() and facts.get("processor", "").isdigit():
            told[int(facts["processor"])] = float(facts.get("cpu MHz") or 0)
    return [told[cpu] for cpu in wanted if told.get(cpu)]


def virtual(root: str = "/") -> bool:
    """Whether the CPU says that a hypervisor is below (x86)."""
    found = re.search(r"^flags\s*:(.*)$", read(f"{root}/proc/cpuinfo") or "", re.MULTILINE)
    return found is not None and "hypervisor" in found.group(1).split()


def governor(cpus: Iterable[int], root: str = "/") -> str | None:
    """Who sets the clocks of these CPUs; several names where they differ."""
    told = {read(f"{root}/{CPU}/cpu{cpu}/cpufreq/scaling_governor") for cpu in cpus} - {None, ""}
    return ", ".join(sorted(t for t in told if t)) or None


def turbo(root: str = "/") -> bool | None:
    """Whether clocks above the nominal one are allowed."""
    if (off := number(f"{root}/{CPU}/intel_pstate/no_turbo")) is not None:
        return not off
    boost = number(f"{root}/{CPU}/cpufreq/boost")
    return None if boost is None else bool(boost)


def smt(root: str = "/") -> bool | None:
    """Whether cores are shared by two hardware threads that are both in use."""
    active = number(f"{root}/{CPU}/smt/active")
    return None if active is None else bool(active)


def thermometers(root: str = "/") -> dict[str, Path]:
    """Files in thousandths of a degree by name: the processor's own sensors where they can be told, else all.

    Of a hwmon device only the first is read: the package's or the die's. Its others, one per core, would wake each
    core to be asked (coretemp).
    """
    found: dict[str, Path] = {}
    for zone in sorted(Path(root, "sys/class/thermal").glob("thermal_zone*")):
        found[_free(read(zone / "type") or zone.name, found)] = zone / "temp"
    if not any(OF_PROCESSOR.search(name) for name in found):
        for device in sorted(Path(root, "sys/class/hwmon").glob("hwmon*")):
            found[_free(read(device / "name") or device.name, found)] = device / "temp1_input"
    ours = {name: path for name, path in found.items() if OF_PROCESSOR.search(name)}
    return {name: path for name, path in (ours or found).items() if number(path) is not None}


def _free(name: str, taken: Mapping[str, Path]) -> str:
    """The name, numbered where sensors share it."""
    return name if name not in taken else f"{name} {sum(n.startswith(name) for n in taken) + 1}"


def hottest(sensors: Mapping[str, Path]) -> tuple[float, str] | None:
    """The highest temperature now in degrees Celsius, and the sensor's name."""
    told = [(value / 1000, name) for name, path in sensors.items() if (value := number(path)) is not None]
    return max(told, default=None)


def throttle_counters(cpus: Iterable[int], root: str = "/") -> dict[str, Path]:
    """Counters of throttling since boot (x86). Source: Linux, admin-guide/thermal/intel_thermal_throttle."""
    names = ("core_throttle_count", "package_throttle_count")
    files = {f"{n} of cpu{c}": Path(root, CPU, f"cpu{c}", "thermal_throttle", n) for c in cpus for n in names}
    return {name: path for name, path in files.items() if number(path) is not None}


def slowing_devices(root: str = "/") -> dict[str, Path]:
    """Cooling devices that slow the CPU, and a board's alarm of a weak supply: above 0 they are at work."""
    devices = sorted(Path(root, "sys/class/thermal").glob("cooling_device*"))
    files = {f"cooling by {read(d / 'type')} ({d.name})": d / "cur_state" for d in devices}
    slowing = {n: p for n, p in files.items() if SLOWING.match(n.removeprefix("cooling by "))}
    for device in sorted(Path(root, "sys/class/hwmon").glob("hwmon*")):
        if read(device / "name") == "rpi_volt":  # Linux 6.x, drivers/hwmon/raspberrypi-hwmon.c
            slowing["under-voltage"] = device / "in0_lcrit_alarm"
    return {name: path for name, path in slowing.items() if number(path) is not None}


def pi_throttling(root: str = "/") -> int | None:
    """A Raspberry Pi's own word on it, as bits; None on other machines."""
    try:
        return int(read(f"{root}/{PI_THROTTLED}") or "", 16)
    except ValueError:
        return None


def pi_words(bits: int) -> list[str]:
    """What the low bits say."""
    return [words for bit, words in PI_BITS.items() if bits & bit]


def energy_zones(root: str = "/") -> tuple[dict[str, tuple[Path, int]], str]:
    """Energy counters of the CPU packages and the value after which each starts again; or why there are none."""
    found, refused = {}, False
    for zone in sorted(Path(root, "sys/class/powercap").glob("intel-rapl:*")):
        name, whole = read(zone / "name") or "", number(zone / "max_energy_range_uj")
        if not name.startswith("package") or whole is None:
            continue  # parts of a package, or the whole platform, whose packages would count twice
        if number(zone / "energy_uj") is None:
            refused = True
        else:
            found[name] = (zone / "energy_uj", whole)
    if refused and not found:
        return {}, "only root may read the energy counters (RAPL)"
    return found, "" if found else "no energy counters (RAPL)"
