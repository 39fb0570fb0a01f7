"""The folder of a search: REPORT.md, the picture, and a reproducer for each culprit; whole or not at all."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from bench.errors import BenchError, UsageError
from bench.interface import Backend
from bench.localize import picture, report, reproducer
from bench.localize.located import Located
from bench.localize.parts import Parts, Reference
from bench.parity.compare import Tolerance
from bench.place import Limits

REPORT = "REPORT.md"
NO_PICTURE = 'there is no picture: pip install "deploybench[pictures]"'


def check(folder: Path) -> None:
    """Refuse a folder that holds something else, before anything runs.

    Raises:
        UsageError: it is a file, or holds files that no search wrote.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT).is_file():
        raise UsageError(f"{folder} holds other files", "choose a folder that is empty or does not exist: --output DIR")
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file", "choose a folder: --output DIR")


def write(
    folder: Path,
    located: Located,
    parts: Parts,
    reference: Reference,
    backend: Backend,
    tolerance: Tolerance,
    limits: Limits,
) -> list[str]:
    """Write it, in place of what an earlier search left there; what could not be had, in words.

    Raises:
        BenchError: the disk is full, or the folder cannot be written.
    """
    making = folder.with_name(f".{folder.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        notes = _fill(making, located, parts, reference, backend, tolerance, limits)
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        what = "no space left for the reproducer" if full else f"the reproducer cannot be written ({error.strerror})"
        raise BenchError(
            f"{what} in {folder.parent}", "choose another folder with --output; the search is kept"
        ) from error
    finally:
        shutil.rmtree(making, ignore_errors=True)
    return notes


def _fill(
    folder: Path,
    located: Located,
    parts: Parts,
    reference: Reference,
    backend: Backend,
    tolerance: Tolerance,
    limits: Limits,
) -> list[str]:
    names = []
    for number, finding in enumerate(located.blamed, 1):
        names.append(f"culprit-{number}")
        inside = folder / names[-1]
        inside.mkdir()
        reproducer.write(inside, finding, located.subject, parts, reference, backend, tolerance, limits)
        files = sorted(path.name for path in inside.iterdir())
        (inside / REPORT).write_text(report.upstream(located, finding, files))
    drawn = picture.draw(located)
    if drawn:
        (folder / "error.svg").write_text(drawn)
    (folder / REPORT).write_text(report.overview(located, names, "error.svg" if drawn else ""))
    (folder / "located.json").write_text(located.to_json() + "\n")
    return [NO_PICTURE] if located.points and not drawn else []
