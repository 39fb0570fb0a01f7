"""What machine this is, without anything that names its owner: no host name, user, path or address.

Read by the worker on its own machine. Standard library only, Python 3.10.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.evidence import cores as cores_
from bench.evidence.boot import boot_id
from bench.evidence.cores import Cluster


@dataclass(frozen=True, slots=True)
class Environment:
    """Facts that a reader of a number wants to know. None where the machine does not tell.

    `wheels`: of what was brought along, the SHA-256 of the wheel by distribution.
    """

    machine: str
    arch: str
    cpu: str
    cores: int
    memory_bytes: int | None
    os: str
    kernel: str
    libc: str
    python: str
    governor: str | None
    mhz_max: int | None
    boot: str
    emulated: str
    clusters: tuple[Cluster, ...]
    wheels: Mapping[str, str]


def collect(root: str = "/") -> Environment:
    """The facts of this machine, now. Never raises. `root`: another than `/` where the machine is made up."""
    cpu = _cpu_model(root)
    cores = os.cpu_count() or 1
    libc = "".join(platform.libc_ver())
    return Environment(
        machine=_label(cpu, cores, root),
        arch=platform.machine(),
        cpu=cpu,
        cores=cores,
        memory_bytes=_memory_bytes(root),
        os=_os_name(root),
        kernel=f"{platform.system()} {platform.release()}",
        libc=libc,
        python=platform.python_version(),
        governor=_read(f"{root}/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        mhz_max=_mhz_max(root),
        boot=boot_id(root),
        emulated=cores_.emulated(root),
        clusters=cores_.clusters(root),
        wheels=brought(sys.path),
    )


def brought(path: Sequence[str]) -> dict[str, str]:
    """SHA-256 of the wheels that were brought along, by distribution: each is a folder of the path, named by it."""
    found: dict[str, str] = {}
    for folder in map(Path, path):
        if named := re.fullmatch(r"wheel-([0-9a-f]{64})", folder.name):
            found |= {info.name.partition("-")[0]: named[1] for info in folder.glob("*.dist-info")}
    return found


def _label(cpu: str, cores: int, root: str) -> str:
    """A name for the machine's folder of records: CPU, cores, and four digits of its (random) machine id, hashed."""
    words = re.sub(r"\(.*?\)|processor|cpu|@.*", "", cpu.lower())
    slug = re.sub(r"[^a-z0-9]+", "-", words).strip("-")[:40] or "machine"
    identity = _read(f"{root}/etc/machine-id") or platform.node()
    return f"{slug}-{cores}c-{hashlib.sha256(identity.encode()).hexdigest()[:4]}"


def _cpu_model(root: str) -> str:
    text = _read(f"{root}/proc/cpuinfo") or ""
    for key in ("Model", "model name", "Hardware"):  # boards name themselves last; x86 names its CPU
        if found := re.search(rf"^{key}\s*:\s*(.+)$", text, re.MULTILINE):
            return found.group(1).strip()
    return platform.machine()


def _memory_bytes(root: str) -> int | None:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read(f"{root}/proc/meminfo") or "", re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _os_name(root: str) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read(f"{root}/etc/os-release") or "", re.MULTILINE)
    return found.group(1) if found else platform.system()


def _mhz_max(root: str) -> int | None:
    text = _read(f"{root}/sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq")
    return int(text) // 1000 if text and text.isdigit() else None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return None
