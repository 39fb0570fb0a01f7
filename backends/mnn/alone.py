"""MNN and its converter by themselves: what a reproducer carries along. Nothing of this project is imported."""

import importlib
import os
import tempfile
from typing import Any

import numpy as np

WINOGRAD_MEMORY_LEVEL = 3


def run(model: str, feeds: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an .onnx file by name: converted, then run in a session. `options`: threads, winograd, memory.

    The native converter is called, not the console script: that would install another package and report home.
    """
    tools = importlib.import_module("_tools")
    import MNN

    print(f"MNN {MNN.version()}")
    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "model.mnn")
        tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", model, "--MNNModel", target, "--bizCode", "x"])
        if not os.path.isfile(target):
            raise RuntimeError("MNN's converter made nothing of it")
        interpreter = MNN.Interpreter(target)
    interpreter.setSessionHint(WINOGRAD_MEMORY_LEVEL, int(options.get("winograd", 3)))
    wanted = {"backend": "CPU", "numThread": options.get("threads", 1)}
    wanted["precision"] = "low" if options.get("precision") == "fp16" else "high"
    wanted |= {name: options[name] for name in ("memory", "power") if name in options}
    session = interpreter.createSession(wanted)
    inputs = interpreter.getSessionInputAll(session)
    for name, array in feeds.items():
        if name in inputs and tuple(inputs[name].getShape()) != array.shape:
            interpreter.resizeTensor(inputs[name], array.shape)
    interpreter.resizeSession(session)
    for name, array in feeds.items():
        if name in inputs:
            inputs[name].copyFrom(_tensor(MNN, inputs[name], array))
    code = interpreter.runSession(session)
    if code != 0:
        raise RuntimeError(f"MNN cannot run it (code {code})")
    return {name: _values(MNN, tensor) for name, tensor in interpreter.getSessionOutputAll(session).items()}


def _kind(mnn: Any, tensor: Any) -> Any:
    kinds = {"Halide_Type_Float": np.float32, "Halide_Type_Int": np.int32, "Halide_Type_Uint8": np.uint8}
    return next((dtype for name, dtype in kinds.items() if tensor.getDataType() == getattr(mnn, name)), np.float32)


def _tensor(mnn: Any, tensor: Any, array: Any) -> Any:
    values = np.ascontiguousarray(array, _kind(mnn, tensor))
    return mnn.Tensor(values.shape, tensor.getDataType(), values, mnn.Tensor_DimensionType_Caffe)


def _values(mnn: Any, tensor: Any) -> Any:
    empty = np.zeros(tensor.getShape(), _kind(mnn, tensor))
    host = mnn.Tensor(empty.shape, tensor.getDataType(), empty, mnn.Tensor_DimensionType_Caffe)
    tensor.copyToHostTensor(host)
    return np.array(host.getNumpyData())
