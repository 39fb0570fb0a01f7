"""Tables on a terminal, plain text elsewhere, so that they read well and can be cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.report import blocks

# A column of words is not made narrower than this; one of numbers is never wrapped.
WORDS_WIDTH = 20
GAP = 2


def show(head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows under their heads: tab-separated where nobody looks."""
    console = Console(highlight=False)
    if not console.is_terminal:
        for row in (head, *rows):
            click.echo("\t".join(row))
        return
    table = Table(*head, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(cell.replace("[", "\\[") for cell in row))
    console.print(table)


def page(parts: Sequence[blocks.Block]) -> None:
    """Print a page: markdown where nobody looks; on a terminal without its marks, and no wider than it is."""
    console = Console(highlight=False)
    if not console.is_terminal:
        click.echo(blocks.markdown(parts), nl=False)
        return
    for part in parts:
        if isinstance(part, str):
            console.print(*(_styled(line) for line in part.splitlines()), sep="\n")
        else:
            for chunk in chunks(part, console.width):
                console.print(chunk)
                console.print()
            continue
        console.print()


def chunks(table: blocks.Table, width: int) -> list[Table]:
    """The table as one that fits; where it is too wide, as several below one another, each with the columns of keys."""
    columns = [[_styled(line[i]) for line in (table.head, *table.rows)] for i in range(len(table.head))]
    wants = [max(map(_wants, column)) for column in columns]
    names = sum(w + GAP for w in wants[: table.keys])
    parts: list[list[int]] = [[]]
    used = names
    for i in range(table.keys, len(columns)):
        if parts[-1] and used + wants[i] > width:
            parts.append([])
            used = names
        parts[-1].append(i)
        used += wants[i] + GAP
    narrow = any(names + wants[i] > width for i in range(table.keys, len(columns)))
    least = [None if narrow else w for w in wants]
    right = frozenset(table.right)
    return [_fitted([*range(table.keys), *part], columns, least, right) for part in parts]


def _wants(cell: Text) -> int:
    """How wide a cell has to be: numbers whole, words in lines of `WORDS_WIDTH`."""
    longest = max((len(word) for word in cell.plain.split()), default=0)
    return max(longest, min(cell.cell_len, WORDS_WIDTH))


def _fitted(
    chosen: Sequence[int], columns: Sequence[Sequence[Text]], least: Sequence[int | None], right: frozenset[int]
) -> Table:
    made = Table(box=None, header_style="bold", pad_edge=False, padding=(0, GAP, 0, 0))
    for i in chosen:
        made.add_column(columns[i][0], justify="right" if i in right else "left", overflow="fold", min_width=least[i])
    for row in range(1, len(columns[0])):
        made.add_row(*(columns[i][row] for i in chosen))
    return made


_BOLD = re.compile(r"\*\*(.+?)\*\*")


def _styled(text: str) -> Text:
    """Markdown of one line as a terminal shows it."""
    made, end = Text(), 0
    for found in _BOLD.finditer(text):
        made.append(blocks.plain(text[end : found.start()]))
        made.append(blocks.plain(found[1]), style="bold")
        end = found.end()
    return made.append(blocks.plain(text[end:]))
