"""The fake device's operators: ONNX semantics in a few lines of numpy each, or a refusal.

`make` gets a node's attributes and the opset, and returns the function that computes it; it raises ValueError for an
attribute's value that it does not honour. `program.py` checks names and counts before. Nothing here knows about graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from bench.interface import Array

Attributes = Mapping[str, Any]
Compute = Callable[..., Array]

# TensorProto.DataType numbers of the types numpy has. Source: onnx.proto, IR version 13.
CAST_TYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}


@dataclass(frozen=True, slots=True)
class Operator:
    """How to compute one operator: which attributes it honours, and how many inputs it takes (at least, at most)."""

    make: Callable[[Attributes, int], Compute]
    attributes: tuple[str, ...] = ()
    inputs: tuple[int, int] = (1, 1)


def _simple(compute: Compute, inputs: int = 1) -> Operator:
    return Operator(lambda attributes, opset: compute, inputs=(inputs, inputs))


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):
        # ONNX rounds towards zero, numpy's // downwards.
        return np.asarray((a - np.fmod(a, b)) // b)
    return np.asarray(np.divide(a, b))


def _sigmoid(x: Array) -> Array:
    # Written with exp of a negative number, so that it cannot overflow.
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, x.dtype.type(1), small) / (1 + small))


def _gemm(attributes: Attributes, opset: int) -> Compute:
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    trans_a, trans_b = attributes.get("transA", 0), attributes.get("transB", 0)

    def compute(a: Array, b: Array, c: Array | None = None) -> Array:
        product = np.matmul(a.T if trans_a else a, b.T if trans_b else b)
        if alpha != 1:
            product = product * a.dtype.type(alpha)
        if c is not None:
            product = product + (c if beta == 1 else c * a.dtype.type(beta))
        return np.asarray(product)

    return compute


def _softmax(attributes: Attributes, opset: int) -> Compute:
    axis = attributes.get("axis", -1 if opset >= 13 else 1)

    def compute(x: Array) -> Array:
        # Before opset 13 everything from `axis` on was one axis.
        axes = axis if opset >= 13 else tuple(range(axis % x.ndim, x.ndim))
        powers = np.exp(x - x.max(axis=axes, keepdims=True))
        return np.asarray(powers / powers.sum(axis=axes, keepdims=True))

    return compute


def _flatten(attributes: Attributes, opset: int) -> Compute:
    axis = attributes.get("axis", 1)

    def compute(x: Array) -> Array:
        split = axis if axis >= 0 else axis + x.ndim
        return x.reshape(prod(x.shape[:split]), prod(x.shape[split:]))

    return compute


def _reshape(attributes: Attributes, opset: int) -> Compute:
    if attributes.get("allowzero", 0):
        raise ValueError("allowzero=1")

    def compute(x: Array, shape: Array) -> Array:
        return x.reshape([x.shape[i] if size == 0 else int(size) for i, size in enumerate(shape)])

    return compute


def _transpose(attributes: Attributes, opset: int) -> Compute:
    order = attributes.get("perm")
    return lambda x: np.transpose(x, order)


def _gather(attributes: Attributes, opset: int) -> Compute:
    axis = attributes.get("axis", 0)
    return lambda x, indices: np.take(x, indices, axis=axis)


def _cast(attributes: Attributes, opset: int) -> Compute:
    if attributes.get("to") not in CAST_TYPES:
        raise ValueError(f"to={attributes.get('to')} (a type that numpy lacks)")
    dtype = np.dtype(CAST_TYPES[attributes["to"]])
    return lambda x: x.astype(dtype)


def _concat(attributes: Attributes, opset: int) -> Compute:
    if "axis" not in attributes:
        raise ValueError("no axis")
    axis = attributes["axis"]
    return lambda *parts: np.concatenate(parts, axis=axis)


def _reduce_mean(attributes: Attributes, opset: int) -> Compute:
    keep = bool(attributes.get("keepdims", 1))
    given, noop = attributes.get("axes"), attributes.get("noop_with_empty_axes", 0)

    def compute(x: Array, axes: Array | None = None) -> Array:
        chosen = given if axes is None else axes.tolist()
        if not chosen and noop:
            return x
        return np.asarray(np.mean(x, axis=tuple(chosen) if chosen else None, keepdims=keep).astype(x.dtype))

    return compute


def _global_average(x: Array) -> Array:
    return np.asarray(x.mean(axis=tuple(range(2, x.ndim)), keepdims=True))


OPERATORS: Mapping[str, Operator] = {
    "Identity": _simple(lambda x: x),
    "Add": _simple(np.add, 2),
    "Sub": _simple(np.subtract, 2),
    "Mul": _simple(np.multiply, 2),
    "Div": _simple(_divide, 2),
    "Relu": _simple(lambda x: np.maximum(x, x.dtype.type(0))),
    "Sigmoid": _simple(_sigmoid),
    "Tanh": _simple(np.tanh),
    "MatMul": _simple(np.matmul, 2),
    "Gemm": Operator(_gemm, ("alpha", "beta", "transA", "transB"), (2, 3)),
    "Softmax": Operator(_softmax, ("axis",)),
    "Flatten": Operator(_flatten, ("axis",)),
    "Reshape": Operator(_reshape, ("allowzero",), (2, 2)),
    "Transpose": Operator(_transpose, ("perm",)),
    "Gather": Operator(_gather, ("axis",), (2, 2)),
    "Cast": Operator(_cast, ("to", "saturate")),  # saturate speaks of float8 only, which is refused
    "Concat": Operator(_concat, ("axis",), (1, 1 << 30)),
    "ReduceMean": Operator(_reduce_mean, ("axes", "keepdims", "noop_with_empty_axes"), (1, 2)),
    "GlobalAveragePool": _simple(_global_average),
}
