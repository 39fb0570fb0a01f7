"""Whether a processor is real, as far as a machine tells it from inside. The machines are made up."""

from __future__ import annotations

import pytest

from bench.evidence import cores

VIRT = {"proc/device-tree/compatible": "linux,dummy-virt\0"}


def arm(bogomips, implementer="0x41", part="0xd08"):
    return {
        "proc/cpuinfo": f"processor\t: 0\nBogoMIPS\t: {bogomips}\nFeatures\t: fp asimd\n"
        f"CPU implementer\t: {implementer}\nCPU architecture: 8\nCPU variant\t: 0x0\n"
        f"CPU part\t: {part}\nCPU revision\t: 3\n"
    }


def x86(model, flags="fpu"):
    return {"proc/cpuinfo": f"processor\t: 0\nmodel name\t: {model}\nflags\t\t: {flags} sse\nbogomips\t: 125.00\n"}


QEMU, OWN_MAX = VIRT | arm("125.00"), arm("125.00", "0x00", "0x051")
KVM_TELLS = {"sys/devices/platform/smccc_trng/uevent": ""}
UEFI = {"sys/class/dmi/id/sys_vendor": "QEMU\n"}


@pytest.mark.parametrize(
    ("files", "said", "virtual"),
    [
        (arm("108.00"), "", ""),  # a Raspberry Pi 4
        (arm("125.00"), "", ""),  # a real timer may run at 62.5 MHz
        (QEMU, "62.5 MHz", "device tree"),
        (UEFI | arm("125.00"), "62.5 MHz", "firmware"),
        (VIRT | OWN_MAX, "says so", "device tree"),
        (VIRT | arm("2000.00", "0x00", "0x051"), "says so", "device tree"),
        (QEMU | KVM_TELLS, "", "device tree"),  # KVM, on a host whose timer runs at 62.5 MHz
        (VIRT | arm("50.00", part="0xd0c"), "", "device tree"),  # KVM: the host's timer
        (x86("QEMU TCG CPU version 2.5+", "fpu hypervisor"), "says so", "hypervisor"),
        (x86("AMD EPYC", "fpu hypervisor") | UEFI, "", "firmware"),
        (x86("AMD EPYC", "fpu hypervisor"), "", "hypervisor"),
        (x86("AMD EPYC"), "", ""),
    ],
)
def test_what_a_machine_tells(tmp_path, files, said, virtual):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = cores.emulated(str(tmp_path))
    assert bool(found) == bool(said)
    assert said in found
    assert bool(cores.virtual(str(tmp_path))) == bool(virtual)
    assert virtual in cores.virtual(str(tmp_path))
