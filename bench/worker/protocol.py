"""Value trees: how tensors, sequences and maps travel in frames.

A frame's header describes trees of values; tensors point into the frame's buffers. Nothing is pickled. Runs inside
workers: standard library and numpy, Python 3.10.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from bench.interface import Array, Packed
from bench.worker.frames import Body, Decoder, Frame, Intake, Pieces, ProtocolError, encode, parts

__all__ = ["Body", "Decoder", "Frame", "Intake", "Pieces", "ProtocolError", "Unpacker", "encode", "pack", "parts"]

# What memory of its own would have: kernels are slower on less.
ALIGNMENT = 16
_DTYPES = {np.dtype(c).name: np.dtype(c).newbyteorder("<") for c in "?bBhHiIlLqQefdFD"}


def pack(value: Any, buffers: list[bytes | memoryview]) -> dict[str, Any]:
    """The JSON tree of a value; its tensors' bytes are appended to `buffers`.

    Raises:
        TypeError: the value is none of the kinds that ONNX knows.
    """
    if value is None:
        return {"kind": "none"}
    if isinstance(value, Packed):
        return {**_pack_array(value.bits, buffers), "packed": value.dtype}
    if isinstance(value, (np.ndarray, np.generic)):
        return _pack_array(np.asarray(value), buffers)
    if isinstance(value, (list, tuple)):
        return {"kind": "sequence", "items": [pack(item, buffers) for item in value]}
    if isinstance(value, dict):
        keys = [_key(key) for key in value]
        return {"kind": "map", "keys": keys, "items": [pack(item, buffers) for item in value.values()]}
    if isinstance(value, (bool, int, float, str)):
        # What maps hold (ZipMap's probabilities): Python scalars, kept apart from rank-0 tensors.
        if isinstance(value, float) and not math.isfinite(value):
            return {"kind": "scalar", "text": repr(value)}
        return {"kind": "scalar", "value": value}
    raise TypeError(f"a value of type {type(value).__name__} is no ONNX value")


def _key(key: Any) -> int | str:
    """The key of a map: ONNX knows integers and strings."""
    if isinstance(key, (int, np.integer)):
        return int(key)
    if isinstance(key, str):  # numpy's too
        return str(key)
    raise TypeError(f"a map with keys of type {type(key).__name__} is no ONNX value")


def _pack_array(array: Array, buffers: list[bytes | memoryview]) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype.kind in "OUST":
        blobs = [_text(item) for item in array.ravel().tolist()]
        buffers.append(b"".join(blobs))
        return {"kind": "tensor", "dtype": "string", "shape": shape, "lengths": [len(b) for b in blobs]}
    if array.dtype.name not in _DTYPES:
        raise TypeError(f"a tensor of type {array.dtype} cannot travel")
    plain = np.ascontiguousarray(array.astype(_DTYPES[array.dtype.name], copy=False))
    buffers.append(plain.reshape(-1).view(np.uint8).data if plain.size else b"")
    return {"kind": "tensor", "dtype": array.dtype.name, "shape": shape}


def _text(item: Any) -> bytes:
    if isinstance(item, bytes):
        item.decode()  # a runtime's string that is not UTF-8 is no ONNX string
        return item
    if not isinstance(item, str):
        raise TypeError(f"a tensor of {type(item).__name__} objects cannot travel")
    return item.encode("utf-8", "surrogatepass")


class Unpacker:
    """Reads the trees of one frame, in the order in which they were packed. Arrays are the reader's to write to.

    An array that is most of a body stays where it is: new memory for 600 KB took 400 us, page by page, and a copy keeps
    nothing alive that is not needed (measured on a 2-core x86-64 virtual machine, 2026-11).
    """

    def __init__(self, body: Body) -> None:
        self._body = memoryview(body)
        self._at = 0

    def value(self, tree: dict[str, Any]) -> Any:
        """The value of a tree.

        Raises:
            ProtocolError: the tree and the buffers do not fit together.
        """
        try:
            return self._value(tree)
        except (LookupError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ProtocolError(f"a value tree does not fit its buffers ({error})") from error

    def _value(self, tree: dict[str, Any]) -> Any:
        kinds: dict[str, Callable[[dict[str, Any]], Any]] = {
            "none": lambda tree: None,
            "sequence": lambda tree: [self._value(item) for item in tree["items"]],
            "map": lambda tree: {k: self._value(item) for k, item in zip(tree["keys"], tree["items"], strict=True)},
            "scalar": lambda tree: float(tree["text"]) if "text" in tree else tree["value"],
            "tensor": self._tensor,
        }
        return kinds[tree["kind"]](tree)

    def _tensor(self, tree: dict[str, Any]) -> Any:
        array = self._string(tree) if tree["dtype"] == "string" else self._array(tree)
        return Packed(tree["packed"], array) if "packed" in tree else array

    def _take(self, size: int) -> memoryview:
        part = self._body[self._at : self._at + size]
        if size < 0 or len(part) != size:
            raise ValueError("buffer too short")
        self._at += size
        return part

    def _array(self, tree: dict[str, Any]) -> Array:
        dtype = _DTYPES[tree["dtype"]]
        shape = tuple(int(d) for d in tree["shape"])
        size = dtype.itemsize * math.prod(shape)
        array: Array = np.frombuffer(self._take(size), dtype=dtype).reshape(shape)
        stays = array.flags.writeable and 2 * size > len(self._body) and array.ctypes.data % ALIGNMENT == 0
        return array if stays else array.copy()

    def _string(self, tree: dict[str, Any]) -> Array:
        texts = [bytes(self._take(n)).decode("utf-8", "surrogatepass") for n in tree["lengths"]]
        array = np.empty(len(texts), dtype=object)
        array[:] = texts
        return array.reshape(tuple(tree["shape"]))
