"""The CPU's cores by kind, and whether they are real ones.

Functions take the file system's root, so that tests can show them any machine. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass

from bench.evidence.clocks import CPU, number, read

# Names of cores by implementer and part. Source: Linux 6.12, arch/arm64/include/asm/cputype.h.
ARM_PARTS = {
    0xD03: "Cortex-A53", 0xD04: "Cortex-A35", 0xD05: "Cortex-A55", 0xD07: "Cortex-A57", 0xD08: "Cortex-A72",
    0xD09: "Cortex-A73", 0xD0A: "Cortex-A75", 0xD0B: "Cortex-A76", 0xD0C: "Neoverse-N1", 0xD0D: "Cortex-A77",
    0xD0E: "Cortex-A76AE", 0xD40: "Neoverse-V1", 0xD41: "Cortex-A78", 0xD42: "Cortex-A78AE", 0xD44: "Cortex-X1",
    0xD46: "Cortex-A510", 0xD47: "Cortex-A710", 0xD48: "Cortex-X2", 0xD49: "Neoverse-N2", 0xD4B: "Cortex-A78C",
    0xD4D: "Cortex-A715", 0xD4E: "Cortex-X3", 0xD4F: "Neoverse-V2", 0xD80: "Cortex-A520", 0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}  # fmt: skip
NVIDIA_PARTS = {0x003: "Denver 2", 0x004: "Carmel"}
NAMES = {0x41: ARM_PARTS, 0x4E: NVIDIA_PARTS}
# How qemu's own processors call themselves: on x86, and its `max` on ARM, which has nobody's number.
# Source: qemu 7.2, target/i386/cpu.c and target/arm/cpu64.c (aarch64_max_initfn).
_QEMU_CPU = re.compile(
    r"^model name\s*:\s*QEMU TCG CPU|^CPU implementer\s*:\s*0x00\n(?:.*\n){2}CPU part\s*:\s*0x051$", re.M
)
# Linux says here twice its timer's MHz. qemu's imitated timer runs at 62.5 MHz, KVM's guests have the hardware's.
# Source: qemu 7.2, target/arm/internals.h (GTIMER_SCALE); Linux 6.1, arch/arm64/kernel/{cpuinfo,time}.c; both measured,
# November 2026. KVM's guests were not.
_QEMU_TIMER = re.compile(r"^BogoMIPS\s*:\s*125\.00$", re.M)
# KVM offers its ARM guests random numbers by a firmware call, which Linux shows as a device; qemu alone does not.
# Source: Linux 6.1, arch/arm64/kvm/trng.c and drivers/firmware/smccc/smccc.c.
_KVM_TRNG = "sys/devices/platform/smccc_trng"
# Kinds of cores on x86: the performance counters' own lists. Source: Linux, arch/x86/events/intel/core.c.
HYBRID = {"sys/devices/cpu_atom/cpus": "efficiency core", "sys/devices/cpu_core/cpus": "performance core"}


@dataclass(frozen=True, slots=True)
class Cluster:
    """The CPUs of one kind; `core` names it where it is known."""

    cpus: tuple[int, ...]
    core: str
    mhz_max: int | None


def clusters(root: str = "/") -> tuple[Cluster, ...]:
    """The CPUs by kind, the slowest kind first; one cluster where all are alike. Empty where nothing tells."""
    kinds: dict[str, list[int]] = {}
    told = _kinds(root)
    for cpu in _cpus(root):
        kinds.setdefault(told.get(cpu, ""), []).append(cpu)
    found = [Cluster(tuple(cpus), core, _mhz_max(cpus, root)) for core, cpus in kinds.items()]
    return tuple(sorted(found, key=lambda c: (_capacity(c.cpus[0], root), c.mhz_max or 0)))


def emulated(root: str = "/") -> str:
    """What stands between us and a CPU of this kind, or empty where it is a real one, or one that looks like it.

    qemu-user shows a process its own program under /proc/self/exe; under the other name of the same link stands the
    emulator. Source: qemu 7.2, linux-user/syscall.c; measured, November 2026.
    """
    try:
        program = os.path.basename(os.readlink(f"{root}/proc/thread-self/exe"))
    except OSError:
        program = ""
    if program.startswith("qemu-"):
        return f"qemu-user ({program})"
    arm = platform.machine().startswith(("aarch64", "arm"))
    if arm and re.search(r"^vendor_id\s*:", read(f"{root}/proc/cpuinfo") or "", re.MULTILINE):
        return "the kernel runs on x86"
    return _imitating_machine(root)


def virtual(root: str = "/") -> str:
    """What shows that the machine is a virtual one, or empty where nothing does. Its processor may be real."""
    if "linux,dummy-virt" in (read(f"{root}/proc/device-tree/compatible") or ""):
        return "its device tree says linux,dummy-virt"
    if "QEMU" in (read(f"{root}/sys/class/dmi/id/sys_vendor") or ""):
        return "its firmware is QEMU's"
    if re.search(r"^flags\s*:.* hypervisor\b", read(f"{root}/proc/cpuinfo") or "", re.MULTILINE):
        return "its processor tells of a hypervisor"
    return ""


def siblings(root: str = "/") -> bool:
    """Whether any two CPUs are hyper-threads of one core, as far as the kernel tells."""
    lists = (read(f"{root}/{CPU}/cpu{cpu}/topology/thread_siblings_list") or "" for cpu in _cpus(root))
    return any("," in one or "-" in one for one in lists)


def parse(text: str) -> tuple[int, ...]:
    """`0,2-3` as (0, 2, 3), as the kernel writes lists of CPUs."""
    found: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return tuple(found)


def _imitating_machine(root: str) -> str:
    """Whether the machine is qemu's and its processor not lent by KVM, as far as can be seen from inside.

    Not seen: one of x86 that goes by a real processor's name, and one of ARM whose timer somebody has set.
    """
    cpuinfo = read(f"{root}/proc/cpuinfo") or ""
    if _QEMU_CPU.search(cpuinfo):
        return "qemu-system (its processor says so)"
    if virtual(root) and _QEMU_TIMER.search(cpuinfo) and not os.path.exists(f"{root}/{_KVM_TRNG}"):
        return "qemu-system (its timer runs at 62.5 MHz, and no KVM is to be seen)"
    return ""


def _cpus(root: str) -> tuple[int, ...]:
    try:
        return parse(read(f"{root}/{CPU}/online") or "") or tuple(range(os.cpu_count() or 1))
    except ValueError:
        return tuple(range(os.cpu_count() or 1))


def _kinds(root: str) -> dict[int, str]:
    """The kind of each CPU, by what the kernel knows of the cores; empty where it does not say."""
    found: dict[int, str] = {}
    for path, kind in HYBRID.items():
        found |= dict.fromkeys(parse(read(f"{root}/{path}") or ""), kind)
    if found:
        return found
    for block in (read(f"{root}/proc/cpuinfo") or "").split("\n\n"):
        facts = dict(re.findall(r"^([^\t:]+?)\s*:\s*(.*)$", block, re.MULTILINE))
        try:
            cpu, maker, part = (int(facts[key], 0) for key in ("processor", "CPU implementer", "CPU part"))
        except (KeyError, ValueError):
            continue
        found[cpu] = NAMES.get(maker, {}).get(part, f"implementer {maker:#x}, part {part:#x}")
    return found


def _capacity(cpu: int, root: str) -> int:
    """How much the kernel thinks that this CPU can do, of 1024; 0 where it does not say."""
    return number(f"{root}/{CPU}/cpu{cpu}/cpu_capacity") or 0


def _mhz_max(cpus: list[int], root: str) -> int | None:
    khz = [number(f"{root}/{CPU}/cpu{cpu}/cpufreq/cpuinfo_max_freq") for cpu in cpus]
    return max((k // 1000 for k in khz if k), default=None)
