"""`deploybench report`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import json_option, results_option, say

FORMATS = ("markdown", "csv", "junit", "json")
EXAMPLES = """\b
Examples:
  deploybench report
  deploybench report results/records/MACHINE/RUN.jsonl
  deploybench report --update README.md --pages results/tables
  deploybench report --format csv --output records.csv
  deploybench report --format junit --output junit.xml --summary "$GITHUB_STEP_SUMMARY"
  deploybench report --json | jq 'select(.status != "ok") | [.case.model.name, .case.backend, .why]'
"""


@click.command("report", epilog=EXAMPLES)
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[PATH]...")
@click.option(
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="What to make: tables (fitted to a terminal), a row per record, a test case per cell, or a line per record.",
)
@click.option(
    "--output", type=click.Path(path_type=Path, dir_okay=False), help="Write that to this file instead of printing it."
)
@click.option(
    "--update",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Replace the table between the two marks in this file.",
)
@click.option(
    "--pages",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a folder of linked pages: what changed, leaders, every model, every device.",
)
@click.option(
    "--summary",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Add a short summary to this file, such as GitHub's $GITHUB_STEP_SUMMARY.",
)
@click.option(
    "--soaks",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write a page and a picture of every soak (pictures take matplotlib: deploybench[pictures]).",
)
@results_option
@json_option
def command(
    paths: Sequence[Path],
    form: str | None,
    output: Path | None,
    update: Path | None,
    pages: Path | None,
    summary: Path | None,
    soaks: Path | None,
    results: Path,
    as_json: bool,
) -> None:
    """Make tables and summaries from records alone.

    PATHs are run files or folders of them; without any, all records below --results. Of each cell the newest record
    counts; csv and json have them all. The same records make the same bytes.
    """
    from bench import scan
    from bench.report import files, markdown
    from bench.report import pages as folder
    from bench.report import soaks as soak_pages
    from bench.store import run_files

    form = _form(form, as_json)
    found = run_files(list(paths) or [results / "records"])
    if form in ("csv", "json"):
        _each(found, form, output)
    elsewhere = update or pages or summary or soaks
    if form in ("csv", "json") and not elsewhere:
        return
    newest, before = scan.newest(found, say, before=bool(pages or summary))
    _refuse_none(newest)
    if update:
        files.insert(update, markdown.document(newest))
    if pages:
        say(f"{folder.write(pages, newest, before)} pages in {pages}")
    if summary:
        from bench.report.summary import summary as summarised

        files.append(summary, summarised(newest, before))
    if soaks:
        say(f"{len(soak_pages.write(soaks, newest))} soaks in {soaks}")
    if form == "junit" or (form in (None, "markdown") and (form or output or not elsewhere)):
        _whole(newest, form, output)


def _form(form: str | None, as_json: bool) -> str | None:
    from bench.errors import UsageError

    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} contradict each other", "give one of them")
    return "json" if as_json else form


def _refuse_none(records: Any) -> None:
    from bench.errors import RecordError

    if not records:
        raise RecordError("there are no records", "`deploybench run` makes some")


def _each(found: Sequence[Path], form: str, output: Path | None) -> None:
    """Record by record, so that a long history takes no more memory than a short one."""
    from bench import scan
    from bench.report import files, sheet

    counted = scan.find(found, say)
    _refuse_none(counted)
    ids = frozenset(f.id for f in counted)
    records = (r for path in dict.fromkeys(f.path for f in counted) for r in scan.read(path, ids))
    texts: Iterator[str] = sheet.rows(records) if form == "csv" else (f"{r.to_json().decode()}\n" for r in records)
    if output:
        files.replace(output, texts)
        return
    for text in texts:
        click.echo(text, nl=False)


def _whole(newest: Sequence[Any], form: str | None, output: Path | None) -> None:
    from bench.cli import tables
    from bench.report import files, junit, markdown

    if form == "junit":
        text = junit.document(newest)
        files.replace(output, [text]) if output else click.echo(text, nl=False)
    elif output:
        files.replace(output, [markdown.document(newest)])
    else:
        tables.page(markdown.blocks(newest))
