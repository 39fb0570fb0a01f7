"""A program: convert one ONNX model with MNN's native converter, then run the result once, and report both.

    python -I converter.py MODEL.onnx OUT.mnn REPORT.json '{"input": [1, 3, 224, 224]}'

It is a process of its own because the converter prints, crashes and never fails in words: it returns True for a missing
input too. MNN's own console scripts are not used: they install a package and report home; the hook below is set before
anything of MNN is imported and refuses whatever could do so. Standard library, numpy and MNN; nothing of this project.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

_REFUSED = (
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostby",
    "socket.sendto",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.spawn",
)


def refuse_network_and_processes(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook: no connection and no process is started from here."""
    if event.startswith(_REFUSED):
        raise PermissionError(f"the converter tried {event}")


def convert(source: str, target: str) -> bool:
    """Whether a file was made; the converter's own answer is worth nothing."""
    # Its module has no better name; MNN.tools would bring the scripts along.
    tools = importlib.import_module("_tools")
    Path(target).unlink(missing_ok=True)
    tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", target, "--bizCode", "x"])
    return os.path.isfile(target) and os.path.getsize(target) > 0


def run_once(target: str, shapes: dict[str, list[int]]) -> dict[str, Any]:
    """Load the file and run it on ones: what went wrong, and the names and shapes that MNN has.

    Zeros would do but for whole numbers, by which something may be divided: that ends the process.
    """
    import MNN
    import numpy as np

    interpreter = MNN.Interpreter(target)
    session = interpreter.createSession({"numThread": 1, "precision": "high", "backend": "CPU"})
    inputs = interpreter.getSessionInputAll(session)
    for name in inputs:
        if name in shapes and tuple(inputs[name].getShape()) != tuple(shapes[name]):
            interpreter.resizeTensor(inputs[name], tuple(shapes[name]))
    interpreter.resizeSession(session)
    kinds = {"float32": MNN.Halide_Type_Float, "int32": MNN.Halide_Type_Int, "uint8": MNN.Halide_Type_Uint8}
    for tensor in inputs.values():
        dtype = next((name for name, kind in kinds.items() if tensor.getDataType() == kind), "float32")
        ones = np.ones(tensor.getShape(), dtype)
        tensor.copyFrom(MNN.Tensor(ones.shape, tensor.getDataType(), ones, MNN.Tensor_DimensionType_Caffe))
    code = interpreter.runSession(session)
    outputs = interpreter.getSessionOutputAll(session)
    return {
        "problem": f"code {code}" if code else "",
        "inputs": sorted(inputs),
        "outputs": {name: list(tensor.getShape()) for name, tensor in outputs.items()},
    }


def main(source: str, target: str, report: str, shapes: str) -> int:
    sys.addaudithook(refuse_network_and_processes)
    if not convert(source, target):
        return 3
    try:
        said = run_once(target, json.loads(shapes))
    except Exception as error:  # noqa: BLE001 - MNN raises nothing else
        said = {"problem": str(error)}
    Path(report).write_text(json.dumps(said), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
