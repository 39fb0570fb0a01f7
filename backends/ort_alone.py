"""ONNX Runtime by itself: what a reproducer carries along. Nothing of this project is imported."""

from typing import Any

import numpy as np

LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}


def run(model: str, feeds: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The outputs of an .onnx file by name. `options`: threads, and how the graph is optimised and run."""
    import onnxruntime as ort

    print(f"onnxruntime {ort.__version__}")
    made = ort.SessionOptions()
    made.intra_op_num_threads = options.get("threads", 1)
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[options.get("optimization", "all")])
    if options.get("execution") == "parallel":
        made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if options.get("custom_ops"):
        made.register_custom_ops_library(options["custom_ops"])
    session = ort.InferenceSession(model, made, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return {name: np.asarray(value) for name, value in zip(names, session.run(names, feeds), strict=True)}
