"""`deploybench merge`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import json_option, results_option, say, strict_option

EXAMPLES = """\b
Examples:
  deploybench matrix nightly.toml --shard 1/2 --results shard-1
  deploybench matrix nightly.toml --shard 2/2 --results shard-2
  deploybench merge shard-1 shard-2 --results results
"""
LISTED = 20


@click.command("merge", epilog=EXAMPLES)
@click.argument(
    "folders",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="FOLDER...",
)
@strict_option("for every cell that is not ok")
@click.option("--quiet", is_flag=True, help="Nothing on standard error but what is missing.")
@results_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, folders: Sequence[Path], **settings: Any) -> None:
    """Join the results of the shards of a matrix: FOLDERs are what their --results named.

    The newest matrix run of each folder counts. They must be parts of the same matrix, no cell may be there twice, and
    cells that are missing are listed; then the exit code is 1.
    """
    from bench.cli import run
    from bench.matrix import journal, merge

    found = merge.parts(folders)
    joined = merge.merged(found, say)
    with journal.locked(settings["results"], "merge"):
        merge.copy(found, settings["results"])
    for cell, why in joined.missing[:LISTED]:
        say(f"missing: {cell.title}: {why}")
    if joined.missing:
        more = f", {len(joined.missing) - LISTED} more than are listed" if len(joined.missing) > LISTED else ""
        say(f"{len(joined.missing)} of {len(found[0].journal.cells)} cells are missing{more}")
    code = run.show(joined.records, {**settings, "percentiles": ()}, whole=False) if joined.records else 3
    ctx.exit(1 if joined.missing else code)
