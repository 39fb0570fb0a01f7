"""An example backend for deploybench, whole: dense networks (Gemm, MatMul, Add, Relu, Softmax) in numpy."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import LoadError, PrepareError, RunError, UnsupportedModel, UsageError
from bench.interface import (
    Artifact,
    Backend,
    Feeds,
    Model,
    Option,
    Options,
    OptionValue,
    Outputs,
    Placement,
    Probe,
    Session,
    Target,
    Tools,
)

FORMAT = 1  # of the two files below; raise it when they change, because it is part of the cache key
GEMM = {"transA": 0, "transB": 0, "alpha": 1.0, "beta": 1.0}
HONOURED = {"Gemm": GEMM, "MatMul": {}, "Add": {}, "Relu": {}, "Softmax": {"axis": -1}}


def softmax(x: Any, axis: int, stable: bool) -> Any:
    powers = np.exp(x - x.max(axis=axis, keepdims=True) if stable else x)
    return powers / powers.sum(axis=axis, keepdims=True)


def gemm(a: Any, b: Any, c: Any, transA: int, transB: int, alpha: float, beta: float) -> Any:
    return alpha * ((a.T if transA else a) @ (b.T if transB else b)) + beta * c


class MlpSession(Session):
    """Runs the steps in order. `run` returns fresh arrays: the caller owns them."""

    def __init__(self, steps: list[Any], weights: dict[str, Any], outputs: list[str], stable: bool) -> None:
        self._steps, self._weights, self._outputs, self._stable = steps, weights, outputs, stable

    def run(self, feeds: Feeds) -> Outputs:
        values: dict[str, Any] = {"": np.float32(0), **self._weights, **feeds}
        try:
            for operator, reads, writes, extra in self._steps:
                given = [values[name] for name in reads]
                if operator == "Gemm":
                    values[writes] = gemm(*[*given, np.float32(0)][:3], **extra)
                elif operator == "Softmax":
                    values[writes] = softmax(given[0], extra["axis"], self._stable)
                elif operator == "Relu":
                    values[writes] = np.maximum(given[0], 0)
                else:
                    values[writes] = given[0] @ given[1] if operator == "MatMul" else given[0] + given[1]
        except ValueError as error:  # numpy's word for shapes that do not fit: mapped in one place
            raise RunError(f"{operator} that makes {writes!r} failed: {error}") from error
        return {name: np.array(values[name]) for name in self._outputs}

    def placement(self) -> Placement:
        return Placement("cpu", "model", {"numpy": len(self._steps)})


class NumpyMlp(Backend):
    name = "numpy-mlp"
    install = "pip install deploybench-numpy-mlp"
    distributions = ("numpy",)
    prepares = "host"  # where `prepare` runs: here it needs onnx, which the device need not have
    options = (Option("stable_softmax", "subtract the maximum before exp", True, "bool"),)

    def probe(self) -> Probe:
        return Probe(True, np.__version__, devices=("cpu",), runtimes={"numpy": np.__version__})

    def prepare_key(self, model: Model, options: Options, target: Target) -> dict[str, OptionValue]:
        return {"format": FORMAT}

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        import onnx  # heavy: inside the function

        _check_precision(options)
        try:
            graph = onnx.load(model.path).graph
        except Exception as error:
            raise PrepareError(f"{model.path.name} is not an ONNX file: {error}") from error
        steps = [_step(node, model.opset) for node in graph.node]
        weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        (workdir / "steps.json").write_text(json.dumps({"steps": steps, "weights": list(weights)}))
        np.savez(workdir / "weights.npz", *weights.values())
        return Artifact(workdir, ("steps.json", "weights.npz"), model.signature)

    def load(self, artifact: Artifact, options: Options) -> Session:
        _check_precision(options)
        try:
            described = json.loads(artifact.path.read_text())
            with np.load(artifact.root / "weights.npz") as stored:
                weights = dict(zip(described["weights"], stored.values(), strict=True))
        except Exception as error:  # whatever a damaged file provokes
            raise LoadError(f"{artifact.path.name} or its weights are damaged: {error!r}") from error
        outputs = [value.name for value in artifact.signature.outputs]
        return MlpSession(described["steps"], weights, outputs, bool(options.extra.get("stable_softmax", True)))


def _check_precision(options: Options) -> None:
    if options.precision != "model":  # nothing falls back silently
        raise UsageError(f"numpy-mlp has no precision {options.precision!r}", "it has: model")


def _step(node: Any, opset: int) -> tuple[str, list[str], str, dict[str, Any]]:
    import onnx

    extra = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    known = not node.domain and node.op_type in HONOURED and not set(extra) - set(HONOURED[node.op_type])
    if not known or (node.op_type == "Softmax" and opset < 13):  # until 13, Softmax flattened all axes from its own on
        raise UnsupportedModel(f"numpy-mlp cannot compute {node.op_type} (node {node.name!r}, attributes {extra})")
    return node.op_type, list(node.input), node.output[0], {**HONOURED[node.op_type], **extra}
