"""Frames and value trees: what travels between client, supervisor and child.

A frame is a magic, two lengths, a JSON header and raw buffers. The header describes trees of values; tensors point into
the buffers. Nothing is pickled. Runs inside workers: standard library and numpy, Python 3.10.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.errors import HostError
from bench.interface import Array, Packed, Value

MAGIC = b"\x93DBENCH\x01"
_LENGTHS = struct.Struct("<IQ")
PREFIX_BYTES = len(MAGIC) + _LENGTHS.size
MAX_HEADER_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 36
# A login shell may print a banner before our first byte; more than this is not a banner.
MAX_SKIPPED_BYTES = 1 << 20
_NUMERIC = frozenset("?bBhHiIlLqQefdFD")


class ProtocolError(HostError):
    """Bytes that are not frames: something else prints on the link, or the two sides differ in version."""


@dataclass(frozen=True)
class Frame:
    """One message: a JSON object and the buffers that its trees point into."""

    header: dict[str, Any]
    body: bytes = field(default=b"", repr=False)


def encode(header: dict[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> bytes:
    """The frame's bytes. The buffers are those that `pack` returned for the header's trees, in the same order."""
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    size = sum(len(b) for b in buffers)
    return b"".join([MAGIC, _LENGTHS.pack(len(text), size), text, *buffers])


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames. Bytes before the first magic are skipped and kept as `skipped`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._synchronised = False
        self.skipped = b""

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete.

        Raises:
            ProtocolError: after the first frame, anything that is not a frame; before it, more than a banner's worth.
        """
        self._buffer += data
        if not self._synchronised:
            self._skip_banner()
        while (frame := self._next()) is not None:
            yield frame

    def _skip_banner(self) -> None:
        at = self._buffer.find(MAGIC)
        keep = at if at >= 0 else max(0, len(self._buffer) - len(MAGIC) + 1)
        self.skipped += bytes(self._buffer[:keep])
        del self._buffer[:keep]
        self._synchronised = at >= 0
        if len(self.skipped) > MAX_SKIPPED_BYTES:
            raise ProtocolError("the far side prints but does not speak our protocol", _tail_hint(self.skipped))

    def _next(self) -> Frame | None:
        if not self._synchronised or len(self._buffer) < PREFIX_BYTES:
            return None
        if not self._buffer.startswith(MAGIC):
            raise ProtocolError("the link carries bytes that are not ours", _tail_hint(bytes(self._buffer[:200])))
        header_bytes, body_bytes = _LENGTHS.unpack_from(self._buffer, len(MAGIC))
        if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
            raise ProtocolError(f"a frame claims {header_bytes} + {body_bytes} bytes, beyond every bound")
        end = PREFIX_BYTES + header_bytes + body_bytes
        if len(self._buffer) < end:
            return None
        text = bytes(self._buffer[PREFIX_BYTES : PREFIX_BYTES + header_bytes])
        body = bytes(memoryview(self._buffer)[PREFIX_BYTES + header_bytes : end])
        del self._buffer[:end]
        try:
            header = json.loads(text)
        except ValueError as error:
            raise ProtocolError("a frame's header is not JSON", _tail_hint(text[:200])) from error
        if not isinstance(header, dict):
            raise ProtocolError("a frame's header is not an object", _tail_hint(text[:200]))
        return Frame(header, body)


def _tail_hint(data: bytes) -> str:
    return f"it printed: {data[-200:].decode('utf-8', 'replace')!r}"


def pack(value: Value, buffers: list[bytes | memoryview]) -> dict[str, Any]:
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
        keys = [int(k) if isinstance(k, np.integer) else str(k) if isinstance(k, np.str_) else k for k in value]
        return {"kind": "map", "keys": keys, "items": [pack(item, buffers) for item in value.values()]}
    if isinstance(value, (bool, int, float, str)):
        # What maps hold (ZipMap's probabilities): Python scalars, kept apart from rank-0 tensors.
        if isinstance(value, float) and not math.isfinite(value):
            return {"kind": "scalar", "text": repr(value)}
        return {"kind": "scalar", "value": value}
    raise TypeError(f"a value of type {type(value).__name__} is no ONNX value")


def _pack_array(array: Array, buffers: list[bytes | memoryview]) -> dict[str, Any]:
    shape = list(array.shape)
    if array.dtype.kind in "OUST":
        texts = [t.decode() if isinstance(t, bytes) else str(t) for t in array.ravel().tolist()]
        blobs = [t.encode("utf-8", "surrogatepass") for t in texts]
        buffers.append(b"".join(blobs))
        return {"kind": "tensor", "dtype": "string", "shape": shape, "lengths": [len(b) for b in blobs]}
    if array.dtype.char not in _NUMERIC:
        raise TypeError(f"a tensor of type {array.dtype} cannot travel")
    plain = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    buffers.append(memoryview(plain.reshape(-1)).cast("B") if plain.size else b"")
    return {"kind": "tensor", "dtype": array.dtype.name, "shape": shape}


class Unpacker:
    """Reads the trees of one frame, in the order in which they were packed. Arrays own their memory and may be written to."""

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = memoryview(body)
        self._at = 0

    def value(self, tree: dict[str, Any]) -> Any:
        """The value of a tree.

        Raises:
            ProtocolError: the tree and the buffers do not fit together.
        """
        try:
            return self._value(tree)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError(f"a value tree does not fit its buffers ({error})") from error

    def _value(self, tree: dict[str, Any]) -> Any:
        kind = tree["kind"]
        if kind == "none":
            return None
        if kind == "sequence":
            return [self._value(item) for item in tree["items"]]
        if kind == "map":
            return {key: self._value(item) for key, item in zip(tree["keys"], tree["items"], strict=True)}
        if kind == "scalar":
            return float(tree["text"]) if "text" in tree else tree["value"]
        array = self._string(tree) if tree["dtype"] == "string" else self._array(tree)
        return Packed(tree["packed"], array) if "packed" in tree else array

    def _take(self, size: int) -> memoryview:
        part = self._body[self._at : self._at + size]
        if size < 0 or len(part) != size:
            raise ValueError("buffer too short")
        self._at += size
        return part

    def _array(self, tree: dict[str, Any]) -> Array:
        dtype = np.dtype(tree["dtype"])
        if dtype.char not in _NUMERIC:
            raise ValueError(f"dtype {dtype}")
        shape = tuple(int(d) for d in tree["shape"])
        size = dtype.itemsize * math.prod(shape)
        return np.frombuffer(self._take(size), dtype=dtype).reshape(shape).copy()

    def _string(self, tree: dict[str, Any]) -> Array:
        texts = [bytes(self._take(n)).decode("utf-8", "surrogatepass") for n in tree["lengths"]]
        array = np.empty(len(texts), dtype=object)
        array[:] = texts
        return array.reshape(tuple(tree["shape"]))
