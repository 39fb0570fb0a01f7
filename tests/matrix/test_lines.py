"""Where things stand in a TOML file: nothing that `tomllib` reads is without a line, and no line is another's."""

from __future__ import annotations

import datetime

import tomllib
from hypothesis import given
from hypothesis import strategies as st

from bench.matrix.lines import locate

TEXT = '''# a comment with [brackets] = "quotes"
a = 1
b.c."d.e" = [1, # x
  2, {k = "v]", 'l' = """
multi "" ]
"""}, ]

[t]   # "t"
x = 1979-05-27 07:32:00 # date
y = \'\'\'
]
\'\'\'
[[q]]
n = 1
[[q]]
[q.sub]
m = true
[[q.w]]
z = "#"
["quo\\"ted"]
e = """a\\"""b"""
'''


def paths(data, base=()):
    """Every key and element of parsed TOML."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*base, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*base, key))


def test_the_lines_of_a_file_with_everything_in_it():
    found = locate(TEXT)
    assert set(found) == set(paths(tomllib.loads(TEXT)))
    assert found[("a",)] == 2
    assert found[("b", "c", "d.e", 1)] == 4
    assert found[("b", "c", "d.e", 2, "l")] == 4
    assert found[("t", "y")] == 10
    assert found[("q", 1)] == 15
    assert found[("q", 1, "sub", "m")] == 17
    assert found[("q", 1, "w", 0, "z")] == 19
    assert found[('quo"ted', "e")] == 21


KEYS = st.text(st.characters(codec="utf-8", exclude_characters="\x7f", min_codepoint=32), min_size=0, max_size=6)
SCALARS = st.one_of(
    st.integers(-(2**40), 2**40),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=8),
    st.dates(min_value=datetime.date(1000, 1, 1)),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=8,
)


def quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def written(value, style):
    """A value as TOML, with line breaks in lists where the style says so."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"""{value}x"""' if style % 2 and '"' not in value and "\\" not in value else quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(k)} = {written(v, style)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        gap = "\n  # ] comment\n" if style % 3 == 0 else ""
        return "[" + "".join(f"{gap}{written(v, style)}," for v in value) + gap + "]"
    return value.isoformat() if isinstance(value, datetime.date) else repr(value)


@given(
    top=st.dictionaries(KEYS, VALUES, max_size=3),
    tables=st.lists(st.tuples(KEYS, st.dictionaries(KEYS, VALUES, max_size=3), st.booleans()), max_size=4),
    style=st.integers(0, 5),
)
def test_whatever_tomllib_reads_has_its_line(top, tables, style):
    lines = [f"{quoted(k)} = {written(v, style)}" for k, v in top.items()]
    seen: dict[str, bool] = dict.fromkeys(top, False)
    for name, table, is_list in tables:
        if name in seen and not (seen[name] and is_list):
            continue
        seen[name] = is_list
        lines.append(f"[[{quoted(name)}]]" if is_list else f"[{quoted(name)}]  # [x]")
        lines += [f"{quoted(k)} = {written(v, style)}" for k, v in table.items()]
    text = "\n".join(lines)
    found = locate(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    rows = text.split("\n")
    for path, line in found.items():
        if isinstance(path[-1], str) and "\n" not in path[-1]:
            assert quoted(path[-1]) in rows[line - 1]
