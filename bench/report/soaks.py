"""Writes what soaks have of their own: a page and a picture each, below a folder per machine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bench.record import Record
from bench.report import files, picture, soak


def write(folder: Path, records: Iterable[Record]) -> list[Path]:
    """The pages that were written, one for each published soak; their pictures lie beside them.

    Raises:
        UsageError: the folder cannot be written.
    """
    written = []
    for record in records:
        if not soak.published(record):
            continue
        page = folder / record.machine / f"{soak.name(record)}.md"
        drawn = picture.svg(record)
        if drawn is not None:
            files.replace(page.with_suffix(".svg"), [drawn])
        files.replace(page, [soak.page(record, page.with_suffix(".svg").name if drawn is not None else None)])
        written.append(page)
    return written
