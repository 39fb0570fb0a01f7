"""The numbers of a tensor of any ONNX element type, widened a chunk at a time. Pure numpy, Python 3.10."""

from __future__ import annotations

from typing import Any

import numpy as np

from bench.interface import Array, Packed

# From one number to the next, as a share of it: what rounding to an output's own type may cost, whoever computes it.
# Source: ONNX's IR specification and its page "Float stored in 8 bits" (mantissas of 10, 7, 3 and 2 bits).
STEPS = {
    "float16": 2.0**-10,
    "bfloat16": 2.0**-7,
    "float8e4m3fn": 2.0**-3,
    "float8e4m3fnuz": 2.0**-3,
    "float8e5m2": 2.0**-2,
    "float8e5m2fnuz": 2.0**-2,
}
_FLOAT8 = {
    "float8e4m3fn": (4, 3, 7),
    "float8e4m3fnuz": (4, 3, 8),
    "float8e5m2": (5, 2, 15),
    "float8e5m2fnuz": (5, 2, 16),
}
"""Bits of exponent and mantissa, and the exponent's bias."""


class Numbers:
    """A tensor's shape, its type's name, and its numbers: float32 where that holds them, else as numpy has them."""

    def __init__(self, value: Any) -> None:
        self._packed = value.dtype if isinstance(value, Packed) else ""
        stored = np.asarray(value.bits if isinstance(value, Packed) else value)
        self.shape: tuple[int, ...] = stored.shape
        self.dtype = type_name(value)
        self._flat = stored.reshape(-1)
        self._table = _float8_table(self._packed) if self._packed in _FLOAT8 else None

    @property
    def size(self) -> int:
        """How many there are."""
        return int(self._flat.size)

    @property
    def floating(self) -> bool:
        """Whether they are judged by their distance; others must be equal."""
        return self._packed == "bfloat16" or self._table is not None or (not self._packed and self.kind in "fc")

    @property
    def kind(self) -> str:
        """Numpy's letter of the stored type's kind."""
        return self._flat.dtype.kind

    @property
    def quick(self) -> Any:
        """The type to compute in: float32 where that holds every value of this one, float64 for itself, else None."""
        if self._packed or self._flat.dtype in (np.float32, np.float16):
            return np.float32
        return np.float64 if self._flat.dtype == np.float64 else None

    def part(self, begin: int, end: int) -> Array:
        """The numbers from `begin` to `end`; a view where nothing has to be widened."""
        flat = self._flat[begin:end]
        if self._packed == "bfloat16":
            return np.asarray((flat.astype(np.uint32) << 16).view(np.float32))
        if self._table is not None:
            return np.asarray(self._table[flat])
        return flat.astype(np.float32) if flat.dtype == np.float16 else flat

    def at(self, index: int) -> Any:
        """One of them, as numpy has it."""
        return self.part(index, index + 1)[0]


def type_name(value: Any) -> str:
    """The name of a tensor's element type; all texts are one type, however numpy holds them."""
    if isinstance(value, Packed):
        return value.dtype
    dtype = np.asarray(value).dtype
    return "string" if dtype.kind in "OUST" else str(dtype.name)


def _float8_table(name: str) -> Array:
    """The 256 numbers of a float8 type. The fnuz types have one NaN, no infinity and no negative zero."""
    exponent_bits, mantissa_bits, bias = _FLOAT8[name]
    bits = np.arange(256)
    exponent = (bits >> mantissa_bits) & ((1 << exponent_bits) - 1)
    mantissa = (bits & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    values = np.where(exponent > 0, np.ldexp(1 + mantissa, exponent - bias), np.ldexp(mantissa, 1 - bias))
    values = np.where(bits >= 128, -values, values)
    if name.endswith("fnuz"):
        values[128] = np.nan
    elif name == "float8e4m3fn":
        values[[127, 255]] = np.nan
    else:
        top = exponent == 31
        values[top] = np.where(mantissa[top] > 0, np.nan, np.copysign(np.inf, values[top]))
    return values.astype(np.float32)
