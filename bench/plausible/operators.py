"""What one operator computes, from its shapes: multiply-adds of the direct algorithm, and the least that any needs.

The least leaves out
- taps that fall into the padding, and weights that are zero (sparse kernels);
- what fast convolutions save. A bilinear algorithm needs as many products as it has inputs, outputs or weights,
  whichever is most (the rank of a tensor is at least each of its dimensions). For 3x3 that is one ninth; the best in
  use, Winograd's F(6x6, 3x3), reaches 1/5.06, and FFTs end at 1/6. Large kernels, strides, dilations and depthwise
  convolutions follow the same rule. Source: Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray,
  Fast Algorithms for Convolutional Neural Networks (2015).
- what fast matrix products save: one eighth per level of Strassen's. MNN uses up to five levels for matrix products and
  1x1 convolutions (Source: MNN 3, source/backend/cpu/compute/StrassenMatmulComputor.hpp, maxDepth); nobody more.
- half of a product of two computed matrices: a kernel that knows a causal mask leaves the other half out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import helper

Shape = tuple[int, ...]
_STRASSEN_LEVELS, _STRASSEN_LEAF = 5, 4


@dataclass(frozen=True, slots=True)
class Scope:
    """What is known where a node stands: shapes, and of what is constant the share that is not zero."""

    shapes: dict[str, Shape]
    constants: dict[str, float]


Counter = Callable[[Any, Scope], tuple[int, float]]
"""The multiply-adds of a node, and the least of them. Raises KeyError where a shape is not known."""


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _strassen(rows: int, inner: int, columns: int) -> float:
    """The share of the products of a matrix product that the deepest recursion in use leaves."""
    smallest = min(rows, inner, columns)
    levels = int(math.log2(smallest / _STRASSEN_LEAF)) if smallest >= _STRASSEN_LEAF else 0
    return float((7 / 8) ** min(levels, _STRASSEN_LEVELS))


def _product(rows: int, inner: int, columns: int, *, density: float | None, times: int = 1) -> tuple[int, float]:
    """`times` products of [rows, inner] with [inner, columns]; `density` is None where both are computed."""
    macs = times * rows * inner * columns
    return macs, macs * _strassen(rows, inner, columns) * (0.5 if density is None else density)


def _matmul(a: int, b: int) -> Counter:
    def counter(node: Any, scope: Scope) -> tuple[int, float]:
        left, right, out = (scope.shapes[n] for n in (node.input[a], node.input[b], node.output[0]))
        columns = right[-1] if len(right) > 1 else 1
        rows = math.prod(out) // max(1, columns)
        return _product(rows, left[-1], columns, density=_density_of(node, (a, b), scope))

    return counter


def _density_of(node: Any, inputs: Sequence[int], scope: Scope) -> float | None:
    constant = [scope.constants[node.input[i]] for i in inputs if node.input[i] in scope.constants]
    return min(constant, default=None)


def _gemm(node: Any, scope: Scope) -> tuple[int, float]:
    left, out = scope.shapes[node.input[0]], scope.shapes[node.output[0]]
    inner = left[0] if _attributes(node).get("transA") else left[1]
    return _product(out[0], inner, out[1], density=_density_of(node, (0, 1), scope))


def _einsum(node: Any, scope: Scope) -> tuple[int, float]:
    equation = _attributes(node)["equation"].decode().replace(" ", "")
    if "..." in equation or len(node.input) > 2:
        raise KeyError(equation)
    sizes: dict[str, int] = {}
    for labels, name in zip(equation.partition("->")[0].split(","), node.input, strict=True):
        sizes |= dict(zip(labels, scope.shapes[name], strict=True))
    if len(node.input) == 1:
        return 0, 0.0
    macs = math.prod(sizes.values())
    half = 0.5 if (density := _density_of(node, (0, 1), scope)) is None else density
    return macs, macs * half * float((7 / 8) ** _STRASSEN_LEVELS)


def _recurrent(gates: int) -> Counter:
    def counter(node: Any, scope: Scope) -> tuple[int, float]:
        taken, weights = scope.shapes[node.input[0]], scope.shapes[node.input[1]]
        given = _attributes(node)
        hidden = given.get("hidden_size") or weights[1] // gates
        steps, batch = (taken[1], taken[0]) if given.get("layout") else (taken[0], taken[1])
        each = batch * weights[0] * gates * hidden
        macs = steps * each * (taken[2] + hidden)
        shortened = len(node.input) > 4 and node.input[4]  # the lengths of sequences are data
        least = 0 if shortened else each * (steps * taken[2] + (steps - 1) * hidden)  # it may start from zeros
        density = min(scope.constants.get(name, 1.0) for name in node.input[1:3])
        return macs, least * density * float((7 / 8) ** _STRASSEN_LEVELS)

    return counter


@dataclass(frozen=True, slots=True)
class _Axis:
    """One spatial axis of a convolution, without its padding: products, and what of each side takes part in them."""

    taps: int
    images: int
    kernel: int
    outputs: int


def _axis(outputs: int, length: int, kernel: int, stride: int, dilation: int, begin: int) -> _Axis:
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel)[None, :] * dilation - begin
    inside = (at >= 0) & (at < length)
    return _Axis(
        taps=int(inside.sum()),
        images=int(np.unique(at[inside]).size),
        kernel=int(inside.any(axis=0).sum()),
        outputs=int(inside.any(axis=1).sum()),
    )


def _convolution(x: int, w: int, *, transposed: bool = False) -> Counter:
    def counter(node: Any, scope: Scope) -> tuple[int, float]:
        image, weights, out = (scope.shapes[n] for n in (node.input[x], node.input[w], node.output[0]))
        given = _attributes(node)
        group, kernel, rank = given.get("group", 1), weights[2:], len(weights) - 2
        # A transposed convolution takes the way back: its inputs stand where the outputs of one stand.
        small, large = (image[2:], out[2:]) if transposed else (out[2:], image[2:])
        strides, dilations = (given.get(name) or [1] * rank for name in ("strides", "dilations"))
        begins = _begins(given, small, large, kernel, strides, dilations)
        pairs = image[0] * weights[0] * weights[1]
        macs = pairs * math.prod(small) * math.prod(kernel)
        axes = [_axis(*facts) for facts in zip(small, large, kernel, strides, dilations, begins, strict=True)]
        most = max(
            math.prod(a.images for a in axes), math.prod(a.kernel for a in axes), math.prod(a.outputs for a in axes)
        )
        products = min(math.prod(a.taps for a in axes), most)
        inner = image[1] // group
        fast = _strassen(image[0] * math.prod(small), inner, weights[0] * weights[1] // max(1, inner))
        density = scope.constants.get(node.input[w], 1.0)
        return macs, pairs * products * fast * density

    return counter


def _begins(
    given: Mapping[str, Any],
    small: Sequence[int],
    large: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilations: Sequence[int],
) -> list[int]:
    """The padding before each axis."""
    auto = given.get("auto_pad", b"NOTSET")
    if auto == b"NOTSET" and "output_shape" not in given:
        return list(given.get("pads") or [0] * len(kernel))[: len(kernel)]
    if auto == b"VALID":
        return [0] * len(kernel)
    totals = [
        max(0, (m - 1) * s + (k - 1) * d + 1 - n)
        for m, n, k, s, d in zip(small, large, kernel, strides, dilations, strict=True)
    ]
    return [math.ceil(total / 2) if auto == b"SAME_LOWER" else total // 2 for total in totals]


COUNTERS: Mapping[str, Counter] = {
    "Conv": _convolution(0, 1),
    "FusedConv": _convolution(0, 1),
    "ConvInteger": _convolution(0, 1),
    "QLinearConv": _convolution(0, 3),
    "ConvTranspose": _convolution(0, 1, transposed=True),
    "Gemm": _gemm,
    "MatMul": _matmul(0, 1),
    "MatMulInteger": _matmul(0, 1),
    "QLinearMatMul": _matmul(0, 3),
    "Einsum": _einsum,
    "LSTM": _recurrent(4),
    "GRU": _recurrent(3),
    "RNN": _recurrent(1),
}
