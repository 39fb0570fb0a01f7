"""ONNX Runtime with faults planted into single nodes: what a search for a culprit has to find.

The option `plants` lists them as KIND@TENSOR, separated by `;`: the node that makes TENSOR is changed wherever it runs,
in the whole model as in any part of it. `KINDS` are changes of its arithmetic, `TROUBLES` ways to fail.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from typing import Any

import numpy as np

from backends.ort import OrtCpu
from bench.errors import RunError, UnsupportedModel
from bench.interface import Artifact, Option, Options, Session

KINDS = ("weight", "epsilon", "padding", "activation", "transpose", "dtype")
TROUBLES = ("unsupported", "crash", "hang", "raise", "random", "fused", "nan", "ulp")
OTHER = {
    "Relu": ("LeakyRelu", {"alpha": 0.1}),
    "Sigmoid": ("HardSigmoid", {"alpha": 0.25}),
    "Tanh": ("Softsign", {}),
    "Erf": ("Tanh", {}),
}
NORMS = ("BatchNormalization", "LayerNormalization", "InstanceNormalization")
PADDED = ("Conv", "MaxPool", "AveragePool")
WEIGHED = ("Conv", "Gemm", "MatMul", "BatchNormalization", "LayerNormalization")


def parse(text: str) -> list[tuple[str, str]]:
    return [(kind, name) for kind, _, name in (word.partition("@") for word in text.split(";") if word)]


def possible(node: Any, weights: Any) -> list[str]:
    """The kinds of plants that a node can take; `weights` are the initializers by name."""
    found = []
    weighed = len(node.input) > 1 and node.op_type in WEIGHED and node.input[1] in weights
    if weighed:
        found.append("weight")
        if weights[node.input[1]].dims[-2:] and len(weights[node.input[1]].dims) >= 2:
            a, b = weights[node.input[1]].dims[-2:]
            found += ["transpose"] if a == b and a > 1 else []
    if node.op_type in NORMS:
        found.append("epsilon")
    if node.op_type in PADDED and min(pads(node)[:1], default=0) > 0:
        found.append("padding")
    if node.op_type in OTHER:
        found.append("activation")
    return [*found, "dtype"] if found or node.op_type in ("Add", "Mul", "Softmax", "Concat") else []


def pads(node: Any) -> list[int]:
    found = next((list(a.ints) for a in node.attribute if a.name == "pads"), [])
    return found if len(found) == 4 and found[0] > 0 and found[1] > 0 else []


def plant(proto: Any, kind: str, name: str) -> bool:
    """Change the node that makes the tensor, where the model has it; whether it has."""
    graph = proto.graph
    node = next((n for n in graph.node if name in n.output), None)
    if node is None:
        return False
    if kind == "fused":
        made_for = any(name in n.input for n in graph.node) and all(o.name != name for o in graph.output)
        if made_for:
            _weight(graph, node, lambda w: w * 1.2)
    elif kind == "weight":
        spread = np.random.default_rng(0)
        _weight(graph, node, lambda w: (w * (1 + 0.1 * spread.standard_normal(w.shape))).astype(w.dtype))
    elif kind == "transpose":
        _weight(graph, node, lambda w: np.ascontiguousarray(np.swapaxes(w, -1, -2)))
    elif kind == "epsilon":
        _attribute(node, "epsilon", 0.1)
    elif kind == "padding":
        top, left, bottom, right = pads(node)
        _attribute(node, "pads", [top - 1, left - 1, bottom + 1, right + 1])
    elif kind == "activation":
        node.op_type, extra = OTHER[node.op_type]
        for key, value in extra.items():
            _attribute(node, key, value)
    elif kind in ("dtype", "ulp"):
        _rounded(proto, node, kind)
    return True


def _attribute(node: Any, name: str, value: Any) -> None:
    from onnx import helper

    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _weight(graph: Any, node: Any, change: Any) -> None:
    """The node alone gets other weights: a copy under another name."""
    from onnx import numpy_helper

    old = next(t for t in graph.initializer if t.name == node.input[1])
    new = numpy_helper.from_array(change(numpy_helper.to_array(old)).astype(np.float32), f"{old.name}__planted")
    graph.initializer.append(new)
    node.input[1] = new.name


def _rounded(proto: Any, node: Any, kind: str) -> None:
    """What the node makes passes through a narrower type: bfloat16, or whole sixteenths before opset 13 had that."""
    from onnx import TensorProto, helper, numpy_helper

    graph, name = proto.graph, node.output[0]
    casts = [("Cast", {"to": TensorProto.BFLOAT16}), ("Cast", {"to": TensorProto.FLOAT})]
    steps: list[tuple[str, dict[str, Any]]] = [*casts]
    factor = np.float32([1 + 2**-22 if kind == "ulp" else 16])
    graph.initializer.append(numpy_helper.from_array(factor, f"{name}__factor"))
    if kind == "ulp":
        steps = [("Mul", {})]
    elif proto.opset_import[0].version < 13:
        casts = [("Cast", {"to": TensorProto.INT32}), ("Cast", {"to": TensorProto.FLOAT})]
        steps = [("Mul", {}), *casts, ("Div", {})]
    at, made = list(graph.node).index(node), f"{name}__exact"
    node.output[0] = made
    for index, (op, extra) in enumerate(steps):
        last = name if index == len(steps) - 1 else f"{name}__{index}"
        inputs = [made] if op == "Cast" else [made, f"{name}__factor"]
        at, made = at + 1, last
        graph.node.insert(at, helper.make_node(op, inputs, [last], **extra))


class Troubled(Session):
    """A session that passes everything on, with what goes wrong in a run."""

    def __init__(self, inner: Session, kinds: set[str]) -> None:
        self._inner, self._kinds = inner, kinds

    def run(self, feeds):
        if "raise" in self._kinds:
            raise RunError("the saboteur does not run this")
        if "hang" in self._kinds:
            time.sleep(3600)
        got = self._inner.run(feeds)
        if "random" in self._kinds:
            noise = np.random.default_rng()
            return {k: (v * (1 + noise.normal(0, 0.1, v.shape))).astype(v.dtype) for k, v in got.items()}
        if "nan" in self._kinds:
            for value in got.values():
                value.flat[0] = np.nan
        return got

    def placement(self):
        return self._inner.placement()


class Saboteur(OrtCpu):
    name = "saboteur"
    install = ""
    opt_in = True
    local_only = True
    reference = None
    alone = "saboteur_alone"
    options = (*OrtCpu.options, Option("plants", "KIND@TENSOR, separated by ;", ""))

    def load(self, artifact: Artifact, options: Options) -> Session:
        import onnx

        proto = onnx.load(str(artifact.path))
        kinds = set()
        for kind, name in parse(str(options.extra["plants"])):
            if plant(proto, kind, name):
                kinds.add(kind)
                op = next((n.op_type for n in proto.graph.node if name in n.output), "")
                if kind == "unsupported":
                    raise UnsupportedModel(f"the saboteur has no {op}")
        if "crash" in kinds:
            os.kill(os.getpid(), signal.SIGSEGV)
        return Troubled(self._planted(proto, artifact, options), kinds & set(TROUBLES))

    def _planted(self, proto: Any, artifact: Artifact, options: Options) -> Session:
        import tempfile
        from pathlib import Path

        import onnx

        with tempfile.TemporaryDirectory() as folder:
            onnx.save(proto, str(Path(folder) / "planted.onnx"))
            return super().load(replace(artifact, root=Path(folder), files=("planted.onnx",)), options)
