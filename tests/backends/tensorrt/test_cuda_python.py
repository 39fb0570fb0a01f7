"""The device layer through the real cuda-bindings, on a driver that is made up: `fake_driver.c`, in host memory.

So every function is called as the bindings take it, and gives what they give. Nothing here is a GPU.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import ctypes, json, sys
import numpy as np
from backends.tensorrt.device import CudaPython
from bench.errors import BenchError

driver = ctypes.CDLL("libcuda.so.1")
found = {}
device = CudaPython(0)
address, there, back, stream = device.allocate(64), device.pinned(64), device.pinned(64), device.stream()
there[:] = np.arange(64)
device.copy_in(address, there, stream)
device.copy_out(back, address, stream)
device.wait(stream)
found["back"] = back.tolist()
first, last = device.event(), device.event()
device.record(first, stream)
device.record(last, stream)
found["elapsed_ns"] = device.elapsed_ns(first, last)
device.begin_recording(stream)
graph = device.end_recording(stream)
device.launch(graph, stream)
for name, call in {"memory": lambda: device.allocate(1 << 40), "index": lambda: CudaPython(5)}.items():
    try:
        call()
    except BenchError as error:
        found[name] = str(error)
device.close()
device.close()
found["held"] = driver.fake_held()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The folder of a `libcuda.so.1`."""
    if importlib.util.find_spec("cuda") is None:
        pytest.skip('needs cuda-bindings: pip install "deploybench[cuda-python]"')
    if (compiler := shutil.which("cc")) is None:
        pytest.skip("needs a C compiler")
    folder = tmp_path_factory.mktemp("driver")
    source = Path(__file__).with_name("fake_driver.c")
    options = ["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", str(folder / "libcuda.so.1")]
    subprocess.run([compiler, *options, str(source), "-ldl"], check=True, timeout=120)
    return folder


def test_every_call_is_one_that_the_bindings_take(driver):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "LD_LIBRARY_PATH": str(driver)}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["back"] == list(range(64))
    assert found["elapsed_ns"] == 250_000
    assert "out of memory (cuMemAlloc)" in found["memory"]
    assert "CUDA_ERROR_INVALID_DEVICE" in found["index"]
    assert found["held"] == 0, "what was allocated was given back"
