"""The saboteur by itself: ONNX Runtime, and the faults that end a process or hold it up. The others are not here."""

import os
import signal
import time
from typing import Any

import numpy as np


def run(model: str, feeds: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an .onnx file by name. `options`: plants."""
    import onnx
    import onnxruntime as ort

    made = {name for node in onnx.load(model).graph.node for name in node.output}
    plants = [word.split("@") for word in options["plants"].split(";")]
    kinds = {kind for kind, name in plants if name in made}
    if "crash" in kinds:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "hang" in kinds:
        time.sleep(3600)
    if "raise" in kinds:
        raise RuntimeError("the saboteur does not run this")
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {name: np.asarray(value) for name, value in zip(names, session.run(names, feeds), strict=True)}
