"""The session and its clocks on a device made up for it: what is copied, queued, waited for and freed, in which order.

The made-up engine computes y = 2x in this machine's memory, when the work that was queued is waited for.
"""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest

from backends.tensorrt import device as devices
from backends.tensorrt import session as sessions
from backends.tensorrt.device import Device
from backends.tensorrt.session import EngineSession
from bench.errors import BackendUnavailable, LoadError, RunError, UnsupportedModel, UsageError
from bench.interface import Plan, Signature, ValueSpec
from bench.measure import loop

SHORT = Plan(min_count=5, min_s=0.0, max_s=1.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=0.05, target=None)
WORK_NS = 30_000


class MadeUpDevice(Device):
    """Memory of this machine, a queue worked off when it is waited for, and a clock that ticks with the work."""

    def __init__(self, work_ns=WORK_NS):
        self.calls, self.queue, self.held, self.closed = [], [], {}, 0
        self.now_ns, self.work_ns, self.graph = 0, work_ns, None

    def enter(self):
        self.entered = True

    def allocate(self, size):
        self.calls.append("allocate")
        held = (ctypes.c_uint8 * max(1, size))()
        self.held[ctypes.addressof(held)] = held
        return ctypes.addressof(held)

    def pinned(self, size):
        self.calls.append("pinned")
        return np.full(size, 0xAB, np.uint8)

    def stream(self):
        return 7

    def event(self):
        return {"at": None}

    def _put(self, name, work):
        self.calls.append(name)
        (self.queue if self.graph is None else self.graph).append(work)

    def copy_in(self, address, data, stream):
        assert stream == 7
        self._put("copy_in", lambda: ctypes.memmove(address, data.ctypes.data, data.nbytes))

    def copy_out(self, data, address, stream):
        self._put("copy_out", lambda: ctypes.memmove(data.ctypes.data, address, data.nbytes))

    def record(self, event, stream):
        self._put("record", lambda: event.update(at=self.now_ns))

    def elapsed_ns(self, first, second):
        assert first["at"] is not None
        assert second["at"] is not None
        return second["at"] - first["at"]

    def wait(self, stream):
        self.calls.append("wait")
        queue, self.queue = self.queue, []
        for work in queue:
            work()

    def begin_recording(self, stream):
        self.calls.append("begin_recording")
        self.graph = []

    def end_recording(self, stream):
        self.calls.append("end_recording")
        self.recorded, self.graph = self.graph, None
        return 0

    def launch(self, graph, stream):
        self.calls.append("launch")
        self.queue += self.recorded

    def close(self):
        self.closed += 1
        self.held.clear()


class Enum:
    def __init__(self, name):
        self.name = name

    def __str__(self):
        return f"Made.{self.name}"


class MadeUpTensorRt:
    """As much of the package as a session reads."""

    class TensorIOMode:
        INPUT, OUTPUT = "in", "out"

    class IOutputAllocator:
        def __init__(self):
            pass


class MadeUpEngine:
    """x: float32[N, 3], at most four rows; y = 2x."""

    num_io_tensors, num_layers, num_optimization_profiles = 2, 3, 1

    def __init__(self, device, *, kind="FLOAT", late=False, fails=False, context=True):
        self.device, self.kind, self.late, self.fails, self.has_context = device, kind, late, fails, context

    def get_tensor_name(self, index):
        return "xy"[index]

    def get_tensor_mode(self, name):
        return "in" if name == "x" else "out"

    def get_tensor_dtype(self, name):
        return Enum(self.kind)

    def get_tensor_profile_shape(self, name, profile):
        return (1, 3), (2, 3), (4, 3)

    def create_execution_context(self):
        return MadeUpContext(self) if self.has_context else None


class MadeUpContext:
    def __init__(self, engine):
        self.engine, self.shape, self.addresses, self.allocator = engine, None, {}, None

    def set_optimization_profile_async(self, index, stream):
        return index == 0

    def set_input_shape(self, name, shape):
        fits = len(shape) == 2 and 1 <= shape[0] <= 4 and shape[1] == 3
        self.shape = tuple(shape) if fits else self.shape
        return fits

    def infer_shapes(self):
        return []

    def get_tensor_shape(self, name):
        return (-1, 3) if self.engine.late and name == "y" else self.shape

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name, allocator):
        self.allocator = allocator
        return True

    def execute_async_v3(self, stream):
        device, size = self.engine.device, int(np.prod(self.shape)) * 4
        source = self.addresses["x"]

        def work():
            device.now_ns += device.work_ns
            target = self.addresses.get("y")
            if self.allocator is not None:
                target = self.allocator.reallocate_output_async("y", 0, size, 256, stream)
                self.allocator.notify_shape("y", self.shape)
            values = np.frombuffer((ctypes.c_uint8 * size).from_address(source), np.float32) * 2
            ctypes.memmove(target, values.ctypes.data, size)

        device._put("execute", work)
        return not self.engine.fails


