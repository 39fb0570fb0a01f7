"""Which wheels fit a machine: its tags, as the packaging world writes them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bench.interface import Target

# The oldest glibc that wheels are built for, by architecture, and the older names of three of them.
# Source: PEP 600 (manylinux_x_y and its aliases), PEP 656 (musllinux), PyPA's manylinux images.
OLDEST_GLIBC = {"x86_64": 5, "aarch64": 17}
ALIASES = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True, slots=True)
class Tags:
    """A machine's tags: architecture, Python (`3.11`), its ABI (`cp311`), and platforms, the newest first."""

    arch: str
    python: str
    abi: str
    platforms: tuple[str, ...]

    @property
    def abis(self) -> tuple[str, ...]:
        """The ABIs that this Python loads. Free-threaded ones do not load the stable ABI."""
        return (self.abi, "none") if self.abi.endswith("t") else (self.abi, "abi3", "none")

    def __str__(self) -> str:
        newest = self.platforms[0] if self.platforms else "no platform"
        older = " and older" if len(self.platforms) > 1 else ""
        return f"{self.abi}, {newest}{older}"


def tags(arch: str, libc: str, python: str, abi: str) -> Tags:
    """The tags of a machine with this C library (`glibc 2.36`, `musl 1.2`), Python version and ABI."""
    found = re.fullmatch(r"(glibc|musl) (\d+)\.(\d+).*", libc)
    platforms: list[str] = []
    if found and found[1] == "glibc" and found[2] == "2":
        for minor in range(int(found[3]), OLDEST_GLIBC.get(arch, 17) - 1, -1):
            platforms.append(f"manylinux_2_{minor}_{arch}")
            if minor in ALIASES:
                platforms.append(f"{ALIASES[minor]}_{arch}")
    elif found and found[1] == "musl":
        platforms = [f"musllinux_{found[2]}_{minor}_{arch}" for minor in range(int(found[3]), 0, -1)]
    return Tags(arch, ".".join(python.split(".")[:2]), abi, tuple(platforms))


def target(found: Tags) -> Target:
    """The same, in the interface's words."""
    libc = found.platforms[0].removesuffix(f"_{found.arch}") if found.platforms else ""
    return Target(found.arch, libc, found.abi)
