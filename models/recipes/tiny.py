"""Tiny models for tests: a few KB, made in milliseconds, one for each thing that a harness or a backend can get wrong.

The reference outputs are computed by numpy in float64, apart from any runtime, and rounded to float32.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # python -I leaves this folder out

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper
from testdata import (
    Array,
    Liveness,
    Tensors,
    check_alive,
    input_generator,
    main,
    write_data_sets,
    write_model,
    write_provenance,
)

OPSET = 13
IR_VERSION = 8
"""Opset 13 is read by every converter that this project drives, and IR 8 by every runtime since 2021."""
Shape = Sequence[int | str]


@dataclass(frozen=True, slots=True)
class Tiny:
    """One model: its nodes and weights, its inputs and outputs in the model's order, and its meaning in numpy."""

    nodes: Sequence[NodeProto]
    weights: Tensors
    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    meaning: Callable[[Tensors], dict[str, Array]]
    largest_index: int | None = None
    """The inputs are int64 numbers below this; None: they are float32, standard normal."""


def _normal(rng: np.random.Generator, *shape: int, fan_in: int = 1) -> Array:
    return rng.standard_normal(shape, dtype=np.float32) * np.float32(np.sqrt(2 / fan_in))


def _double(values: Array) -> Array:
    return np.asarray(values, dtype=np.float64)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _convolve(x: Array, w: Array, b: Array, *, pad: int) -> Array:
    """Stride 1, zero padding: every patch as a row, times the filters."""
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, w.shape[2:], axis=(2, 3))
    return np.asarray(np.einsum("nchwij,ocij->nohw", patches, w) + b[:, None, None])


def _layers(rng: np.random.Generator, batch: int | str) -> Tiny:
    """Gemm, Relu, Gemm, Softmax: 16 numbers to 4 probabilities."""
    w1, b1 = _normal(rng, 16, 32, fan_in=16), _normal(rng, 32, fan_in=50)
    w2, b2 = _normal(rng, 32, 4, fan_in=128), _normal(rng, 4, fan_in=50)
    nodes = [
        helper.make_node("Gemm", ["input", "w1", "b1"], ["hidden"], name="gemm_1"),
        helper.make_node("Relu", ["hidden"], ["active"], name="relu_1"),
        helper.make_node("Gemm", ["active", "w2", "b2"], ["logits"], name="gemm_2"),
        helper.make_node("Softmax", ["logits"], ["output"], name="softmax_1", axis=1),
    ]

    def meaning(feeds: Tensors) -> dict[str, Array]:
        hidden = np.maximum(feeds["input"] @ _double(w1) + b1, 0)
        return {"output": _softmax(hidden @ _double(w2) + b2)}

    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return Tiny(nodes, weights, {"input": [batch, 16]}, {"output": [batch, 4]}, meaning)


def tiny_mlp(rng: np.random.Generator) -> Tiny:
    """The simplest classifier."""
    return _layers(rng, 1)


def tiny_dynamic(rng: np.random.Generator) -> Tiny:
    """The same with a symbolic batch `N`, which the harness must bind."""
    return _layers(rng, "N")


def tiny_cnn(rng: np.random.Generator) -> Tiny:
    """Conv, Relu, MaxPool, Conv, Relu, GlobalAveragePool, Flatten, Gemm: a 16x16 image to 10 scores."""
    w1, b1 = _normal(rng, 8, 3, 3, 3, fan_in=27), _normal(rng, 8, fan_in=50)
    w2, b2 = _normal(rng, 16, 8, 3, 3, fan_in=72), _normal(rng, 16, fan_in=50)
    w3, b3 = _normal(rng, 16, 10, fan_in=16), _normal(rng, 10, fan_in=50)
    conv: dict[str, Any] = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    nodes = [
        helper.make_node("Conv", ["input", "w1", "b1"], ["conv_1"], name="conv_1", **conv),
        helper.make_node("Relu", ["conv_1"], ["relu_1"], name="relu_1"),
        helper.make_node("MaxPool", ["relu_1"], ["pool_1"], name="pool_1", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["pool_1", "w2", "b2"], ["conv_2"], name="conv_2", **conv),
        helper.make_node("Relu", ["conv_2"], ["relu_2"], name="relu_2"),
        helper.make_node("GlobalAveragePool", ["relu_2"], ["pool_2"], name="pool_2"),
        helper.make_node("Flatten", ["pool_2"], ["features"], name="flatten_1"),
        helper.make_node("Gemm", ["features", "w3", "b3"], ["output"], name="gemm_1"),
    ]

    def meaning(feeds: Tensors) -> dict[str, Array]:
        first = np.maximum(_convolve(_double(feeds["input"]), w1, b1, pad=1), 0)
        pooled = first.reshape(1, 8, 8, 2, 8, 2).max(axis=(3, 5))
        second = np.maximum(_convolve(pooled, w2, b2, pad=1), 0)
        return {"output": second.mean(axis=(2, 3)) @ _double(w3) + b3}

    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2, "w3": w3, "b3": b3}
    return Tiny(nodes, weights, {"input": [1, 3, 16, 16]}, {"output": [1, 10]}, meaning)


