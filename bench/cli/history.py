"""`deploybench history`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import complete_cell, json_option, results_option, say, threshold_option

EXAMPLES = """\b
Examples:
  deploybench history squeezenet ncnn
  deploybench history 3f2a91
  deploybench history resnet50 ort-cpu --picture resnet50.svg
  deploybench history squeezenet --json | jq '.changes[]'
"""


@click.command("history", epilog=EXAMPLES)
@click.argument("cell", nargs=-1, required=True, metavar="CELL|MODEL [BACKEND]", shell_complete=complete_cell)
@threshold_option("Moves of the level by less are not told.")
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the nights of one cell as SVG into this file (takes matplotlib: deploybench[pictures]).",
)
@results_option
@json_option
def command(cell: Sequence[str], threshold: float, picture: Path | None, results: Path, as_json: bool) -> None:
    """Show all nights of a cell, and with which of them its level moved.

    CELL is the beginning of a cell's hash, as tables of `compare` and records have it; or the name of a MODEL, and of a
    BACKEND where it ran on several. Every machine has its own history.

    The level moved where the nights before and after differ by more than chance: E-divisive, a permutation test with p
    at most 1 %, three nights or more on either side. The versions that changed with that night stand beside it.
    """
    from bench.cli import tables
    from bench.compare import story

    found = [story.story(records, threshold) for records in _cells(cell, results)]
    if picture:
        _draw(found, picture)
    for one in found:
        if as_json:
            click.echo(story.as_json(one))
        else:
            tables.page(story.page(one))


def _cells(asked: Sequence[str], results: Path) -> list[list[Any]]:
    """The records of every cell that is meant, one list per machine and cell.

    Raises:
        UsageError: nothing is meant by it, or several cells are.
    """
    from bench import scan
    from bench.errors import RecordError, UsageError
    from bench.registry import nearest
    from bench.store import run_files

    if len(asked) > 2:
        raise UsageError(f"{len(asked)} words name no cell", "give a cell's hash, or a model and a backend")
    try:
        found = scan.find(run_files([results / "records"]), say)
        cells: dict[str, list[Any]] = {}
        for one in found:
            cells.setdefault(one.cell, []).append(one)
        # One record of each tells what it is; all of them are read for the one that is meant.
        named = {cell: next(iter(scan.read(of[-1].path, {of[-1].id}))) for cell, of in cells.items()}
        meant = _meant(asked, named)
        if len(meant) != 1:
            known = {*(r.case.model.name for r in named.values()), *(r.case.backend for r in named.values())}
            wrong = next((word for word in asked if word not in known), asked[-1])
            hint = nearest(wrong, known) if not meant else "give one: " + "; ".join(_told(named[c]) for c in meant)
            count = f"{len(meant)} cells are" if meant else "no cell is"
            raise UsageError(f"{count} meant by {' '.join(asked)!r} in {results}/records", hint)
        return _read(cells[meant[0]])
    except RecordError as error:
        raise UsageError(error.message, error.hint) from error


def _meant(asked: Sequence[str], named: dict[str, Any]) -> list[str]:
    if len(asked) == 1 and (exact := [c for c in named if c.startswith(asked[0])]):
        return exact
    return [
        cell
        for cell, record in named.items()
        if record.case.model.name == asked[0] and (len(asked) == 1 or record.case.backend == asked[1])
    ]


def _told(record: Any) -> str:
    from bench.report.sections import setting

    case = record.case
    return f"{record.cell} ({case.model.name} on {case.backend}, {case.device}, {setting(case.options)})"


def _read(found: Sequence[Any]) -> list[list[Any]]:
    from bench import scan

    machines: dict[str, list[Any]] = {}
    by_path: dict[Path, set[str]] = {}
    for one in found:
        by_path.setdefault(one.path, set()).add(one.id)
    for path, ids in by_path.items():
        for record in scan.read(path, ids):
            machines.setdefault(record.machine, []).append(record)
    return list(machines.values())


def _draw(stories: Sequence[Any], path: Path) -> None:
    from bench.compare.picture import svg
    from bench.errors import UsageError
    from bench.report import files

    if len(stories) > 1:
        raise UsageError(f"{len(stories)} machines measured this cell, and a picture shows one", "narrow --results")
    files.replace(path, [svg(stories[0])])