def signature(dtype="float32"):
    return Signature((ValueSpec("x", dtype, (2, 3)),), (ValueSpec("y", dtype, (2, 3)),))


def opened(device=None, *, graph=False, spec=None, **engine):
    device = device or MadeUpDevice()
    made = MadeUpEngine(device, **engine)
    return EngineSession(
        MadeUpTensorRt, made, device, spec or signature(), place=("cuda:0", "model"), graph=graph
    ), device


def rows(count, first=1.0):
    return {"x": np.arange(first, first + 3 * count, dtype=np.float32).reshape(count, 3)}


@pytest.mark.parametrize("graph", [False, True])
def test_it_computes_and_the_answer_is_the_caller_s(graph):
    session, _ = opened(graph=graph)
    first = session.run(rows(2))["y"]
    second = session.run(rows(2, 10.0))["y"]
    np.testing.assert_array_equal(first, 2 * rows(2)["x"])
    np.testing.assert_array_equal(second, 2 * rows(2, 10.0)["x"])
    first[:] = 0


def test_in_order_copy_execute_copy_wait():
    session, device = opened()
    session.run(rows(2))
    device.calls.clear()
    session.run(rows(2))
    assert device.calls == ["copy_in", "execute", "copy_out", "wait"]


def test_a_graph_is_recorded_once_and_then_launched():
    session, device = opened(graph=True)
    session.run(rows(2))
    assert Counter(device.calls)["begin_recording"] == 1
    device.calls.clear()
    session.run(rows(2))
    assert device.calls == ["copy_in", "launch", "copy_out", "wait"]
    session.run(rows(3))  # another shape is another graph
    assert Counter(device.calls)["begin_recording"] == 1


def test_other_shapes_within_the_profile_and_no_more_memory_than_the_largest_takes():
    session, device = opened()
    for count in (2, 4, 1, 3, 4):
        feeds = rows(count)
        np.testing.assert_array_equal(session.run(feeds)["y"], 2 * feeds["x"])
    assert Counter(device.calls)["allocate"] == 4  # for two rows, then for four
    with pytest.raises(RunError, match=r"takes 'x' from \(1, 3\) to \(4, 3\), it was fed \(5, 3\)"):
        session.run(rows(5))


def test_an_output_whose_shape_the_data_decide():
    session, _ = opened(late=True)
    for count in (2, 4, 1):
        np.testing.assert_array_equal(session.run(rows(count))["y"], 2 * rows(count)["x"])
    with pytest.raises(UnsupportedModel, match="depends on the data"):
        opened(late=True, graph=True)[0].run(rows(2))


def test_the_scopes_are_apart_and_have_trtexec_s_meaning():
    session, device = opened()
    feeds = [rows(2), rows(2, 50.0)]
    session.run(feeds[0])
    device.calls.clear()
    compute, enqueue = session.device_series(feeds, SHORT)
    assert (compute.scope, compute.clock) == ("compute", "device")
    assert (enqueue.scope, enqueue.clock) == ("enqueue", "host")
    assert set(compute.samples_ns.tolist()) == {WORK_NS}
    assert (enqueue.samples_ns > 0).all()
    timed = device.calls[device.calls.index("record") :]
    assert "copy_in" not in timed
    assert "copy_out" not in timed
    assert timed[-4:] == ["record", "execute", "record", "wait"]


def test_what_is_too_short_for_the_marks_is_measured_together():
    session, device = opened(MadeUpDevice(work_ns=1_000))
    session.run(rows(2))
    device.calls.clear()
    compute, _ = session.device_series([rows(2)], SHORT)
    assert set(compute.samples_ns.tolist()) == {1_000}
    last = device.calls[len(device.calls) - device.calls[::-1].index("record") - 1 :]
    assert last == ["record", "wait"]
    assert device.calls[-23:-2] == ["record", *["execute"] * 20]


