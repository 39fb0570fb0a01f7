"""`deploybench localize`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli.options import (
    cache_option,
    case_options,
    complete_backends,
    complete_models,
    json_option,
    quiet_option,
    results_option,
    say,
    tolerance_option,
)
from bench.cli.parsing import given_tolerance, parse_limits

EXAMPLES = """\b
Examples:
  deploybench localize resnet50 --backend mnn
  deploybench localize ./detector.onnx --backend ncnn --shape images=1,3,640,640 --output report
  deploybench localize model.onnx -b mnn --tolerance 1e-5,1e-5
  deploybench localize model.onnx -b ncnn --precision fp16 --json
"""


@click.command("localize", epilog=EXAMPLES)
@click.argument("model", shell_complete=complete_models)
@click.option(
    "-b",
    "--backend",
    required=True,
    metavar="NAME",
    shell_complete=complete_backends,
    help="The backend whose answers are wrong.",
)
@click.option("--device", default="local", show_default=True, help="Where it runs.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    help="Folder of the report and the reproducers.  [default: localize/MODEL-BACKEND in the folder of the results]",
)
@tolerance_option
@click.option(
    "--most", type=click.IntRange(1, 100), default=5, show_default=True, help="Culprits to look for, at most."
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="PHASE=SECONDS",
    help="How long a phase may take: connect, start, probe, prepare, load, first_run, lease.",
)
@click.option("--again", is_flag=True, help="Ask anew what an earlier or interrupted search has answered already.")
@quiet_option
@case_options
@results_option
@cache_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    model: str,
    backend: str,
    device: str,
    output: Path | None,
    threads: int,
    precision: str,
    batch: int | None,
    shapes: Sequence[str],
    extra: Sequence[str],
    cpus: str | None,
    **settings: Any,
) -> None:
    """Find the nodes that make a backend's answers wrong, or that it cannot convert, load or run.

    The graph is cut, the parts run on the backend's own device, and what comes out is judged by the reference. An
    interrupted search goes on where it was. Writes a report, a picture of the error along the graph, and a reproducer
    for each culprit to send to the runtime's authors.

    Exit codes: 0 nobody is to blame, 1 the backend is, 3 the reference cannot judge.
    """
    from bench.cache import Cache
    from bench.cli import chosen
    from bench.localize import folder, report
    from bench.localize.located import FOUND
    from bench.localize.run import Settings, localize

    where = settings["results"] / "localize" / f"{Path(model).stem}-{backend}" if output is None else output
    folder.check(where)
    tell = (lambda message: None) if settings["quiet"] else say
    tolerance = given_tolerance(settings["tolerance"])
    place = chosen.place(device, Cache(settings["cache_dir"]), tell, parse_limits(settings["limits"]))
    wanted = chosen.Wanted(threads, precision, batch, shapes, extra, cpus)
    case = chosen.cases([model], chosen.backends([backend], place), wanted, place)[0]
    found = localize(case, place, Settings(tolerance, settings["most"], settings["again"], where, tell))
    click.echo(found.to_json() if settings["as_json"] else report.terminal(found))
    if found.probes:
        tell(f"report: {where / folder.REPORT}")
    ctx.exit(1 if found.verdict in FOUND else 3 if found.verdict == "doubtful" else 0)
