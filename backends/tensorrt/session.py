"""An engine, run: arrays in, arrays out, and the two scopes inside, with trtexec's meaning.

`end_to_end`: the harness times `run`: copy in, enqueue, copy out, wait. `compute`: marks around the enqueue, inputs
and outputs on the GPU. `enqueue`: the host's time in the call that queues the work. Nothing overlaps here: trtexec
keeps one query ahead, so its throughput is higher than one over its latency; neither figure is made here.
Source: TensorRT's command-line programs page and samples/common/sampleReporting.cpp, read November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from time import perf_counter_ns
from typing import Any

import numpy as np

from backends.tensorrt.device import Device
from bench.errors import LoadError, RunError, UnsupportedModel
from bench.interface import Array, Feeds, Outputs, Packed, Placement, Plan, Series, Session, Signature

# TensorRT's types by the name of their member, and numpy's; what numpy lacks is in the integers that hold its bits.
TYPES = {
    "FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "INT64": "int64", "BOOL": "bool",
    "UINT8": "uint8", "BF16": "uint16", "FP8": "uint8",
}  # fmt: skip
PACKED = {"BF16": "bfloat16", "FP8": "float8e4m3fn"}
# Below this the marks' own resolution (0.5 us) would be a fortieth of the time: more enqueues go between two of them.
SHORT_NS = 20_000
MOST_TOGETHER = 64
ROTATE_BYTES = 128 << 20
MOST_COPIES = 32


@dataclass(slots=True)
class Buffer:
    """One tensor of the engine: its type, its present shape, and memory on the GPU and here, which only grows."""

    name: str
    kind: str
    dtype: Any
    shape: tuple[int, ...] = ()
    address: int = 0
    room: Any = None

    @property
    def size(self) -> int:
        """Bytes of the present shape."""
        return int(np.prod(self.shape, dtype=np.int64)) * int(self.dtype.itemsize)

    @property
    def host(self) -> Any:
        """The memory here, as much as the present shape takes; uint8."""
        return self.room[: self.size]


class EngineSession(Session):
    """One execution context on one stream. `engine` and `device` are closed with it, and `kept` is kept until then."""

    def __init__(
        self,
        trt: Any,
        engine: Any,
        device: Device,
        signature: Signature,
        *,
        place: tuple[str, str],
        graph: bool = False,
        kept: Any = None,
    ) -> None:
        self._kept = kept
        self._trt, self._engine, self._device = trt, engine, device
        self._place, self._wants_graph = place, graph
        self._context = _context(trt, engine)
        if self._context is None:
            raise LoadError("TensorRT made no execution context", "the GPU may be out of memory: see the log's tail")
        self._stream = device.stream()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
        self._inputs = [self._buffer(name) for name in names if name in inputs]
        self._outputs = [self._buffer(spec.name) for spec in signature.outputs if spec.name in names]
        self._shapes = {spec.name: spec.shape for spec in signature.outputs}
        self._refuse(signature, names)
        self._allocators: dict[str, Any] = {}
        self._graph: int | None = None
        self._fitted = False
        if engine.num_optimization_profiles and not self._context.set_optimization_profile_async(0, self._stream):
            raise LoadError("TensorRT refused its own optimization profile", "see the log's tail")
        device.wait(self._stream)

    def run(self, feeds: Feeds) -> Outputs:
        self._device.enter()
        self._fit(feeds)
        for buffer in self._inputs:
            _fill(buffer.host, feeds[buffer.name])
            self._device.copy_in(buffer.address, buffer.host, self._stream)
        self._enqueue()
        self._take_shapes()
        for buffer in self._outputs:
            self._device.copy_out(buffer.host, buffer.address, self._stream)
        self._device.wait(self._stream)
        return {buffer.name: _value(buffer) for buffer in self._outputs}

    def device_series(self, feeds: Sequence[Feeds], plan: Plan) -> tuple[Series, ...]:
        self._device.enter()
        self._fit(feeds[0])
        turns = self._resident(feeds)
        together = self._together()
        compute, enqueue = self._marked(turns, plan, together)
        return (
            Series("compute", "device", np.array(compute, np.int64)),
            Series("enqueue", "host", np.array(enqueue, np.int64)),
        )

    def placement(self) -> Placement:
        device, precision = self._place
        return Placement(device, precision, {"TensorRT": int(self._engine.num_layers)})

    def close(self) -> None:
        self._context = self._engine = None
        self._allocators.clear()
        self._kept = None
        self._device.close()

    def _buffer(self, name: str) -> Buffer:
        kind = str(self._engine.get_tensor_dtype(name)).rpartition(".")[2]
        if kind not in TYPES:
            raise UnsupportedModel(f"tensor {name!r} is of type {kind}, which numpy cannot carry")
        return Buffer(name, kind, np.dtype(TYPES[kind]))

    def _refuse(self, signature: Signature, names: Sequence[str]) -> None:
        """An engine that is not of this model."""
        wanted = {spec.name for spec in (*signature.inputs, *signature.outputs)}
        if lacking := sorted(wanted - set(names)):
            raise LoadError(f"the engine has no tensor {lacking[0]!r}; it has {', '.join(sorted(names))}")
        for spec, buffer in zip(signature.outputs, self._outputs, strict=True):
            got = PACKED.get(buffer.kind, buffer.dtype.name)
            if spec.dtype != got:
                raise LoadError(f"output {spec.name!r} is {got} in the engine, the model says {spec.dtype}")

    def _fit(self, feeds: Feeds) -> None:
        """Memory for these shapes; nothing to do while they stay the same."""
        if self._fitted and all(buffer.shape == feeds[buffer.name].shape for buffer in self._inputs):
            return
        for buffer in self._inputs:
            shape = feeds[buffer.name].shape
            if not self._context.set_input_shape(buffer.name, shape):
                least, _, most = self._engine.get_tensor_profile_shape(buffer.name, 0)
                said = f"{tuple(least)} to {tuple(most)}"
                raise RunError(
                    f"the engine takes {buffer.name!r} from {said}, it was fed {tuple(shape)}", "widen the profile"
                )
            self._give(buffer, tuple(shape))
        if lacking := self._context.infer_shapes():
            raise RunError(f"TensorRT cannot tell shapes without the values of {', '.join(lacking)}")
        for buffer in self._outputs:
            shape = tuple(self._context.get_tensor_shape(buffer.name))
            if any(size < 0 for size in shape):
                self._await_shape(buffer)
            else:
                self._give(buffer, shape)
        self._graph, self._fitted = None, True

    def _give(self, buffer: Buffer, shape: tuple[int, ...]) -> None:
        buffer.shape = shape
        if buffer.room is None or buffer.size > buffer.room.size:
            buffer.address, buffer.room = self._device.allocate(buffer.size), self._device.pinned(buffer.size)
        if not self._context.set_tensor_address(buffer.name, buffer.address):
            raise RunError(f"TensorRT refused the memory of {buffer.name!r}", "see the log's tail")

    def _await_shape(self, buffer: Buffer) -> None:
        """An output whose shape depends on the data: TensorRT asks for its memory while it runs."""
        self._allocators[buffer.name] = made = _allocator(self._trt, self._device)
        if not self._context.set_output_allocator(buffer.name, made):
            raise RunError(f"TensorRT refused to have {buffer.name!r} allocated", "see the log's tail")

    def _take_shapes(self) -> None:
        """Memory here for outputs whose shape is only known now."""
        if not self._allocators:
            return
        self._device.wait(self._stream)
        for buffer in self._outputs:
            if made := self._allocators.get(buffer.name):
                buffer.shape, buffer.address = tuple(made.shape), made.address
                if buffer.room is None or buffer.size > buffer.room.size:
                    buffer.room = self._device.pinned(buffer.size)

    def _enqueue(self) -> None:
        if self._wants_graph and self._graph is None:
            self._record()
        if self._graph is not None:
            self._device.launch(self._graph, self._stream)
        elif not self._context.execute_async_v3(self._stream):
            raise RunError("TensorRT could not run the engine", "see the log's tail")

    def _record(self) -> None:
        """Write the work down as a graph, after one run that settles what is loaded lazily."""
        if self._allocators:
            raise UnsupportedModel("a CUDA graph cannot have outputs whose shape depends on the data")
        if not self._context.execute_async_v3(self._stream):
            raise RunError("TensorRT could not run the engine", "see the log's tail")
        self._device.wait(self._stream)
        if not getattr(self._context, "is_stream_capturable", lambda stream: True)(self._stream):
            raise UnsupportedModel("this engine cannot be recorded as a CUDA graph", "leave out cuda_graph")
        self._device.begin_recording(self._stream)
        queued = self._context.execute_async_v3(self._stream)
        graph = self._device.end_recording(self._stream)
        if not queued:
            raise UnsupportedModel("this engine cannot be recorded as a CUDA graph", "leave out cuda_graph")
        self._graph = graph

    def _resident(self, feeds: Sequence[Feeds]) -> list[Mapping[str, int]]:
        """Addresses of inputs on the GPU, copies of every feed, until its cache cannot hold them all."""
        if self._wants_graph:  # it reads from fixed addresses
            return [{buffer.name: buffer.address for buffer in self._inputs}]
        size = sum(buffer.size for buffer in self._inputs)
        times = max(1, min(MOST_COPIES // len(feeds), ROTATE_BYTES // max(1, size * len(feeds)) + 1))
        turns: list[Mapping[str, int]] = []
        for feed in list(feeds) * times:
            turn = {}
            for buffer in self._inputs:
                _fill(buffer.host, feed[buffer.name])
                turn[buffer.name] = self._device.allocate(buffer.size)
                self._device.copy_in(turn[buffer.name], buffer.host, self._stream)
                self._device.wait(self._stream)
            turns.append(turn)
        return turns

    def _together(self) -> int:
        """How many enqueues go between two marks, so that these can tell the time."""
        first, second = self._device.event(), self._device.event()
        shortest = SHORT_NS
        for _ in range(3):
            self._device.record(first, self._stream)
            self._enqueue()
            self._device.record(second, self._stream)
            self._device.wait(self._stream)
            shortest = min(shortest, max(1, self._device.elapsed_ns(first, second)))
        return min(MOST_TOGETHER, -(-SHORT_NS // shortest))

    def _marked(self, turns: Sequence[Mapping[str, int]], plan: Plan, together: int) -> tuple[list[int], list[int]]:
        """Nanoseconds of each inference on the GPU, and of each enqueue here."""
        first, second = self._device.event(), self._device.event()
        compute: list[int] = []
        enqueue: list[int] = []
        begin = perf_counter_ns()
        for index in count():
            if len(turns) > 1:
                for name, address in turns[index % len(turns)].items():
                    self._context.set_tensor_address(name, address)
            self._device.record(first, self._stream)
            start = perf_counter_ns()
            for _ in range(together):
                self._enqueue()
            now = perf_counter_ns()
            self._device.record(second, self._stream)
            self._device.wait(self._stream)
            enqueue.append((now - start) // together)
            compute.append(self._device.elapsed_ns(first, second) // together)
            passed_s = (perf_counter_ns() - begin) / 1e9
            if (len(compute) >= plan.min_count and passed_s >= plan.min_s) or passed_s >= plan.max_s:
                break
        for buffer in self._inputs:  # back to the buffers that `run` fills
            self._context.set_tensor_address(buffer.name, buffer.address)
        return compute, enqueue


def _context(trt: Any, engine: Any) -> Any:
    """An execution context. TensorRT-RTX compiles its kernels here, all of them: none is swapped in while we time."""
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    runtime_config = engine.create_runtime_config()
    runtime_config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(runtime_config)


def _allocator(trt: Any, device: Device) -> Any:
    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # a base that is loaded at run time
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.address, self.size, self.shape = 0, -1, ()

        def reallocate_output_async(self, name: str, memory: int, size: int, alignment: int, stream: int) -> int:
            if size > self.size:
                self.address, self.size = device.allocate(size), size
            return self.address

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shape = tuple(shape)

    return Allocator()


def _fill(host: Array, array: Array) -> None:
    """Copy an array to pinned memory, byte by byte as it lies."""
    if array.size:
        host.view(array.dtype)[:] = array.reshape(-1)


def _value(buffer: Buffer) -> Any:
    """A copy of an output that is the caller's."""
    array = np.array(buffer.host.view(buffer.dtype).reshape(buffer.shape))
    return Packed(PACKED[buffer.kind], array) if buffer.kind in PACKED else array
