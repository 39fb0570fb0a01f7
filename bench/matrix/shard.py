"""Splitting a matrix over jobs: the same file gives the same parts everywhere, whatever was measured before."""

from __future__ import annotations

import re
from collections.abc import Mapping

from bench.errors import UsageError

MOST = 10_000


def parse(text: str) -> tuple[int, int]:
    """`2/8` as (2, 8).

    Raises:
        UsageError: another form, or no part of the whole.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
    part, parts = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= part <= parts <= MOST:
        raise UsageError(f"--shard {text!r} is no part of a matrix", "write --shard 1/4 to --shard 4/4")
    return part, parts


def split(seconds: Mapping[str, float], parts: int) -> dict[str, int]:
    """The part, from 1, of every cell, by what each is expected to take: longest first, each to the part with least.

    Cells are ordered by their hash, so neither their order in the file nor the machine matters. No part is longer than
    another by more than its longest cell.
    """
    loads = [0.0] * parts
    found = {}
    for cell in sorted(seconds, key=lambda c: (-seconds[c], c)):
        part = min(range(parts), key=lambda p: (loads[p], p))
        loads[part] += seconds[cell]
        found[cell] = part + 1
    return found
