"""ncnn on GPUs, through Vulkan: which there are, and which layers are computed there.

ncnn answers a GPU that does not work with the CPU, and so it does with each layer that it has no Vulkan for, both
without a word. Both are closed here: what it switched off while loading is looked at, and every layer is asked.
Source: ncnn 1.0.20261020; what its Python binding tells of GPUs, networks and layers, November 2026.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from backends.ncnn.session import NcnnSession
from bench.cuda_driver import library_loads
from bench.errors import BackendUnavailable, LoadError, UnsupportedModel, UsageError
from bench.interface import Artifact, Options, Placement

PRECISIONS = ("model", "fp16")
# Debian's and Ubuntu's names.
_INSTALL = "install the loader (apt-get install libvulkan1) and the GPU's driver (Mesa's are in mesa-vulkan-drivers)"
_NO_DRIVER = "`vulkaninfo --summary` tells more, and VK_DRIVER_FILES may name another driver"
# ncnn's numbers for Vulkan's kinds of devices.
_KINDS = {0: "discrete", 1: "integrated", 2: "virtual", 3: "cpu"}
_NVIDIA = 0x10DE
_SWITCHES = ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_packed", "bf16_storage")


@dataclass(frozen=True, slots=True)
class Gpu:
    """A device as Vulkan tells of it. `kind`: `discrete`, `integrated`, `virtual`, `cpu`, or empty for another."""

    index: int
    name: str
    kind: str
    vulkan: str
    driver: str

    @property
    def words(self) -> str:
        """All that decides its speed: `NVIDIA H200, discrete, Vulkan 1.4.312, driver 580.95.5`."""
        kind = "emulated on the CPU" if self.emulated else self.kind
        return ", ".join(filter(None, (self.name, kind, f"Vulkan {self.vulkan}", f"driver {self.driver}")))

    @property
    def emulated(self) -> str:
        """What stands in for a GPU, or empty where it is one."""
        return f"Vulkan on the CPU ({self.name})" if self.kind == "cpu" else ""


class _Users:
    """How many use ncnn's Vulkan instance, of which a process has one."""

    lock: ClassVar = threading.Lock()
    count: ClassVar[int] = 0


@contextmanager
def gpus(ncnn: Any) -> Iterator[tuple[Gpu, ...]]:
    """The GPUs, counted as ncnn does, usable while the block lasts: the last one to leave gives all memory back.

    Raises:
        BackendUnavailable: there is none, or no way to it.
    """
    with _Users.lock:
        if not _Users.count:
            _open(ncnn)
        _Users.count += 1
    try:
        yield tuple(_gpu(index, ncnn.get_gpu_info(index)) for index in range(ncnn.get_gpu_count()))
    finally:
        with _Users.lock:
            _Users.count -= 1
            if not _Users.count:
                ncnn.destroy_gpu_instance()


def _open(ncnn: Any) -> None:
    if not hasattr(ncnn, "create_gpu_instance"):
        raise BackendUnavailable("this ncnn was built without Vulkan", "install ncnn from its wheel")
    started = ncnn.create_gpu_instance() == 0
    if started and ncnn.get_gpu_count():
        return
    ncnn.destroy_gpu_instance()  # else it remembers that it failed
    if library_loads("libvulkan.so.1"):
        raise BackendUnavailable("no Vulkan loader (libvulkan.so.1 is not there)", _INSTALL)
    reason = "Vulkan's drivers know no device here" if started else "Vulkan has no driver that starts here"
    raise BackendUnavailable(reason, f"{_INSTALL}; {_NO_DRIVER}")


def _gpu(index: int, info: Any) -> Gpu:
    return Gpu(
        index,
        str(info.device_name()),
        _KINDS.get(info.type(), ""),
        _version(info.api_version(), 12, 0),
        _version(info.driver_version(), *((14, 6) if info.vendor_id() == _NVIDIA else (12, 0))),
    )


def _version(number: int, minor: int, patch: int) -> str:
    """A packed version: the parts begin at these bits. NVIDIA packs its drivers' otherwise than Vulkan does."""
    return f"{number >> 22}.{number >> minor & (1 << 22 - minor) - 1}.{number >> patch & (1 << minor - patch) - 1}"


class VulkanSession(NcnnSession):
    """A network on a GPU. `run` copies to and fro, as its caller has arrays here."""

    def __init__(self, artifact: Artifact, options: Options, ncnn: Any) -> None:
        self._instance = ExitStack()
        net = None
        try:
            gpu = _chosen(self._instance.enter_context(gpus(ncnn)), int(options.extra["gpu"] or 0))
            net = ncnn.Net()
            net.opt.use_vulkan_compute = True  # before the layers are made
            net.set_vulkan_device(gpu.index)
            super().__init__(artifact, options, ncnn, net)
            self._placement = _placement(net, gpu, options)
        except BaseException:
            if net is not None:
                net.clear()  # the error keeps it alive for longer than its GPU
            self._instance.close()
            raise

    def placement(self) -> Placement:
        """Where ncnn computes each layer: by its own mark on the loaded layer, which alone decides at every run."""
        return self._placement

    def close(self) -> None:
        super().close()
        self._instance.close()


def _chosen(there: tuple[Gpu, ...], index: int) -> Gpu:
    if index not in range(len(there)):
        names = "; ".join(f"{gpu.index}: {gpu.name}" for gpu in there)
        raise UsageError(f"ncnn knows no GPU {index}", f"there are {names}")
    return there[index]


def _placement(net: Any, gpu: Gpu, options: Options) -> Placement:
    """Raises where a loaded network computes elsewhere, or otherwise, than was asked for."""
    device, opt = f"vulkan:{gpu.index}", net.opt
    if not opt.use_vulkan_compute:
        raise LoadError(f"ncnn could not open {gpu.name} and would compute on the CPU", "see the log's tail")
    used = {name: bool(getattr(opt, f"use_{name}")) for name in _SWITCHES}
    if options.precision == "fp16" and not (used["fp16_packed"] or used["fp16_storage"]):
        raise LoadError(f"{gpu.name} has no fp16, and ncnn would compute in float32", "leave out the precision")
    layers = [layer for layer in net.layers() if layer.type != "Input"]  # which does nothing
    others = [layer for layer in layers if not layer.support_vulkan]
    _judge(others, len(layers), device, allow=options.extra["cpu_nodes"] == "any")
    facts = {"gpu": gpu.words, **{name: "on" if on else "off" for name, on in used.items()}}
    nodes = {device: len(layers) - len(others), **({"cpu": len(others)} if others else {})}
    elsewhere = tuple(f"{layer.type} {layer.name} on the CPU" for layer in others)
    return Placement(device, options.precision, nodes, elsewhere, facts, gpu.emulated)


def _judge(others: list[Any], count: int, device: str, *, allow: bool) -> None:
    """Raises where layers would be computed on the CPU that must not be, or all would."""
    if not others or (allow and len(others) < count):
        return
    kinds = ", ".join(f"{kind} ({n})" for kind, n in Counter(layer.type for layer in others).most_common(8))
    hint = "measure them where they run with option cpu_nodes=any; the record then lists them" if not allow else ""
    raise UnsupportedModel(
        f"ncnn has no Vulkan for {len(others)} of {count} layers, which would run on the CPU, not on {device}: "
        f"{kinds}; the first is {others[0].name!r}",
        hint,
    )
