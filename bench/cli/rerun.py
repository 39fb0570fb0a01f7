"""`deploybench rerun`."""

from __future__ import annotations

from typing import Any

import click

from bench.cli.options import cache_option, json_option, results_option
from bench.cli.run import check, measure, measure_options, parse_limits, show

EXAMPLES = """\b
Examples:
  deploybench report --json | jq -r .id
  deploybench rerun 3f2a91
  deploybench rerun 3f2a91 ./detector.onnx --trials 6
"""


@click.command("rerun", epilog=EXAMPLES)
@click.argument("record")
@click.argument("model", required=False)
@measure_options
@results_option
@cache_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, record: str, model: str | None, **settings: Any) -> None:
    """Measure the case of RECORD again: the same model, backend, device and options, as a new run.

    RECORD is a record's id, or the beginning of it. Give MODEL's path where the model is not in the catalogue.
    """
    from bench.cache import Cache
    from bench.cli import chosen, recorded
    from bench.cli.progress import Reporter

    check(settings)
    old = recorded.find(record, settings["results"])
    with Reporter(quiet=settings["quiet"]) as reporter:
        cache, limits = Cache(settings["cache_dir"]), parse_limits(settings["limits"])
        where = chosen.place(old.case.device, cache, reporter.say, limits)
        records = measure([recorded.case(old, model, where)], where, settings, reporter)
    ctx.exit(show(records, settings))
