"""`deploybench rerun`."""

from __future__ import annotations

from typing import Any

import click

from bench.cli import asked
from bench.cli.options import cache_option, complete_models, complete_records, json_option, results_option
from bench.cli.parsing import parse_limits
from bench.cli.run import measure, measure_options, show

EXAMPLES = """\b
Examples:
  deploybench report --json | jq -r .id
  deploybench rerun 3f2a91
  deploybench rerun 3f2a91 ./detector.onnx --trials 6
"""


@click.command("rerun", epilog=EXAMPLES)
@click.argument("record", shell_complete=complete_records)
@click.argument("model", required=False, shell_complete=complete_models)
@measure_options
@results_option
@cache_option
@json_option
@click.pass_context
def command(ctx: click.Context, /, record: str, model: str | None, **settings: Any) -> None:
    """Measure the case of RECORD again: the same model, backend, device and options, as a new run.

    RECORD is a record's id, or the beginning of it. Give MODEL's path where the model is not in the catalogue. It is
    measured as thoroughly as then, but for what the options say.
    """
    from bench.cache import Cache
    from bench.cli import chosen, recorded
    from bench.cli.progress import Reporter

    old = recorded.find(record, settings["results"])
    settings |= _as_then(recorded.asked(old))
    asked.check(settings, old.case.options.scenario)
    with Reporter(quiet=settings["quiet"]) as reporter:
        cache, limits = Cache(settings["cache_dir"]), parse_limits(settings["limits"])
        where = chosen.place(old.case.device, cache, reporter.say, limits)
        records = measure([recorded.case(old, model, where)], where, settings, reporter)
    ctx.exit(show(records, settings))


def _as_then(then: dict[str, Any]) -> dict[str, Any]:
    """What was asked then and is not asked otherwise now. As many trials as are asked for now may be more than then."""
    if asked.given("trials"):
        then.pop("max_trials", None)
    return {name: value for name, value in then.items() if not asked.given(name)}
