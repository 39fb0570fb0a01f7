"""The near side of an upload: sends one object, goes on where a cut left it, and says how far it is.

The far side is `receive.py`.
"""

from __future__ import annotations

import errno
import json
import os
import re
import select
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.errors import HostError, Unreachable
from bench.hosts.base import Link

WORD = b"DEPLOYBENCH "
READ_BYTES = 1 << 20
# The far side gives up after 30 s without a byte, so a lock that one of ours left behind is free after that.
STALL_S = 45.0
SAY_EVERY_S = 5.0
MIB = 1 << 20

Inventory = list[tuple[str, int, int]]
# Name, size and, where it is known beforehand, CRC-32 of each file of an object.
Content = list[tuple[str, int, int | None]]
# Files of a wheel that are for the folder above, too: there `receive.py` puts them.
_SPREAD = re.compile(r"[^/]+\.data/(?:purelib|platlib)/(.+)")


def inventory(source: Path, files: Sequence[str] = ()) -> Inventory:
    """Name, size and mode of a file, of these files below a folder, or of all below it."""
    if source.is_file():
        return [(source.name, source.stat().st_size, 0o644)]
    inside = [source / name for name in files] or [p for p in source.rglob("*") if p.is_file()]
    kept = sorted(p for p in inside if p.parent.name != "__pycache__")
    return [(str(p.relative_to(source)), p.stat().st_size, p.stat().st_mode & 0o755 | 0o444) for p in kept]


def content(wheel: Path) -> Content:
    """What is in a wheel, as its own directory has it: its unpacked files are held against that.

    Raises:
        HostError: the file is no wheel.
    """
    try:
        with zipfile.ZipFile(wheel) as archive:
            packed = [(item.filename, item.file_size, item.CRC) for item in archive.infolist() if not item.is_dir()]
    except (OSError, zipfile.BadZipFile) as error:
        raise HostError(f"{wheel.name} is no wheel: {error}") from error
    spread = [(found[1], size, crc) for name, size, crc in packed if (found := _SPREAD.fullmatch(name))]
    return [*packed, *spread]


