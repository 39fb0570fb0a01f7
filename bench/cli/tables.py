"""Listings: a table on a terminal, tab-separated text elsewhere, so that they read well and can be cut."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their heads."""
    console = Console(highlight=False)
    if not console.is_terminal:
        for row in (head, *rows):
            click.echo("\t".join(row))
        return
    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)
