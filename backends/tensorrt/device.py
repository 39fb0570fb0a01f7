"""Memory, copies, streams, events and graphs of one GPU: what a session needs, and no more.

Two implementations behind one small interface: pycuda, and NVIDIA's cuda-python. Both use the device's primary
context, as the runtimes do, so pointers of one are good for the other. pycuda cannot record graphs: for them
cuda-python is needed beside it. Handles and addresses are plain integers.
Source: pycuda 2026.1 and cuda-bindings 13.5 (names), November 2026.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from abc import ABC, abstractmethod
from threading import get_ident
from typing import Any

import numpy as np

from bench.errors import BackendUnavailable, BenchError, LoadError, RunError, UsageError
from bench.interface import Array

INSTALL = 'pip install "deploybench[cuda-python]", or "deploybench[pycuda]", which is compiled against your CUDA'
OUT_OF_MEMORY = "use a smaller batch, or a GPU that nobody else uses"
_MEMORY_CODES = ("CUDA_ERROR_OUT_OF_MEMORY", "out of memory", "MemoryError")


class Device(ABC):
    """One GPU, used by one thread at a time. What was allocated is freed by `close`, in whatever order."""

    @abstractmethod
    def enter(self) -> None:
        """Make it the GPU of the thread that calls; nothing to do where it is."""

    @abstractmethod
    def allocate(self, size: int) -> int:
        """The address of so many bytes on the GPU (at least one)."""

    @abstractmethod
    def pinned(self, size: int) -> Array:
        """So many bytes here that the GPU can copy from and to while we go on: uint8[size]."""

    @abstractmethod
    def stream(self) -> int:
        """A stream of its own: the default one waits for everybody."""

    @abstractmethod
    def event(self) -> Any:
        """A mark that can be set in a stream."""

    @abstractmethod
    def copy_in(self, address: int, data: Array, stream: int) -> None:
        """Queue a copy from pinned memory to the GPU."""

    @abstractmethod
    def copy_out(self, data: Array, address: int, stream: int) -> None:
        """Queue a copy from the GPU to pinned memory."""

    @abstractmethod
    def record(self, event: Any, stream: int) -> None:
        """Set the mark behind all that is queued."""

    @abstractmethod
    def elapsed_ns(self, first: Any, second: Any) -> int:
        """The time between two marks that have been passed. Their resolution is about half a microsecond."""

    @abstractmethod
    def wait(self, stream: int) -> None:
        """Until all that is queued is done.

        Raises:
            RunError: something of it failed.
        """

    @abstractmethod
    def begin_recording(self, stream: int) -> None:
        """From now on what is queued is written down, not done."""

    @abstractmethod
    def end_recording(self, stream: int) -> int:
        """What was queued since, as a graph that can be launched."""

    @abstractmethod
    def launch(self, graph: int, stream: int) -> None:
        """Queue a graph."""

    @abstractmethod
    def close(self) -> None:
        """Free everything. Calling it again does nothing."""


def open_device(index: int, wanted: str = "auto") -> Device:
    """The GPU, through the package `wanted`: cuda-python, pycuda, or `auto` for the first that is installed.

    Raises:
        BackendUnavailable: neither is installed, or it cannot use the driver.
    """
    kinds = {"cuda-python": ("cuda.bindings", CudaPython), "pycuda": ("pycuda", PyCuda)}
    for name, (package, kind) in kinds.items():
        if wanted in ("auto", name) and _there(package):
            try:
                return kind(index)
            except BenchError:
                raise
            except Exception as error:  # ImportError, or whatever the driver's binding makes of a driver that fails
                raise BackendUnavailable(f"{name} cannot use the GPU: {error}", "see nvidia-smi") from error
    what = "cuda-python or pycuda" if wanted == "auto" else wanted
    raise BackendUnavailable(f"{what} is not installed, and memory on the GPU takes it", INSTALL)


def found() -> str:
    """Which package `open_device` would use, empty for none. Imports nothing but `cuda`, a namespace."""
    return next(
        (name for name, package in (("cuda-python", "cuda.bindings"), ("pycuda", "pycuda")) if _there(package)), ""
    )


def _there(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:  # its parent is not there
        return False


class CudaPython(Device):
    """The driver's own functions, through `cuda.bindings.driver`."""

    def __init__(self, index: int) -> None:
        self._cu = importlib.import_module("cuda.bindings.driver")
        self._memory: list[int] = []
        self._pinned: list[Any] = []
        self._streams: list[Any] = []
        self._events: list[Any] = []
        self._graphs: list[tuple[Any, Any]] = []
        self._call("cuInit", 0)
        self._device = self._call("cuDeviceGet", index)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._device)
        self._thread = 0
        self.enter()

    def enter(self) -> None:
        if self._thread != get_ident():
            self._call("cuCtxSetCurrent", self._context)
            self._thread = get_ident()

    def allocate(self, size: int) -> int:
        address = int(self._call("cuMemAlloc", max(1, size)))
        self._memory.append(address)
        return address

    def pinned(self, size: int) -> Array:
        address = int(self._call("cuMemAllocHost", max(1, size)))
        self._pinned.append(address)
        return _bytes_at(address, size)

    def stream(self) -> int:
        made = self._call("cuStreamCreate", self._cu.CUstream_flags.CU_STREAM_NON_BLOCKING)
        self._streams.append(made)
        return int(made)

    def event(self) -> Any:
        made = self._call("cuEventCreate", self._cu.CUevent_flags.CU_EVENT_DEFAULT)
        self._events.append(made)
        return made

    def copy_in(self, address: int, data: Array, stream: int) -> None:
        self._call("cuMemcpyHtoDAsync", address, data.ctypes.data, data.nbytes, stream)

    def copy_out(self, data: Array, address: int, stream: int) -> None:
        self._call("cuMemcpyDtoHAsync", data.ctypes.data, address, data.nbytes, stream)

    def record(self, event: Any, stream: int) -> None:
        self._call("cuEventRecord", event, stream)

    def elapsed_ns(self, first: Any, second: Any) -> int:
        return round(float(self._call("cuEventElapsedTime", first, second)) * 1e6)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", stream)

    def begin_recording(self, stream: int) -> None:
        mode = self._cu.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)

    def end_recording(self, stream: int) -> int:
        graph = self._call("cuStreamEndCapture", stream)
        ready = self._call("cuGraphInstantiate", graph, 0)
        self._graphs.append((graph, ready))
        self._call("cuGraphUpload", ready, stream)
        return len(self._graphs) - 1

    def launch(self, graph: int, stream: int) -> None:
        self._call("cuGraphLaunch", self._graphs[graph][1], stream)

    def close(self) -> None:
        if self._device is None:
            return
        for graph, ready in self._graphs:
            self._cu.cuGraphExecDestroy(ready)
            self._cu.cuGraphDestroy(graph)
        for function, held in (
            (self._cu.cuEventDestroy, self._events), (self._cu.cuStreamDestroy, self._streams),
            (self._cu.cuMemFreeHost, self._pinned), (self._cu.cuMemFree, self._memory),
        ):  # fmt: skip
            for one in held:
                function(one)
            held.clear()
        self._graphs.clear()
        self._cu.cuDevicePrimaryCtxRelease(self._device)
        self._device = None

    def _call(self, function: str, *arguments: Any) -> Any:
        """What a function gives beside its code."""
        code, *given = getattr(self._cu, function)(*arguments)
        if int(code) == 0:
            return given[0] if given else None
        raise failed(function, getattr(code, "name", str(code)))