class Upload:
    """One object on its way over a link that it owns."""

    def __init__(self, link: Link, label: str, source: Path, what: str, say: Callable[[str], None]) -> None:
        self._link, self._label, self._source, self._what, self._say = link, label, source, what, say
        self._read = b""
        self._words: list[str] = []
        self._said_at = 0.0
        os.set_blocking(link.write_fd, False)

    def send(self, key: str, files: Inventory, *, sha256: str = "") -> int:
        """Send what is missing or damaged; the bytes that were. `sha256`: the one file is a wheel, to be unpacked.

        Raises:
            Unreachable: the link was lost; what arrived stays for the next time.
            HostError: there is no room, or the far side cannot write.
        """
        try:
            return self._send(key, files, sha256)
        finally:
            self._link.close()

    def _send(self, key: str, files: Inventory, sha256: str) -> int:
        unpacked = content(self._source) if sha256 else [(name, size, None) for name, size, _ in files]
        header = json.dumps({"key": key, "files": files, "sha256": sha256, "content": unpacked}).encode()
        self._write(f"{len(header):010d}".encode() + header)
        words = self._answer(files)
        if words[0] == "have":
            return 0
        index, have = int(words[1]), int(words[2])
        if have:
            have = self._agreed(files[index], have, int(words[3], 16))
        total = sum(size for _, size, _ in files[index:]) - have
        if total > MIB:
            again = " (the rest of it)" if index or have else ""
            self._say(f"sending {self._what} to {self._label}: {total / MIB:.1f} MiB{again}")
        self._files(files[index:], have, total)
        self._write(b".")
        self._answer(files)
        return total

    def _agreed(self, file: tuple[str, int, int], have: int, checksum: int) -> int:
        """From where a file is sent of which so much is there: from its begin, if that was spoilt."""
        found = 0
        with self._path(file[0]).open("rb") as source:
            for begin in range(0, have, READ_BYTES):
                found = zlib.crc32(source.read(min(READ_BYTES, have - begin)), found)
        self._write(b"+" if found == checksum else b"-")
        return have if found == checksum else 0

    def _files(self, files: Inventory, have: int, total: int) -> None:
        sent, begin = 0, time.monotonic()
        self._said_at = begin
        for name, size, _ in files:
            with self._path(name).open("rb", buffering=0) as source:
                was = os.fstat(source.fileno())
                while have < size:
                    moved = self._move(source.fileno(), have, size - have)
                    have, sent = have + moved, sent + moved
                    self._progress(sent, total, begin)
                if os.fstat(source.fileno()).st_mtime_ns != was.st_mtime_ns:
                    raise HostError(f"{name} was written to while it was sent")
            have = 0

    def _path(self, name: str) -> Path:
        return self._source if self._source.is_file() else self._source / name

    def _progress(self, sent: int, total: int, begin: float) -> None:
        now = time.monotonic()
        if now - self._said_at >= SAY_EVERY_S:
            self._said_at = now
            rate = sent / MIB / max(now - begin, 1e-9)
            self._say(f"sending {self._what} to {self._label}: {sent / total:.0%}, {rate:.1f} MiB/s")

    def _move(self, source: int, begin: int, size: int) -> int:
        """Send what the link takes by now of a file; the kernel moves it, without a copy. How many bytes it was."""
        self._await_room()
        try:
            moved = os.sendfile(self._link.write_fd, source, begin, size)
        except BlockingIOError:
            return 0
        except OSError as problem:
            if problem.errno not in (errno.EINVAL, errno.ENOSYS):  # the file system, or this kernel, cannot do it
                raise self._gone() from problem
            data = os.pread(source, min(size, READ_BYTES), begin)
            self._write(data)
            moved = len(data)
        if not moved:
            raise HostError(f"{self._what} became shorter while it was sent")
        return moved

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._await_room()
            try:
                view = view[os.write(self._link.write_fd, view[:READ_BYTES]) :]
            except BlockingIOError:
                continue
            except OSError as problem:
                raise self._gone() from problem

    def _await_room(self) -> None:
        poll = select.poll()
        poll.register(self._link.write_fd, select.POLLOUT)
        if not poll.poll(STALL_S * 1000):
            raise Unreachable(f"{self._label} takes no more bytes", "the link to it hangs")

    def _gone(self) -> HostError:
        """The far side has gone: why, if it said so."""
        try:
            self._answer([])
        except HostError as said:
            return said
        return self._lost()

    def _answer(self, files: Inventory) -> list[str]:
        """The far side's next words.

        Raises:
            Unreachable: the link was lost, or what arrived was damaged: trying again helps.
            HostError: the far side cannot keep it.
        """
        poll = select.poll()
        poll.register(self._link.read_fd, select.POLLIN)
        while not self._words:
            if not poll.poll(STALL_S * 1000):
                raise Unreachable(f"{self._label} fell silent while {self._what} was sent", "the link to it hangs")
            data = os.read(self._link.read_fd, 4096)
            if not data:
                raise self._lost()
            *lines, self._read = (self._read + data).split(b"\n")
            told = [line.removeprefix(WORD) for line in lines if line.startswith(WORD)]  # a login shell may print too
            self._words += [line.decode("utf-8", "replace") for line in told]
        return self._understood(self._words.pop(0), files)

    def _understood(self, text: str, files: Inventory) -> list[str]:
        word, _, rest = text.partition(" ")
        if word == "full":
            size = sum(size for _, size, _ in files) / MIB
            message = f"no space left on {self._label} for {self._what} ({size:.1f} MiB)"
            raise HostError(message, "free some there, or remove what we put there: deploybench devices clean")
        if word == "damaged":
            raise Unreachable(f"{rest} arrived damaged on {self._label}", "it is sent again the next time")
        if word == "error":
            raise HostError(f"{self._label} cannot keep {self._what}: {rest}", "see `deploybench devices check`")
        return text.split()

    def _lost(self) -> Unreachable:
        said = self._link.said()
        return Unreachable(f"the link to {self._label} was lost while {self._what} was sent", said[-500:])
