"""Writing tables into files: whole or not at all, and never over records."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from bench.errors import UsageError
from bench.report.markdown import BEGIN, END


def replace(path: Path, texts: Iterable[str]) -> None:
    """Write a file anew. Whoever reads it meanwhile, and whoever is killed here, finds the old text or the new one.

    Raises:
        UsageError: it holds records, or cannot be written.
    """
    _refuse_records(path)
    try:
        if path.exists() and not path.is_file():  # a pipe, or /dev/stdout: there is nothing to replace
            with path.open("w", encoding="utf-8", newline="") as file:
                file.writelines(texts)
            return
        target = Path(os.path.realpath(path))
        target.parent.mkdir(parents=True, exist_ok=True)
        _swap(target, texts)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def _swap(target: Path, texts: Iterable[str]) -> None:
    descriptor, beside = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as file:
            file.writelines(texts)
        if target.exists():
            shutil.copymode(target, beside)
        else:
            mask = os.umask(0)
            os.umask(mask)
            os.chmod(beside, 0o666 & ~mask)
        os.replace(beside, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(beside)
        raise


def append(path: Path, text: str) -> None:
    """Add to the end of a file, as GitHub's step summaries are written.

    Raises:
        UsageError: it holds records, or cannot be written.
    """
    _refuse_records(path)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error


def insert(path: Path, text: str) -> None:
    """Replace what stands between the two marks in a file.

    Raises:
        UsageError: the file or its marks are missing, or it cannot be written.
    """
    try:
        before, rest = path.read_text(encoding="utf-8").split(BEGIN)
        _, after = rest.split(END)
    except (OSError, ValueError):
        raise UsageError(
            f"{path} has no place for the table", f"write these two lines into it: {BEGIN} and {END}"
        ) from None
    replace(path, [f"{before}{BEGIN}\n{text.strip()}\n{END}{after}"])


def _refuse_records(path: Path) -> None:
    if path.suffix == ".jsonl":
        raise UsageError(f"{path} is a name of records, which are never written over", "choose another name")
