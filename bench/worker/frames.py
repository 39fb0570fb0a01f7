"""Frames: what the bytes between client, supervisor and child are cut into.

A frame is a magic, two lengths, a JSON header and raw buffers. Standard library only (the supervisor loads no numpy),
Python 3.10.
"""

from __future__ import annotations

import json
import os
import struct
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from bench.errors import HostError

MAGIC = b"\x93DBENCH\x01"
_LENGTHS = struct.Struct("<IQ")
PREFIX_BYTES = len(MAGIC) + _LENGTHS.size
READ_BYTES = 1 << 20
IOV_MAX = 1024
FIRST_BYTES = 3 << 18
ZEROS = memoryview(bytes(READ_BYTES))
# A pipe is locked while it is written to: its reader begins when a piece is in it. Larger and smaller ones are slower.
PIECE_BYTES = 1 << 18
MAX_HEADER_BYTES = 64 << 20
MAX_BODY_BYTES = 1 << 36
# A login shell may print a banner before our first byte; more than this is not a banner.
MAX_SKIPPED_BYTES = 1 << 20

Body = bytes | bytearray


class ProtocolError(HostError):
    """Bytes that are not frames: something else prints on the link, or the two sides differ in version."""


@dataclass(frozen=True)
class Frame:
    """One message: a JSON object and the buffers that its trees point into.

    `follows`: how long a body is that its reader left where it was.
    """

    header: dict[str, Any]
    body: Body = field(default=b"", repr=False)
    follows: int = 0


def parts(
    header: dict[str, Any], buffers: Sequence[bytes | memoryview] = (), follows: int = 0
) -> list[bytes | memoryview]:
    """The frame's bytes in pieces: large buffers are not copied. They are those that `pack` returned, in its order.

    `follows`: so many bytes more are sent behind them.

    Raises:
        ProtocolError: the header is not JSON: a value of another type, a NaN, or too deep.
    """
    try:
        text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"a message cannot be sent as JSON ({error})") from error
    if len(text) > MAX_HEADER_BYTES:
        raise ProtocolError(f"a message of {len(text)} bytes beside its tensors is beyond every bound")
    return [MAGIC + _LENGTHS.pack(len(text), sum(len(b) for b in buffers) + follows) + text, *buffers]


def encode(header: dict[str, Any], buffers: Sequence[bytes | memoryview] = ()) -> bytes:
    """The frame's bytes in one piece. Raises what `parts` raises."""
    return b"".join(parts(header, buffers))


