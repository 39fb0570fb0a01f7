"""Every name of a vendor's package that the GPU backends use exists in the package, where that is installed."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path

import pytest

import backends.tensorrt

FOLDER = Path(backends.tensorrt.__file__).parent
EVIDENCE = Path(backends.tensorrt.__file__).parents[2] / "bench" / "evidence" / "gpu.py"
# The objects that the package makes, by the names that they have in the code.
OBJECTS = {
    "builder": "Builder", "network": "INetworkDefinition", "parser": "OnnxParser", "config": "IBuilderConfig",
    "profile": "IOptimizationProfile", "first": "ParserError", "_engine": "ICudaEngine", "tensor": "ITensor",
    "_context": "IExecutionContext", "runtime_config": "IRuntimeConfig", "engine": "ICudaEngine",
}  # fmt: skip
# Of one of the packages alone, and guarded there.
OF_RTX = {
    ("DynamicShapesKernelSpecializationStrategy", "EAGER"), ("trt", "ComputeCapability"),
    ("trt", "DynamicShapesKernelSpecializationStrategy"), ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"), ("IExecutionContext", "is_stream_capturable"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
}  # fmt: skip
OURS = {"trt": {"__name__"}}
# Source: src/wrapper/wrap_cudadrv.cpp and pycuda/driver.py of pycuda 2026.1.
PYCUDA = {
    "Device", "Error", "Event", "Stream", "init", "mem_alloc", "memcpy_dtoh_async", "memcpy_htod_async",
    "pagelocked_empty",
}  # fmt: skip


def used() -> set[tuple[str, str]]:
    """Pairs of an object and an attribute that the backend's modules read of it."""
    found = set()
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute):
                base = node.value
                name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
                if name == "trt" and node.attr not in OURS["trt"]:
                    found.add(("trt", node.attr))
                elif name in OBJECTS and path.name in ("build.py", "session.py"):
                    found.add((OBJECTS[name], node.attr))
                elif isinstance(base, ast.Attribute) and isinstance(base.value, ast.Name) and base.value.id == "trt":
                    found.add((base.attr, node.attr))
    return {pair for pair in found if not pair[0].startswith("__")}


def package(name):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs {name}")
    try:
        return importlib.import_module(name)
    except ImportError as error:
        pytest.skip(f"needs {name} with its libraries: {error}")


def test_the_search_finds_what_is_used():
    names = used()
    assert ("Builder", "build_serialized_network") in names
    assert ("IExecutionContext", "execute_async_v3") in names
    assert ("trt", "OnnxParser") in names
    assert ("BuilderFlag", "TF32") in names
    assert len(names) > 40


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_rtx"])
def test_every_name_of_tensorrt_exists(name):
    trt = package(name)
    missing = []
    for owner, attribute in sorted(used()):
        holder = trt if owner == "trt" else getattr(trt, owner, None)
        if not hasattr(holder, attribute) and not (name != "tensorrt_rtx" and (owner, attribute) in OF_RTX):
            missing.append(f"{owner}.{attribute}")
    assert missing == [] or missing == ["trt.init_libnvinfer_plugins"], missing


def test_every_name_of_tensorrt_is_in_its_bindings():
    """They cannot be imported without libraries of gigabytes; their names end with a zero byte in them."""
    found = importlib.util.find_spec("tensorrt_bindings")
    if found is None or not found.submodule_search_locations:
        pytest.skip('needs tensorrt_bindings: pip install "deploybench[names]"')
    text = (Path(found.submodule_search_locations[0]) / "tensorrt.so").read_bytes()
    missing = [pair for pair in sorted(used() - OF_RTX) if pair[1].encode() + b"\0" not in text]
    assert missing == []


def test_every_name_of_pycuda_is_in_its_source():
    """It has no wheel, and is compiled against CUDA; so this is what its module's source defines."""
    text = (FOLDER / "device.py").read_text().split("class PyCuda")[1]
    names = set(re.findall(r"self\._cu\.(\w+)", text))
    assert "memcpy_htod_async" in names
    assert names <= PYCUDA
    if importlib.util.find_spec("pycuda"):
        driver = package("pycuda.driver")
        assert [name for name in sorted(PYCUDA) if not hasattr(driver, name)] == []


def test_every_name_of_cuda_python_exists():
    driver = package("cuda.bindings.driver") if importlib.util.find_spec("cuda") else pytest.skip("needs cuda-bindings")
    text = (FOLDER / "device.py").read_text().split("class PyCuda")[0]
    names = set(re.findall(r"\"(cu[A-Z]\w+)\"|_cu\.(cu[A-Z]\w+)", text))
    flat = {one or other for one, other in names}
    assert len(flat) > 20
    assert [name for name in sorted(flat) if not hasattr(driver, name)] == []
    for enum, member in re.findall(r"_cu\.(CU\w+)\.(CU_\w+)", text):
        assert hasattr(getattr(driver, enum), member), member


def test_every_name_of_nvml_exists():
    nvml = package("pynvml")
    names = set(re.findall(r"\"?(nvml[A-Z]\w+|NVML_[A-Z_]+[A-Z])\"?", EVIDENCE.read_text()))
    assert len(names) > 15
    assert [name for name in sorted(names) if not hasattr(nvml, name)] == []


def test_the_numbers_of_nvml_are_its_own():
    from bench.evidence import gpu

    nvml = package("pynvml")
    assert (gpu._SM, gpu._MEMORY, gpu._TEMPERATURE) == (
        nvml.NVML_CLOCK_SM, nvml.NVML_CLOCK_MEM, nvml.NVML_TEMPERATURE_GPU,
    )  # fmt: skip
    assert set(gpu.SLOWED) == {
        nvml.nvmlClocksEventReasonHwSlowdown, nvml.nvmlClocksEventReasonSwThermalSlowdown,
        nvml.nvmlClocksEventReasonHwThermalSlowdown, nvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    }  # fmt: skip
    assert set(gpu.LIMITED) | set(gpu.SLOWED) | {1} == {1 << bit for bit in range(9)}