def tiny_two_io(rng: np.random.Generator) -> Tiny:
    """Two inputs and two outputs of one shape: only values show a swap, and `difference` is not symmetric."""
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"], name="add_1"),
        helper.make_node("Sub", ["a", "b"], ["difference"], name="sub_1"),
    ]

    def meaning(feeds: Tensors) -> dict[str, Array]:
        a, b = _double(feeds["a"]), _double(feeds["b"])
        return {"sum": a + b, "difference": a - b}

    return Tiny(nodes, {}, {"a": [1, 8], "b": [1, 8]}, {"sum": [1, 8], "difference": [1, 8]}, meaning)


def tiny_int(rng: np.random.Generator) -> Tiny:
    """int64 tokens, looked up in an embedding, then a Gemm-free projection: an input that is not float."""
    table, w = _normal(rng, 32, 8, fan_in=2), _normal(rng, 8, 4, fan_in=8)
    nodes = [
        helper.make_node("Gather", ["table", "tokens"], ["embedded"], name="gather_1", axis=0),
        helper.make_node("MatMul", ["embedded", "w"], ["output"], name="matmul_1"),
    ]

    def meaning(feeds: Tensors) -> dict[str, Array]:
        return {"output": _double(table)[feeds["tokens"]] @ _double(w)}

    shapes: tuple[dict[str, Shape], dict[str, Shape]] = ({"tokens": [1, 6]}, {"output": [1, 6, 4]})
    return Tiny(nodes, {"table": table, "w": w}, *shapes, meaning, largest_index=32)


def tiny_large_scale(rng: np.random.Generator) -> Tiny:
    """A Gemm whose outputs are near a million: an absolute tolerance would judge it by accident."""
    w, b = _normal(rng, 16, 8, fan_in=16) * np.float32(1e6), _normal(rng, 8) * np.float32(1e5)
    nodes = [helper.make_node("Gemm", ["input", "w", "b"], ["output"], name="gemm_1")]

    def meaning(feeds: Tensors) -> dict[str, Array]:
        return {"output": feeds["input"] @ _double(w) + b}

    return Tiny(nodes, {"w": w, "b": b}, {"input": [1, 16]}, {"output": [1, 8]}, meaning)


MODELS: dict[str, Callable[[np.random.Generator], Tiny]] = {
    "tiny_mlp": tiny_mlp,
    "tiny_cnn": tiny_cnn,
    "tiny_two_io": tiny_two_io,
    "tiny_dynamic": tiny_dynamic,
    "tiny_int": tiny_int,
    "tiny_large_scale": tiny_large_scale,
}


def _feeds(tiny: Tiny, rng: np.random.Generator) -> dict[str, Array]:
    """Seeded inputs in the model's order; a symbolic dimension is 1."""
    made: dict[str, Array] = {}
    for name, dims in tiny.inputs.items():
        shape = [1 if isinstance(dim, str) else dim for dim in dims]
        integers = tiny.largest_index
        made[name] = _normal(rng, *shape, fan_in=2) if integers is None else rng.integers(0, integers, shape)
    return made


def _values(shapes: Mapping[str, Shape], dtype: int) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(name, dtype, list(shape)) for name, shape in shapes.items()]


def assembled(name: str, tiny: Tiny) -> onnx.ModelProto:
    """The model as ONNX, with all its weights inside."""
    inputs = _values(tiny.inputs, TensorProto.FLOAT if tiny.largest_index is None else TensorProto.INT64)
    weights = [numpy_helper.from_array(values, weight) for weight, values in tiny.weights.items()]
    graph = helper.make_graph(tiny.nodes, name, inputs, _values(tiny.outputs, TensorProto.FLOAT), weights)
    opsets = [helper.make_opsetid("", OPSET)]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=opsets, producer_name="deploybench")


def build(out: Path, name: str, seed: int, count: int) -> Mapping[str, Liveness]:
    """Write the files of one tiny model; the figures of its outputs."""
    tiny = MODELS[name](np.random.default_rng(seed))
    onnx.checker.check_model(write_model(out, assembled(name, tiny)), full_check=True)
    inputs = [_feeds(tiny, input_generator(seed, index)) for index in range(count)]
    outputs = [{key: v.astype(np.float32) for key, v in tiny.meaning(feeds).items()} for feeds in inputs]
    figures = check_alive(*outputs[:2])
    write_data_sets(out, list(zip(inputs, outputs, strict=True)))
    write_provenance(out, producer="numpy", version=np.__version__, settings="float64, rounded to float32", seed=seed)
    return figures


if __name__ == "__main__":
    sys.exit(main(build, sorted(MODELS)))
