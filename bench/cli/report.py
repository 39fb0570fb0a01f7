"""`deploybench report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from bench.cli.options import json_option, results_option

EXAMPLES = """\b
Examples:
  deploybench report
  deploybench report results/records/MACHINE/RUN.jsonl
  deploybench report --update README.md
  deploybench report --json | jq 'select(.status != "ok") | [.case.model.name, .case.backend, .why]'
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), help="Write the tables to this file.")
@click.option(
    "--update",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace the table between the two marks in this file.",
)
@results_option
@json_option
def command(paths: Sequence[Path], output: Path | None, update: Path | None, results: Path, as_json: bool) -> None:
    """Make markdown tables from records alone.

    PATHs are run files or folders of them; without any, all records below --results. Of each cell the newest record
    counts.
    """
    from bench.errors import RecordError
    from bench.report import markdown
    from bench.store import read_records, run_files

    records = [r for path in run_files(list(paths) or [results / "records"]) for r in read_records(path)]
    if not records:
        raise RecordError("there are no records", "`deploybench run` makes some")
    if as_json:
        for record in records:
            click.echo(record.to_json())
        return
    text = markdown.document(records)
    if output:
        _write(output, text)
    if update:
        markdown.insert(update, text)
    if not output and not update:
        click.echo(text, nl=False)


def _write(path: Path, text: str) -> None:
    from bench.errors import UsageError

    try:
        path.write_text(text)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}") from error