class Pieces:
    """What is left to write of a frame. Its pieces are written together: a header alone would be a message of its own.

    Over ssh that costs a packet.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview] = ()) -> None:
        self._left = deque[memoryview]()
        self.add(pieces)

    def __bool__(self) -> bool:
        return bool(self._left)

    def add(self, pieces: Iterable[bytes | memoryview]) -> None:
        """More to write behind it."""
        self._left += [memoryview(piece) for piece in pieces if len(piece)]

    def next(self) -> list[memoryview]:
        """What to write next."""
        taken: list[memoryview] = []
        room = PIECE_BYTES
        for piece in islice(self._left, IOV_MAX):
            taken.append(piece[:room])
            room -= len(taken[-1])
            if not room:
                break
        return taken

    def written(self, size: int) -> None:
        """So many bytes of that are out."""
        while self._left and size >= len(self._left[0]):
            size -= len(self._left.popleft())
        if size:
            self._left[0] = self._left[0][size:]


class Decoder:
    """Turns a stream of bytes, cut anywhere, into frames. What comes before the first magic is kept as `banner`.

    `bodies`: False leaves them where they are, and a frame says what follows it. It must then be given no more than the
    `wanted` bytes at a time, else a part of a body would be here already.
    """

    def __init__(self, bodies: bool = True) -> None:
        self._bodies = bodies
        self._head = bytearray()
        """What has no header yet: before the first magic all that came, then a frame's prefix and header."""
        self._rest = memoryview(b"")
        """What came last and is not taken yet."""
        self._header: dict[str, Any] | None = None
        self._body = bytearray()
        self._have = self._missing = 0
        self._synchronised = False
        self._skipped = b""

    @property
    def banner(self) -> bytes:
        """Everything before the first magic."""
        return self._skipped if self._synchronised else self._skipped + bytes(self._head)

    @property
    def incomplete(self) -> bool:
        """Whether a frame has begun to arrive."""
        return self._synchronised and (self._header is not None or bool(self._head) or bool(self._rest))

    @property
    def wanted(self) -> int:
        """How many bytes the header lacks, as far as is known by now."""
        have = len(self._head)
        if have < PREFIX_BYTES:
            return PREFIX_BYTES - have
        return PREFIX_BYTES + int(_LENGTHS.unpack_from(self._head, len(MAGIC))[0]) - have

    def place(self) -> memoryview:
        """Where the next bytes of a body go; of length 0 where no body is awaited."""
        if self._missing and self._have == len(self._body):
            # No more than a little beyond what came: a length is only a claim.
            more = min(self._missing, READ_BYTES if self._body else FIRST_BYTES)
            if self._body:
                self._body += ZEROS[:more]  # where it is, if it can grow there
            else:
                self._body = bytearray(more)
        return memoryview(self._body)[self._have :]

    def placed(self, size: int) -> None:
        """So many bytes have been put there."""
        self._have += size
        self._missing -= size

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames that these bytes complete. Once they have been taken, nothing of `data` is referred to.

        Raises:
            ProtocolError: after the first frame, anything that is not a frame; before it, more than a banner's worth.
        """
        self._rest = memoryview(b"".join((self._rest, data)) if self._rest else data)
        return self._frames()

    def _frames(self) -> Iterator[Frame]:
        if not self._synchronised:
            self._skip_banner()
        while self._synchronised and self._take_head() and self._take_body():
            header, body, follows = self._header, self._body, self._missing
            self._header, self._body, self._have, self._missing = None, bytearray(), 0, 0
            assert header is not None
            yield Frame(header, body, follows)

    def _skip_banner(self) -> None:
        self._head += self._rest
        self._rest = memoryview(b"")
        at = self._head.find(MAGIC)
        keep = at if at >= 0 else max(0, len(self._head) - len(MAGIC) + 1)
        self._skipped += bytes(self._head[:keep])
        del self._head[:keep]
        self._synchronised = at >= 0
        if self._synchronised:
            self._rest, self._head = memoryview(bytes(self._head)), bytearray()
        if len(self._skipped) > MAX_SKIPPED_BYTES:
            raise ProtocolError("the far side prints but does not speak our protocol", _tail_hint(self._skipped))

    def _take_head(self) -> bool:
        """Whether the next frame's prefix and header are there."""
        if self._header is not None:
            return True
        self._move(PREFIX_BYTES)
        if not MAGIC.startswith(self._head[: len(MAGIC)]):
            seen = bytes(self._head) + bytes(self._rest[:200])
            raise ProtocolError("the link carries bytes that are not ours", _tail_hint(seen[:200]))
        if len(self._head) < PREFIX_BYTES:
            return False
        header_bytes, body_bytes = _LENGTHS.unpack_from(self._head, len(MAGIC))
        if header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
            raise ProtocolError(f"a frame claims {header_bytes} + {body_bytes} bytes, beyond every bound")
        self._move(PREFIX_BYTES + header_bytes)
        if len(self._head) < PREFIX_BYTES + header_bytes:
            return False
        self._header, self._missing = _header(bytes(self._head[PREFIX_BYTES:])), body_bytes
        self._head.clear()
        return True

    def _move(self, size: int) -> None:
        """As much of what came last as the head needs to be so long."""
        wanted = max(0, size - len(self._head))
        self._head += self._rest[:wanted]
        self._rest = self._rest[wanted:]

    def _take_body(self) -> bool:
        """Whether the body is whole, or stays where it is."""
        while self._rest and (place := self.place()):
            part = self._rest[: len(place)]
            place[: len(part)] = part
            self.placed(len(part))
            self._rest = self._rest[len(part) :]
            del place  # what is looked into cannot grow
        return not (self._bodies and self._missing)


class Intake:
    """Reads frames, the rest of a body straight to its place.

    New room for every read costs more than the bytes: the kernel gives it page by page (a read of 600 KB took 330 us,
    into kept room 81 us; measured on a 2-core x86-64 virtual machine, 2026-11).
    """

    def __init__(self) -> None:
        self.decoder = Decoder()
        self._room = memoryview(bytearray(READ_BYTES))

    def read(self, fd: int) -> list[Frame] | None:
        """The frames that are complete with what is there by now; None at the end.

        Raises what `os.read` and `Decoder.feed` raise.
        """
        place = self.decoder.place()
        size = os.readv(fd, [place, self._room])
        placed = min(size, len(place))
        self.decoder.placed(placed)
        del place  # what is looked into cannot grow
        return [*self.decoder.feed(self._room[: size - placed])] if size else None


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
