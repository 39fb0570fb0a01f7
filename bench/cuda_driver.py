"""The NVIDIA driver, asked through ctypes: which GPUs there are, or why none can be used.

Loads no CUDA runtime and nothing heavy, so it comes first: runtimes for GPUs crash, or say nothing of use, where the
driver is missing. Runs inside workers, for harness and backends alike: standard library only, Python 3.10.
Source: CUDA driver API 13.0 (function names, attribute numbers and error codes of cuda.h).
"""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR, _INTEGRATED = 75, 76, 18  # CU_DEVICE_ATTRIBUTE_*
_NAME_BYTES = 256
# Codes of cuInit that a user can do something about.
_REMEDIES = {
    34: "the driver's real library must come before the stub of the CUDA toolkit: look at LD_LIBRARY_PATH",
    46: "another process holds the GPU exclusively: see nvidia-smi",
    100: "is the GPU visible to this process? See nvidia-smi, and CUDA_VISIBLE_DEVICES",
    802: "the GPUs are being set up: see that nvidia-fabricmanager runs, then try again",
    803: "the driver's library and its kernel module are of different versions: restart the machine",
    804: "this GPU takes no CUDA newer than its driver: unset LD_LIBRARY_PATH to the compatibility libraries",
}
_NO_DRIVER = "install NVIDIA's driver; in a container, start it with the GPU (docker run --gpus all)"


class NoGpu(Exception):
    """Why no GPU can be used here, and what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as CUDA numbers them. `capability`: of its multiprocessors, `9.0`. `integrated`: it uses main memory."""

    index: int
    name: str
    capability: str
    memory_bytes: int
    integrated: bool

    @property
    def words(self) -> str:
        """Name and architecture, as they decide what is built for it: `NVIDIA H200, sm_90`."""
        return f"{self.name}, sm_{self.capability.replace('.', '')}"


@dataclass(frozen=True, slots=True)
class Driver:
    """The newest CUDA that the driver takes, `13.0`; its own version, empty where it does not tell; its GPUs."""

    cuda: str
    version: str
    gpus: tuple[Gpu, ...]

    def at_least(self, major: int, minor: int = 0) -> bool:
        """Whether programs made for this CUDA can run."""
        return tuple(int(part) for part in self.cuda.split(".")) >= (major, minor)


def ask(library: str = LIBRARY, root: str = "/") -> Driver:
    """What the driver says.

    Raises:
        NoGpu: there is no driver, it cannot start, or it sees no GPU.
    """
    try:
        driver = ctypes.CDLL(library)
    except OSError as error:
        absent = "cannot open shared object" in str(error)
        reason = (
            f"no NVIDIA driver ({library} is not there)" if absent else f"NVIDIA's driver cannot be loaded: {error}"
        )
        raise NoGpu(reason, _NO_DRIVER) from error
    if code := driver.cuInit(0):
        remedy = _REMEDIES.get(code, "see nvidia-smi, and the kernel's log")
        raise NoGpu(f"NVIDIA's driver cannot start: {_words(driver, code)}", remedy)
    count = _integer(driver, "cuDeviceGetCount")
    if count < 1:
        raise NoGpu("NVIDIA's driver sees no GPU", _REMEDIES[100])
    number = _integer(driver, "cuDriverGetVersion")
    cuda = f"{number // 1000}.{number % 1000 // 10}"
    return Driver(cuda, _version(root), tuple(_gpu(driver, index) for index in range(count)))


def _gpu(driver: Any, index: int) -> Gpu:
    device = _integer(driver, "cuDeviceGet", index)
    text, size = ctypes.create_string_buffer(_NAME_BYTES), ctypes.c_size_t()
    _check(driver, "cuDeviceGetName", driver.cuDeviceGetName(text, _NAME_BYTES, device))
    _check(driver, "cuDeviceTotalMem", driver.cuDeviceTotalMem_v2(ctypes.byref(size), device))
    major, minor, integrated = (
        _integer(driver, "cuDeviceGetAttribute", attribute, device) for attribute in (_MAJOR, _MINOR, _INTEGRATED)
    )
    return Gpu(index, text.value.decode("utf-8", "replace"), f"{major}.{minor}", size.value, bool(integrated))


def _integer(driver: Any, function: str, *arguments: int) -> int:
    """The int that a function writes to its first argument."""
    value = ctypes.c_int()
    _check(driver, function, getattr(driver, function)(ctypes.byref(value), *arguments))
    return value.value


def _check(driver: Any, function: str, code: int) -> None:
    if code:
        raise NoGpu(f"NVIDIA's driver failed at {function}: {_words(driver, code)}", "see nvidia-smi")


def _words(driver: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if driver.cuGetErrorString(code, ctypes.byref(text)) == 0 and text.value:
        return f"{text.value.decode('utf-8', 'replace')} (error {code})"
    return f"error {code}"


def _version(root: str) -> str:
    """The driver's own version, `580.95.05`; on a Jetson, where it belongs to the kernel, the release of its system."""
    for name in ("sys/module/nvidia/version", "proc/driver/nvidia/version", "etc/nv_tegra_release"):
        try:
            text = Path(root, name).read_text()
        except OSError:
            continue
        tegra = re.search(r"# (R\d+).*?REVISION: ([\d.]+)", text)
        plain = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
        if found := f"{tegra[1]}.{tegra[2]}" if tegra else plain[0] if plain else "":
            return found
    return ""


def library_loads(name: str) -> str:
    """Empty where the dynamic loader finds this library and all that it needs, else what it says."""
    try:
        ctypes.CDLL(name, mode=os.RTLD_LAZY)
    except OSError as error:
        return str(error)
    return ""
