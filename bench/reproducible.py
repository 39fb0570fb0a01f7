"""Whether a converter makes the same of a model again: one that reads memory which it never wrote may not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from bench.interface import Artifact
from bench.worker.client import WorkerError

BLOCK_BYTES = 1 << 20


def made_again(made: Artifact, make: Callable[[Path], Artifact]) -> str:
    """In words, how the artefact differs from what `make` makes in an empty folder; empty where it does not."""
    folder = made.root / ".again"
    folder.mkdir()
    try:
        again = make(folder)
        if again.files != made.files:
            return f"not reproducible: made again, it is {', '.join(again.files)}"
        differ = [text for name in made.files if (text := difference(made.root / name, folder / name))]
        return f"not reproducible: made again, {' and '.join(differ)}" if differ else ""
    except WorkerError as error:
        if error.failure.kind in ("link", "timeout") or error.failure.signal == "SIGKILL":
            return ""  # it lacked memory or time that it had before: that says nothing of the converter
        return f"not reproducible: made again, it failed: {error.message.splitlines()[0]}"
    finally:
        shutil.rmtree(folder)


def difference(one: Path, other: Path) -> str:
    """In words, how two files differ; empty where they do not."""
    size, now = one.stat().st_size, other.stat().st_size
    if size != now:
        return f"{one.name} has {now} bytes and not {size}"
    differ = 0
    with one.open("rb") as a, other.open("rb") as b:
        while block := a.read(BLOCK_BYTES):
            there = b.read(BLOCK_BYTES)
            differ += 0 if block == there else sum(x != y for x, y in zip(block, there, strict=True))
    return f"{differ} of {size} bytes of {one.name} are others" if differ else ""