def test_inputs_rotate_and_a_run_after_it_reads_its_own():
    session, device = opened()
    feeds = [rows(2), rows(2, 50.0)]
    session.run(feeds[0])
    before = Counter(device.calls)["allocate"]
    session.device_series(feeds, SHORT)
    assert Counter(device.calls)["allocate"] - before == sessions.MOST_COPIES
    np.testing.assert_array_equal(session.run(rows(2, 9.0))["y"], 2 * rows(2, 9.0)["x"])


def test_the_harness_takes_all_three_scopes():
    session, _ = opened(MadeUpDevice(work_ns=100))
    session.run(rows(2))
    samples, _ = loop.measure(session, [rows(2), rows(2, 5.0)], SHORT)
    assert [(s.scope, s.clock) for s in samples.series] == [
        ("end_to_end", "host"), ("compute", "device"), ("enqueue", "host"),
    ]  # fmt: skip


def test_a_device_clock_that_cannot_be_is_refused():
    """A made-up device whose clock runs a thousand times too fast: its figures do not fit into the time that passed."""
    session, _ = opened(MadeUpDevice(work_ns=30_000_000_000))
    session.run(rows(2))
    with pytest.raises(RunError, match="more time than passed"):
        loop.measure(session, [rows(2)], SHORT)


def test_closing_frees_all_and_twice_does_nothing_more():
    session, device = opened()
    session.run(rows(2))
    session.close()
    session.close()
    assert device.held == {}
    assert device.closed == 2


def test_placement():
    session, _ = opened()
    assert (session.placement().device, session.placement().nodes) == ("cuda:0", {"TensorRT": 3})


@pytest.mark.parametrize(
    ("engine", "spec", "kind", "said"),
    [
        ({"context": False}, None, LoadError, "no execution context"),
        ({"kind": "FP4"}, None, UnsupportedModel, "type FP4"),
        ({}, Signature((ValueSpec("q", "float32", (2, 3)),), ()), LoadError, "no tensor 'q'; it has x, y"),
        ({}, signature("float16"), LoadError, "float32 in the engine, the model says float16"),
    ],
)
def test_an_engine_that_is_not_of_this_model_is_refused(engine, spec, kind, said):
    with pytest.raises(kind) as raised:
        opened(spec=spec, **engine)
    assert said in str(raised.value)


def test_a_run_that_tensorrt_refuses():
    session, _ = opened(fails=True)
    with pytest.raises(RunError, match="could not run the engine"):
        session.run(rows(2))


# --- the real packages behind the device


def test_without_a_package_for_memory_it_says_which(monkeypatch):
    monkeypatch.setattr(devices, "_there", lambda package: False)
    assert devices.found() == ""
    with pytest.raises(BackendUnavailable, match="cuda-python or pycuda is not installed") as raised:
        devices.open_device(0)
    assert "pip install" in raised.value.hint
    with pytest.raises(BackendUnavailable, match="pycuda is not installed"):
        devices.open_device(0, "pycuda")


def test_cuda_python_without_a_driver_says_so():
    from bench import cuda_driver

    try:
        cuda_driver.ask()
    except cuda_driver.NoGpu:
        if not devices._there("cuda.bindings"):
            pytest.skip('needs cuda-bindings: pip install "deploybench[cuda-python]"')
        with pytest.raises(BackendUnavailable, match="cuda-python cannot use the GPU"):
            devices.open_device(0, "cuda-python")
    else:
        pytest.skip("needs a machine without a GPU")


@pytest.mark.parametrize(
    ("function", "said", "kind", "hint"),
    [
        ("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", RunError, "smaller batch"),
        ("cuDevicePrimaryCtxRetain", "CUDA_ERROR_OUT_OF_MEMORY", LoadError, "smaller batch"),
        ("mem_alloc", "MemoryError: cuMemAlloc failed: out of memory", RunError, "smaller batch"),
        ("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", RunError, "Xid"),
    ],
)
def test_the_driver_s_failures_in_words(function, said, kind, hint):
    found = devices.failed(function, said)
    assert type(found) is kind
    assert hint in found.hint


def test_pycuda_alone_records_no_graphs(monkeypatch):
    monkeypatch.setattr(devices, "_there", lambda package: False)
    made = object.__new__(devices.PyCuda)
    made._graphs = None
    with pytest.raises(UsageError, match="cannot record CUDA graphs"):
        made.begin_recording(0)
