"""A short summary for a build's page: how many of each status, what changed, the matrices, and why not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from bench.record import FAILING, Record
from bench.report import changes, markdown, words
from bench.report.blocks import Block
from bench.report.blocks import markdown as text_of
from bench.report.sections import sections

# GitHub shows at most 1 MiB per step and drops the whole summary beyond it; source: its documentation of job summaries.
LIMIT_BYTES = 900_000
CUT = "\n\n… the rest is left out: a summary of this length would not be shown. The tables have it.\n"


def summary(records: Sequence[Record], before: Sequence[Record]) -> str:
    """Markdown of bounded length, from the newest record of each cell and the one before it."""
    parts: list[Block] = ["## deploybench", counted(records), "### Changed since the run before"]
    parts += changes.listed(records, before)
    for section in sections(records):
        first = section[0].record
        parts.append(f"### {words.escape(f'{first.case.device} of {first.machine}')}")
        parts += [*markdown.matrix(section, lambda r: f"#{markdown.anchor(r)}"), *markdown.why_not(section)]
    for section in sections(records, soaks=True):
        parts += markdown.of_soaks(section)
    return bounded(text_of(parts))


def counted(records: Sequence[Record]) -> str:
    """How many cases of each status, the failing ones in bold."""
    found = Counter(r.status for r in records)
    texts = [
        f"**{n} {s}**" if s in FAILING else f"{n} {s}" for s, n in sorted(found.items(), key=lambda f: f[0] != "ok")
    ]
    return f"{len(records)} cases: {', '.join(texts)}."


def bounded(text: str) -> str:
    """The text, or as many whole lines of it as are shown."""
    data = text.encode()
    if len(data) <= LIMIT_BYTES:
        return text
    return data[: data.rindex(b"\n", 0, LIMIT_BYTES)].decode() + CUT
