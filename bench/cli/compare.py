"""`deploybench compare`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from bench.cli.options import (
    cache_option,
    complete_runs,
    json_option,
    quiet_option,
    results_option,
    say,
    strict_option,
    threshold_option,
)

EXAMPLES = """\b
Examples:
  deploybench compare                                  # the newest run, against the nights before it
  deploybench compare --last 7
  deploybench compare 20261119T020000Z 20261120T020000Z
  deploybench compare v1.2 results/records/board/20261120T020000Z-0e672f8e.jsonl
  deploybench compare HEAD~1 results/records --no-confirm --json | jq 'select(.regression)'
"""


@click.command("compare", epilog=EXAMPLES)
@click.argument("sides", nargs=-1, metavar="[[OLD] NEW]", shell_complete=complete_runs)
@click.option(
    "--last",
    type=click.IntRange(1, 365),
    default=20,
    show_default=True,
    metavar="N",
    help="Earlier nights of each cell that say what is usual for it.",
)
@threshold_option("The smallest change of speed that matters, as 2% or 0.02.")
@click.option(
    "--confirm/--no-confirm",
    default=True,
    show_default=True,
    help="Measure again, here and now, what looks changed; without a second look a change is only suspected.",
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="PATH",
    help="A model that re-runs need and the catalogue has not; several times for several.",
)
@click.option(
    "--budget",
    type=click.FloatRange(1),
    default=900.0,
    show_default=True,
    metavar="SECONDS",
    help="Begin no trial of a re-run after this time.",
)
@strict_option("also for what is suspected or cannot be told")
@quiet_option
@results_option
@cache_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, sides: Sequence[str], **settings: Any) -> None:
    """Judge cell by cell whether NEW is slower, worse or larger than OLD was, by more than it always varies.

    OLD and NEW are record files, folders of them, runs (or their beginning) below --results, or git revisions of the
    results folder. Without OLD, the nights before NEW; without both, the newest run.

    A cell is slower (or faster) if at both looks, the run and a re-run made now: its processes are slower than those of
    earlier nights by an exact rank test; it is farther off than nights of this cell come to be by chance, given how
    well its noise is known; it is half as far again off as any of the --last nights was; and by --threshold or more.
    Over all cells on average at most 1 % of these verdicts are wrong (Benjamini and Hochberg). Fewer than 15 nights
    show no change below 5 %, and few nights but large ones; what could have been told stands in the table.
    tests/benchmarks/gate.py simulates all of it.

    Other machines, models, options, clocks or scopes are not comparable; changed versions are, and are named as likely
    causes. Cells that are not published have no speed.

    Exit codes: 0 no confirmed regression, 1 a cell is slower, newly failing, its parity worse or its memory grown, 2
    what was given cannot be read or compared.
    """
    from bench.compare import cells, sources, verdict

    quiet = settings["quiet"]
    found = sources.sides(sides, settings["results"], settings["last"], (lambda message: None) if quiet else say)
    pairs = cells.pairs(found.old, found.new, found.history, last=settings["last"])
    verdicts = verdict.judge(pairs, settings["threshold"])
    looks = verdict.worth_another_look(verdicts)
    if looks and settings["confirm"]:
        pairs = _with_reruns(pairs, looks, settings)
        verdicts = verdict.judge(pairs, settings["threshold"])
    _show(verdicts, found.title, settings["as_json"])
    words = {v.word for v in verdicts}
    unsure = settings["strict"] and bool(words & {"suspected", "cannot tell"})
    ctx.exit(1 if unsure or any(v.regression for v in verdicts) else 0)


def _with_reruns(pairs: Sequence[Any], looks: Sequence[Any], settings: dict[str, Any]) -> list[Any]:
    from bench.cache import Cache
    from bench.cli import confirming
    from bench.cli.progress import Reporter

    with Reporter(quiet=settings["quiet"]) as reporter:
        done = confirming.again(
            looks,
            results=settings["results"],
            cache=Cache(settings["cache_dir"]),
            models=settings["models"],
            budget_s=settings["budget"],
            reporter=reporter,
        )
    again = {pair.known.id: pair for pair in done}
    return [again.get(pair.known.id, pair) for pair in pairs]


def _show(verdicts: Sequence[Any], title: str, as_json: bool) -> None:
    from bench.cli import tables
    from bench.compare import told

    if as_json:
        for verdict in verdicts:
            click.echo(told.as_json(verdict))
    else:
        tables.page(told.page(verdicts, title))
