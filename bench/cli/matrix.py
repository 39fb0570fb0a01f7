"""`deploybench matrix`."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import cache_option, json_option, quiet_option, results_option, strict_option

EXAMPLES = """\b
Examples:
  deploybench matrix --example > nightly.toml
  deploybench matrix nightly.toml --dry-run
  deploybench matrix nightly.toml
  deploybench matrix nightly.toml --resume
  deploybench matrix nightly.toml --shard 2/4 --results shard-2
"""


@click.command("matrix", epilog=EXAMPLES)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.toml")
@click.option("--dry-run", is_flag=True, help="Check the file, print its cells and the expected time; run nothing.")
@click.option("--resume", is_flag=True, help="Run what the last run of this matrix did not come to.")
@click.option("--shard", default="1/1", metavar="I/N", help="Run the I-th of N parts; `merge` joins their results.")
@click.option("--example", is_flag=True, help="Print a matrix file that explains itself.")
@strict_option("for every cell that is not ok")
@quiet_option
@results_option
@cache_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    file: Path | None,
    dry_run: bool,
    resume: bool,
    shard: str,
    example: bool,
    **settings: Any,
) -> None:
    """Measure every cell of FILE: models x backends x devices x options.

    The whole file is checked before anything runs. Devices measure at the same time, each one cell after the other. The
    run can be killed at any moment: `--resume` takes it up where it was.
    """
    from bench.cli.matrix_plan import Planned
    from bench.cli.matrix_progress import Watcher
    from bench.errors import UsageError
    from bench.matrix import file as matrix_file
    from bench.matrix.shard import parse
    from bench.place import Limits

    if example:
        click.echo((Path(matrix_file.__file__).parent / "example.toml").read_text(), nl=False)
        return
    if file is None:
        raise UsageError("no matrix file was given", "deploybench matrix --example > nightly.toml prints one")
    part = parse(shard)
    read = matrix_file.read(file, Limits.__slots__)
    with Watcher(quiet=settings["quiet"]) as watcher:
        planned = Planned(read, part, settings, watcher)
        if dry_run:
            planned.show(as_json=settings["as_json"])
            return
        from bench.matrix.journal import locked

        holder = f"{file.name}, process {os.getpid()}, since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        with locked(settings["results"], holder):
            records = planned.run(_resume_command(file, shard, settings), resume=resume)
    ctx.exit(show(records, {**planned.measuring, **settings}))


def _resume_command(file: Path, shard: str, settings: Mapping[str, Any]) -> str:
    words = ["deploybench", "matrix", str(file), "--resume"]
    words += ["--shard", shard] if shard != "1/1" else []
    words += ["--results", str(settings["results"])] if settings["results"] != Path("results") else []
    return shlex.join(words)


def show(records: Sequence[Any], settings: dict[str, Any]) -> int:
    """As `run` does, but for how it was measured: of many cells that is long, and stands in the table's file."""
    from bench.cli import run

    return run.show(records, settings, whole=False) if records else 3