# CUDA's CU_STREAM_NON_BLOCKING, which pycuda has no name for.
NON_BLOCKING = 1


class PyCuda(Device):
    """pycuda; its streams and events are objects, so they are kept by their handles."""

    def __init__(self, index: int) -> None:
        self._cu = importlib.import_module("pycuda.driver")
        self._cu.init()
        self._context = self._cu.Device(index).retain_primary_context()
        self._thread = 0
        self.enter()
        self._memory: dict[int, Any] = {}
        self._pinned: list[Any] = []
        self._streams: dict[int, Any] = {}
        self._graphs: CudaPython | None = None
        self._index, self._open = index, True

    def enter(self) -> None:
        if self._thread != get_ident():
            self._context.push()
            self._thread = get_ident()

    def allocate(self, size: int) -> int:
        held = self._mapped("mem_alloc", self._cu.mem_alloc, max(1, size))
        self._memory[int(held)] = held
        return int(held)

    def pinned(self, size: int) -> Array:
        held: Array = self._mapped("pagelocked_empty", self._cu.pagelocked_empty, max(1, size), np.uint8)
        self._pinned.append(held)
        return held[:size]

    def stream(self) -> int:
        made = self._cu.Stream(NON_BLOCKING)
        self._streams[int(made.handle)] = made
        return int(made.handle)

    def event(self) -> Any:
        return self._cu.Event()

    def copy_in(self, address: int, data: Array, stream: int) -> None:
        self._mapped("memcpy_htod_async", self._cu.memcpy_htod_async, address, data, self._streams[stream])

    def copy_out(self, data: Array, address: int, stream: int) -> None:
        self._mapped("memcpy_dtoh_async", self._cu.memcpy_dtoh_async, data, address, self._streams[stream])

    def record(self, event: Any, stream: int) -> None:
        event.record(self._streams[stream])

    def elapsed_ns(self, first: Any, second: Any) -> int:
        return round(float(first.time_till(second)) * 1e6)

    def wait(self, stream: int) -> None:
        self._mapped("synchronize", self._streams[stream].synchronize)

    def begin_recording(self, stream: int) -> None:
        if self._graphs is None:
            if not _there("cuda.bindings"):
                raise UsageError("pycuda cannot record CUDA graphs", 'pip install "deploybench[cuda-python]" beside it')
            self._graphs = CudaPython(self._index)
        self._graphs.begin_recording(stream)

    def end_recording(self, stream: int) -> int:
        assert self._graphs is not None
        return self._graphs.end_recording(stream)

    def launch(self, graph: int, stream: int) -> None:
        assert self._graphs is not None
        self._graphs.launch(graph, stream)

    def close(self) -> None:
        if not self._open:
            return
        self._open = False
        if self._graphs is not None:
            self._graphs.close()
        for held in self._memory.values():
            held.free()
        self._memory.clear()
        self._pinned.clear()
        self._streams.clear()
        self._context.pop()

    def _mapped(self, what: str, function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except (self._cu.Error, MemoryError) as error:
            raise failed(what, f"{type(error).__name__}: {error}") from error


def failed(function: str, said: str) -> BenchError:
    """The error of a call that failed, by what the driver said."""
    if any(word in said for word in _MEMORY_CODES):
        kind = LoadError if function in ("cuCtxSetCurrent", "cuDevicePrimaryCtxRetain") else RunError
        return kind(f"the GPU is out of memory ({function})", OUT_OF_MEMORY)
    return RunError(f"the GPU failed at {function}: {said}", "see the kernel's log (dmesg) for an Xid")


def _bytes_at(address: int, size: int) -> Array:
    held: Array = np.ctypeslib.as_array((ctypes.c_uint8 * max(1, size)).from_address(address))
    return held[:size]
