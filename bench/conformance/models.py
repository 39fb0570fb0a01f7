"""The kit's own models: tiny, float32, built on the spot, with their answers in float64 numpy."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.interface import Array, Model, Signature, ValueSpec

OPSET = 13
# Of each node: operator, inputs, outputs, attributes.
Nodes = tuple[tuple[str, tuple[str, ...], tuple[str, ...], Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class KitModel:
    """A tiny float32 model: its nodes as (operator, inputs, outputs, attributes), and its answer."""

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    nodes: Nodes
    answer: Callable[[Mapping[str, Array]], dict[str, Array]]
    weights: Mapping[str, Array] = field(default_factory=dict)
    domain: str = ""

    def feeds(self, seed: int) -> dict[str, Array]:
        """Fresh feeds, never constant, the same for the same seed."""
        rng = np.random.default_rng(seed)
        return {value.name: np.asarray(rng.standard_normal(_sizes(value)), np.float32) for value in self.inputs}

    def write(self, folder: Path) -> Model:
        """The model as a file in `folder`."""
        from onnx import TensorProto, helper, numpy_helper, save_model

        def infos(values: tuple[ValueSpec, ...]) -> list[Any]:
            return [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape) for value in values]

        nodes = [
            helper.make_node(operator, reads, writes, name=f"{operator.lower()}_{index}", domain=self.domain, **extra)
            for index, (operator, reads, writes, extra) in enumerate(self.nodes)
        ]
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(nodes, self.name, infos(self.inputs), infos(self.outputs), weights)
        opsets = [helper.make_opsetid("", OPSET), *([helper.make_opsetid(self.domain, 1)] if self.domain else [])]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Model(self.name, folder, (path.name,), digest, OPSET, Signature(self.inputs, self.outputs))


def _sizes(value: ValueSpec) -> tuple[int, ...]:
    return tuple(size for size in value.shape or () if size is not None)


def _spec(name: str, *shape: int) -> ValueSpec:
    return ValueSpec(name, "float32", shape)


def _mlp(name: str, batch: int) -> KitModel:
    rng = np.random.default_rng(7)
    w1, b1, w2, b2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (16,), (4, 16), (4,)))

    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        hidden = np.maximum(feeds["x"].astype(np.float64) @ w1.T.astype(np.float64) + b1, 0)
        return {"y": hidden @ w2.T.astype(np.float64) + b2}

    nodes: Nodes = (
        ("Gemm", ("x", "w1", "b1"), ("h",), {"transB": 1}),
        ("Relu", ("h",), ("r",), {}),
        ("Gemm", ("r", "w2", "b2"), ("y",), {"transB": 1}),
    )
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return KitModel(name, (_spec("x", batch, 8),), (_spec("y", batch, 4),), nodes, answer, weights)


def _two_inputs() -> KitModel:
    # Names against the alphabet, and answers that change when inputs or outputs are swapped.
    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        left, right = feeds["right"].astype(np.float64), feeds["left"].astype(np.float64)
        return {"minus": left - right, "blend": (left + right) * left}

    nodes: Nodes = (
        ("Sub", ("right", "left"), ("minus",), {}),
        ("Add", ("right", "left"), ("sum",), {}),
        ("Mul", ("sum", "right"), ("blend",), {}),
    )
    shape = (1, 6)
    inputs = (_spec("right", *shape), _spec("left", *shape))
    return KitModel("two_inputs", inputs, (_spec("minus", *shape), _spec("blend", *shape)), nodes, answer)


def _conv() -> KitModel:
    weight = np.random.default_rng(11).standard_normal((4, 3, 3, 3)).astype(np.float32)

    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        padded = np.pad(feeds["image"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return {"map": np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64)), 0)}

    nodes: Nodes = (
        ("Conv", ("image", "w"), ("c",), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ("c",), ("map",), {}),
    )
    # Height and width differ, so that a swap shows.
    return KitModel("conv", (_spec("image", 1, 3, 5, 7),), (_spec("map", 1, 4, 5, 7),), nodes, answer, {"w": weight})


def _flatten() -> KitModel:
    # The answer is the feed's own bytes: a runtime that saves the copy hands the feed back.
    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"row": feeds["block"].reshape(1, 24).astype(np.float64)}

    nodes: Nodes = (("Flatten", ("block",), ("row",), {"axis": 1}),)
    return KitModel("flatten", (_spec("block", 1, 2, 3, 4),), (_spec("row", 1, 24),), nodes, answer)


def _unknown() -> KitModel:
    nodes: Nodes = (("Frobnicate", ("x",), ("y",), {}),)
    values = (_spec("x", 1, 4),), (_spec("y", 1, 4),)
    return KitModel("unknown", *values, nodes, lambda feeds: {}, domain="org.example.unknown")


MLP, TWO_INPUTS, BATCH, CONV, FLATTEN = _mlp("mlp", 1), _two_inputs(), _mlp("batch", 2), _conv(), _flatten()
UNKNOWN = _unknown()
KIT = (MLP, CONV, TWO_INPUTS, BATCH, FLATTEN)
