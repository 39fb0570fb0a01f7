"""Frames: what the bytes between client, supervisor and child are cut into.

A frame is a magic, two lengths, a JSON header and raw buffers. Standard library only (the supervisor loads no numpy),
Python 3.10.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import HostError

MAGIC = b"\x93DBENCH\x01"
_LENGTHS = struct.Struct("<IQ")
PREFIX_BYTES = len(MAGIC) + _LENGTHS.size
MAX_HEADER_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 36
# A login shell may print a banner before our first byte; more than this is not a banner.
MAX_SKIPPED_BYTES = 1 << 20


class ProtocolError(HostError):
    """Bytes that are not frames: something else prints on the link, or the two sides differ in version."""


@dataclass(frozen=True)
class Frame:
    """One message: a JSON object and the buffers that its trees point into."""

    header: dict[str, Any]
    body: bytes = field(default=b"", repr=False)


def parts(header: dict[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> list[bytes | memoryview]:
    """The frame's bytes in pieces: large buffers are not copied. They are those that `pack` returned, in its order.

    Raises:
        ProtocolError: the header is not JSON: a value of another type, a NaN, or too deep.
    """
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a message cannot be sent as JSON ({error})") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a message of {len(text)} bytes beside its tensors is beyond every bound")
    return [MAGIC + _LENGTHS.pack(len(text), sum(len(b) for b in buffers)) + text, *buffers]


def encode(header: dict[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> bytes:
    """The frame's bytes in one piece. Raises what `parts` raises."""
    return b"".join(parts(header, buffers))


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames. What comes before the first magic is kept as `banner`."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._synchronised = False
        self._skipped = b""

    @property
    def banner(self) -> bytes:
        """Everything before the first magic."""
        return self._skipped if self._synchronised else self._skipped + bytes(self._buffer)

    @property
    def incomplete(self) -> bool:
        """Whether a frame has begun to arrive."""
        return self._synchronised and bool(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that these bytes complete.

        Raises:
            ProtocolError: after the first frame, anything that is not a frame; before it, more than a banner's worth.
        """
        self._buffer += data
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        if not self._synchronised:
            self._skip_banner()
        while (frame := self._next()) is not None:
            yield frame

    def _skip_banner(self) -> None:
        at = self._buffer.find(MAGIC)
        keep = at if at >= 0 else max(0, len(self._buffer) - len(MAGIC) + 1)
        self._skipped += bytes(self._buffer[:keep])
        del self._buffer[:keep]
        self._synchronised = at >= 0
        if len(self._skipped) > MAX_SKIPPED_BYTES:
            raise ProtocolError("the far side prints but does not speak our protocol", _tail_hint(self._skipped))

    def _next(self) -> Frame | None:
        if not self._synchronised:
            return None
        if not MAGIC.startswith(self._buffer[: len(MAGIC)]):
            raise ProtocolError("the link carries bytes that are not ours", _tail_hint(bytes(self._buffer[:200])))
        if len(self._buffer) < PREFIX_BYTES:
            return None
        header_bytes, body_bytes = _LENGTHS.unpack_from(self._buffer, len(MAGIC))
        if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
            raise ProtocolError(f"a frame claims {header_bytes} + {body_bytes} bytes, beyond every bound")
        end = PREFIX_BYTES + header_bytes + body_bytes
        if len(self._buffer) < end:
            return None
        header = _header(bytes(self._buffer[PREFIX_BYTES : PREFIX_BYTES + header_bytes]))
        body = bytes(memoryview(self._buffer)[PREFIX_BYTES + header_bytes : end])
        del self._buffer[:end]
        return Frame(header, body)


def _header(text: bytes) -> dict[str, Any]:
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a frame's header is not JSON", _tail_hint(text[:200])) from error
    if not isinstance(header, dict):
        raise ProtocolError("a frame's header is not an object", _tail_hint(text[:200]))
    return header


def _tail_hint(data: bytes) -> str:
    return f"it printed: {data[-200:].decode('utf-8', 'replace')!r}"
