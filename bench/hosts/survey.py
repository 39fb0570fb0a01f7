# ruff: noqa: UP031 - what comes after it is for newer Pythons
"""Sent to a device as text and run there: says what Python it is, what wheels would fit, and what of ours is there.

Not imported here. It runs on whatever Python the device has, so it is written for very old ones; one line comes out.
"""

import json
import os
import platform
import struct
import sys
import time


def libc() -> str:
    """Name and version of the C library: `glibc 2.36`, `musl 1.2`, or empty."""
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        pass
    for folder in ("/lib", "/usr/lib"):
        try:
            names = [name for name in os.listdir(folder) if name.startswith("ld-musl-")]
        except OSError:
            continue
        if names:
            return "musl " + musl_version(os.path.join(folder, names[0]))
    return ""


def musl_version(loader: str) -> str:
    """The loader, run without arguments, says it: `Version 1.2.4`."""
    import subprocess

    try:
        done = subprocess.Popen([loader], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        words = done.communicate()[0].decode("utf-8", "replace").split()
        return ".".join(words[words.index("Version") + 1].split(".")[:2])
    except (OSError, ValueError, IndexError):
        return "1.1"


def space(path: str) -> tuple:  # type: ignore[type-arg]
    """Free bytes for us where `path` is, or will be."""
    while path and not os.path.isdir(path):
        path = os.path.dirname(path)
    try:
        found = os.statvfs(path or "/")
        return found.f_bavail * found.f_frsize, os.access(path or "/", os.W_OK)
    except OSError:
        return None, False


def first_line(path: str) -> str:
    try:
        with open(path) as file:
            return file.read().strip()
    except (OSError, ValueError):
        return ""


def size(folder: str) -> int:
    """Bytes of the files below, but for what Python compiles there by itself; -1 where that cannot be told."""
    total = 0
    try:
        for here, folders, files in os.walk(folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            total += sum(os.path.getsize(os.path.join(here, name)) for name in files)
    except OSError:
        return -1
    return total


def main(cache: str) -> None:
    """`cache`: our folder there, or empty for the usual one."""
    cache = os.path.expanduser(cache) or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache"), "deploybench"
    )
    try:
        names = sorted(os.listdir(os.path.join(cache, "objects")))
    except OSError:
        names = []
    free, writable = space(cache)
    threaded = "t" if "t" in getattr(sys, "abiflags", "") else ""
    facts = {
        "arch": platform.machine(),
        "bits": struct.calcsize("P") * 8,
        "python": "%d.%d.%d" % sys.version_info[:3],
        "implementation": platform.python_implementation(),
        "abi": "cp%d%d%s" % (sys.version_info[0], sys.version_info[1], threaded),
        "executable": sys.executable,
        "libc": libc(),
        "cache": os.path.abspath(cache),
        "free_bytes": free,
        "writable": writable,
        "objects": {name: size(os.path.join(cache, "objects", name)) for name in names},
        "boot": first_line("/proc/sys/kernel/random/boot_id"),
        "time_s": time.time(),
        "system": platform.system(),
    }
    sys.stdout.write("\nDEPLOYBENCH " + json.dumps(facts) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
