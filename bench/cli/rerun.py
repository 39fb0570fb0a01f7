"""`deploybench rerun`."""

from __future__ import annotations

from typing import Any

import click

from bench.cli.options import cache_option, json_option, results_option
from bench.cli.run import measure, measure_options, place_limits, show

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

    cache = Cache(settings["cache_dir"])
    old = recorded.find(record, settings["results"])
    where = chosen.place(old.case.device, cache, place_limits(settings["limits"]))
    with Reporter(settings["trials"], quiet=settings["quiet"]) as reporter:
        case = recorded.case(old, model, cache, reporter.say)
        records = measure([case], where, settings, reporter)
    ctx.exit(show(records, settings))
