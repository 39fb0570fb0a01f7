"""Where in a TOML file each key and value stands, so that an error can name its line.

`tomllib` reads the values but keeps no positions, and says itself where a file is not TOML. What it has accepted is
walked here once more, for the lines alone.
"""

from __future__ import annotations

import re
import tomllib

Where = tuple[str | int, ...]

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
# Strings of several lines end with the last of up to five quotes; everything else ends before what ends a value.
_SCALAR = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:[^"\\]|\\.)*"'
    r"|'[^']*'"
    r"|[^,\]}\n#]+",
    re.DOTALL,
)


def locate(text: str) -> dict[Where, int]:
    """The line, from 1, of every key and every element of a list. The text is TOML that `tomllib` has accepted."""
    return _Walk(text).lines()


class _Walk:
    """One way through the text, from its begin to its end."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._found: dict[Where, int] = {}
        self._tables: dict[Where, int] = {}  # how many [[tables]] of a name there were so far

    def lines(self) -> dict[Where, int]:
        base: Where = ()
        while self._peek():
            if self._peek() != "[":
                self._pair(base)
            elif self._text.startswith("[[", self._at):
                base = self._next_of_list()
            else:
                self._at += 1
                base = self._path((), self._keys())
                self._at += 1
        return self._found

    def _peek(self) -> str:
        """The next character that says something; empty at the end."""
        found = _BLANK.match(self._text, self._at)
        assert found
        self._at = found.end()
        return self._text[self._at : self._at + 1]

    def _here(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _keys(self) -> list[tuple[str, int]]:
        """A key with its dots, taken apart, each part with its line."""
        parts = []
        while True:
            self._peek()
            found = _KEY.match(self._text, self._at)
            assert found
            text, line = found[1], self._here()
            parts.append((next(iter(tomllib.loads(f"{text} = 0"))), line))
            self._at = found.end()
            if self._text[self._at] != ".":
                return parts
            self._at += 1

    def _path(self, base: Where, keys: list[tuple[str, int]]) -> Where:
        """The place that the keys lead to; on the way, of a list of tables the last one is meant."""
        for name, line in keys:
            base = (*base, name)
            self._found.setdefault(base, line)
            if base in self._tables:
                base = (*base, self._tables[base] - 1)
        return base

    def _next_of_list(self) -> Where:
        self._at += 2
        *parents, (name, line) = self._keys()
        self._at += 2
        path = (*self._path((), parents), name)
        self._found.setdefault(path, line)
        number = self._tables.get(path, 0)
        self._tables[path] = number + 1
        self._found[(*path, number)] = line
        return (*path, number)

    def _pair(self, base: Where) -> None:
        path = self._path(base, self._keys())
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Where) -> None:
        first = self._peek()
        if first == "[":
            self._list(path)
        elif first == "{":
            self._at += 1
            while self._peek() != "}":
                self._pair(path)
                self._comma()
            self._at += 1
        else:
            found = _SCALAR.match(self._text, self._at)
            assert found
            self._at = found.end()

    def _list(self, path: Where) -> None:
        self._at += 1
        number = 0
        while self._peek() != "]":
            self._found[(*path, number)] = self._here()
            self._value((*path, number))
            self._comma()
            number += 1
        self._at += 1

    def _comma(self) -> None:
        if self._peek() == ",":
            self._at += 1
