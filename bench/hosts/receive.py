"""Sent to a device as text and run there: takes in one object, a folder of files, that is named by its content.

Not imported here. Standard library only, Python 3.10. In: JSON and its length, the bytes of every file, and one more;
ssh keeps them from being changed. Out: lines that begin with DEPLOYBENCH. What was cut off goes on where it stopped, if
a CRC-32 says that it is the beginning of what is sent; an object appears whole, and one that is whole no more is taken
in again.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import sys
import time
import zlib

TYPE_CHECKING = False
if TYPE_CHECKING:  # nothing is imported that is not needed: the sender waits
    from typing import Any

WORD = "DEPLOYBENCH "
STALL_S = 30.0
OLD_S = 24 * 3600.0
READ_BYTES = 1 << 20
# Pieces of 64 KiB, a pipe's usual size, are too small: 350 MiB/s with it where a mebibyte lets 500 through (ssh on
# loopback, 2-core x86-64 virtual machine, November 2026).
PIPE_BYTES = 1 << 20
ROOM = memoryview(bytearray(READ_BYTES))
# Name, size and mode of each.
Files = list[tuple[str, int, int]]


def say(text: str) -> None:
    os.write(1, (WORD + text + "\n").encode())


def await_bytes() -> None:
    if not select.select([0], [], [], STALL_S)[0]:
        sys.exit(f"nothing came for {STALL_S:g} s")


def take(size: int) -> memoryview:
    """The next bytes of the link, at most so many, until the next call."""
    await_bytes()
    got = os.readv(0, [ROOM[:size]])  # into room that is kept: new room for every read costs more than the bytes
    if not got:
        sys.exit("the link ended")
    return ROOM[:got]


def exactly(size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += take(size - len(data))
    return data


def header() -> dict[str, Any]:
    """What is to come: ten digits, the length of the JSON behind them."""
    size = int(exactly(10))
    found: dict[str, Any] = json.loads(exactly(size))
    return found


def safe(name: str) -> bool:
    """A name that stays in its folder."""
    return bool(name) and not name.startswith("/") and ".." not in name.split("/") and "\0" not in name


def crc32(path: str, size: int) -> int:
    """Of a file's first bytes."""
    checksum = 0
    with open(path, "rb", buffering=0) as file:
        while size and (got := file.readinto(ROOM[:size])):
            checksum = zlib.crc32(ROOM[:got], checksum)
            size -= got
    return checksum


def intact(folder: str, content: list[tuple[str, int, int | None]]) -> bool:
    """Whether all files of the object are there as they were: a power cut may have come before they were written."""
    try:
        return os.path.isdir(folder) and all(
            os.path.getsize(path) == size and (crc is None or crc32(path, size) == crc)
            for path, size, crc in ((os.path.join(folder, name), size, crc) for name, size, crc in content)
        )
    except OSError:
        return False


def remove(folder: str) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def done_already(making: str, files: Files) -> tuple[int, int]:
    """How many files are whole, and how much there is of the next."""
    for index, (name, size, _) in enumerate(files):
        path = os.path.join(making, name)
        if os.path.isfile(path) and os.path.getsize(path) == size:
            continue
        try:
            return index, min(size, os.path.getsize(path + ".part"))
        except OSError:
            return index, 0
    return len(files), 0


def receive(path: str, size: int, have: int, mode: int) -> None:
    """One file, from byte `have` on."""
    part = path + ".part"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fd = os.open(part, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        os.ftruncate(fd, have)
        os.lseek(fd, have, os.SEEK_SET)
        while have < size:
            have += move(fd, size - have)
    finally:
        os.close(fd)
    os.chmod(part, mode)
    os.rename(part, path)


def move(fd: int, size: int) -> int:
    """Write what comes next of the link to a file, at most so many bytes; how many it was."""
    await_bytes()
    try:
        got = os.splice(0, fd, size)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOSYS):  # this link, file system or kernel cannot do it
            raise
        view = take(size)
        got = len(view)
        while view:
            view = view[os.write(fd, view) :]
    if not got:
        sys.exit("the link ended")
    return got


def unpack(making: str, name: str, sha256: str) -> bool:
    """A wheel's content in its place; False if it is another wheel."""
    import hashlib
    import shutil
    import zipfile

    archive = os.path.join(making, name)
    with open(archive, "rb") as file:
        digest = hashlib.sha256()
        while data := file.read(READ_BYTES):
            digest.update(data)
    if digest.hexdigest() != sha256:
        os.unlink(archive)
        return False
    with zipfile.ZipFile(archive) as wheel:
        wheel.extractall(making)
    os.unlink(archive)
    for folder in [d for d in os.listdir(making) if d.endswith(".data")]:
        for kind in ("purelib", "platlib"):
            if os.path.isdir(os.path.join(making, folder, kind)):
                shutil.copytree(os.path.join(making, folder, kind), making, dirs_exist_ok=True)
    return True


def sweep(incoming: str, spare: str) -> None:
    """Remove what was begun long ago and never ended. Who is at it holds its lock: the clock may have jumped."""
    for name in os.listdir(incoming):
        path = os.path.join(incoming, name)
        try:
            if name == spare or time.time() - os.path.getmtime(path) < OLD_S:
                continue
            lock = os.open(path, os.O_RDONLY)
        except OSError:
            continue  # another has just removed it, or renamed it: it is whole
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            remove(path)
        except OSError:
            pass
        finally:
            os.close(lock)


def main(root: str, asked: dict[str, Any]) -> None:
    key, files = asked["key"], asked["files"]
    if not all(safe(name) for name, _, _ in files) or not safe(key) or "/" in key:
        sys.exit("a file's name leads out of its folder")
    target = os.path.join(root, "objects", key)
    making = os.path.join(root, "incoming", key)
    if intact(target, asked["content"]):
        say("have")
        return
    os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
    os.makedirs(making, exist_ok=True)
    lock = os.open(making, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if os.path.isdir(target):
        if intact(target, asked["content"]):
            say("have")
            return
        remove(target)
    os.makedirs(making, exist_ok=True)
    sweep(os.path.dirname(making), key)
    index, have = done_already(making, files)
    begun = crc32(os.path.join(making, files[index][0] + ".part"), have) if have else 0
    say(f"from {index} {have} {begun:08x}")
    if have and exactly(1) != b"+":
        have = 0
    for name, size, mode in files[index:]:
        receive(os.path.join(making, name), size, have, mode)
        have = 0
    exactly(1)  # so they were as they should be, to their ends
    if asked["sha256"] and not unpack(making, files[0][0], asked["sha256"]):
        say(f"damaged {files[0][0]}")
        return
    os.rename(making, target)
    say("have")


def told(root: str) -> None:
    """`main`, with what goes wrong told in a word. What does not fit is removed: the room is others'."""
    try:
        fcntl.fcntl(0, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except OSError:
        pass  # no pipe, or this user has too many large ones
    asked = header()
    try:
        main(root, asked)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            say(f"error {error.strerror}")
            sys.exit(1)
        remove(os.path.join(root, "incoming", asked["key"]))
        say("full")


if __name__ == "__main__":
    told(sys.argv[1])
