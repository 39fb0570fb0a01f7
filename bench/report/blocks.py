"""What a page is made of: paragraphs and tables of markdown, written out, or fitted to a terminal by `bench.cli`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LINK = re.compile(r"(?<!\\)\[((?:[^\]\\]|\\.)*)\]\([^)]*\)")
_ANCHOR = re.compile(r"<a id=[^>]*></a>")
_ESCAPED = re.compile(r"\\([\\|<*`~&_\]\[])")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of markdown cells under their heads. The first `keys` columns name a row; `right` are flushed right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    right: Iterable[int] = ()
    keys: int = 1

    def __str__(self) -> str:
        """Markdown, padded so that it reads well as plain text too."""
        to_right = frozenset(self.right)
        lines = [list(self.head), *[list(r) for r in self.rows]]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.head))]

        def text(line: Sequence[str]) -> str:
            padded = (
                c.rjust(w) if i in to_right else c.ljust(w) for i, (c, w) in enumerate(zip(line, widths, strict=True))
            )
            return f"| {' | '.join(padded)} |"

        rule = (("-" * (w - 1) + ":") if i in to_right else "-" * w for i, w in enumerate(widths))
        return "\n".join([text(lines[0]), f"| {' | '.join(rule)} |", *(text(line) for line in lines[1:])])


Block = str | Table


def markdown(blocks: Iterable[Block]) -> str:
    """The page as text; empty for no blocks."""
    text = "\n\n".join(str(b) for b in blocks)
    return f"{text}\n" if text else ""


def plain(text: str) -> str:
    """A paragraph or cell without markdown's marks, for people who read it as it is: `**` stays, links lose theirs."""
    text = _LINK.sub(r"\1", _ANCHOR.sub("", text))
    return _ESCAPED.sub(r"\1", text)
