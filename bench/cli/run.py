"""`deploybench run`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from bench.cli import asked
from bench.cli.options import (
    cache_option,
    case_options,
    complete_backends,
    complete_devices,
    complete_models,
    json_option,
    quiet_option,
    results_option,
    stacked,
    strict_option,
    tolerance_option,
)
from bench.cli.parsing import given_tolerance, parse_limits, parse_target
from bench.cli.scenario import parse, scenario_options

# Six processes are the fewest that give an interval. If it is too wide, ten and fourteen are the next numbers worth
# their time: one and two at either end are left out, and the looks before are allowed for (bench/measure/stats.py).
MAX_TRIALS = 14
WHEN_NOISY = (
    "where it is noisy: --cooldown 60 waits for quiet before each trial, `deploybench selfcheck` says what would quiet "
    "the machine and which CPUs are quiet, --max-foreign-cpu 1 prints what was measured, marked"
)

measure_options = stacked(
    click.option(
        "--trials",
        type=click.IntRange(1, 100),
        default=6,
        show_default=True,
        help="Fresh processes per case; fewer than six give no interval over processes.",
    ),
    click.option(
        "--target",
        default="1%",
        show_default=True,
        callback=lambda ctx, param, value: parse_target(value),
        metavar="SHARE",
        help="Half the width of the median's 95 % interval to stop at, as 1% or 0.01; `none`: the minimums do.",
    ),
    click.option(
        "--max-trials",
        type=click.IntRange(1, 100),
        help=f"Trials of a case whose interval is wider than that.  [default: {MAX_TRIALS}, or --trials if more]",
    ),
    click.option(
        "--min-time",
        type=click.FloatRange(0, min_open=True),
        default=0.5,
        show_default=True,
        help="Seconds that a trial measures at least.",
    ),
    click.option(
        "--min-count",
        type=click.IntRange(1),
        default=11,
        show_default=True,
        help="Inferences that a trial measures at least (64 in all trials give a p90).",
    ),
    click.option(
        "--percentile",
        "percentiles",
        multiple=True,
        metavar="P",
        callback=lambda ctx, param, value: asked.parse_percentiles(value),
        help="Measure as many as this percentile takes: p90, p95, p99 (662 in all trials) or p99.9 (6636).",
    ),
    click.option(
        "--max-time",
        type=click.FloatRange(0, min_open=True),
        default=3.0,
        show_default=True,
        help="Seconds after which a trial stops measuring.",
    ),
    click.option(
        "--budget",
        type=click.FloatRange(0, min_open=True),
        metavar="SECONDS",
        help="Begin no trial after this time; what is missing is `skipped`.",
    ),
    click.option(
        "--limit",
        "limits",
        multiple=True,
        metavar="PHASE=SECONDS",
        help="How long a phase may take: connect, start, probe, prepare, load, first_run, measure, close, lease.",
    ),
    tolerance_option,
    click.option(
        "--max-foreign-cpu",
        type=click.FloatRange(0, 1),
        default=0.03,
        show_default=True,
        help="Share of the CPU that others may use, or slow it by, before a trial is noisy; 1 accepts all.",
    ),
    click.option(
        "--cooldown",
        type=click.FloatRange(1, 3600),
        metavar="SECONDS",
        help="Before each trial, wait at most so long until the machine is quiet and cool, and in a virtual machine "
        "as long again until the core is left alone.  [default: 5 after noise, 3]",
    ),
    click.option(
        "--spread",
        callback=lambda ctx, param, value: asked.parse_spread(value),
        metavar="TIME",
        help="Begin the wanted trials evenly over 10m or 1h, more at the same pace: the interval then knows that time.",
    ),
    click.option(
        "--new-shapes",
        type=click.IntRange(1, 32),
        metavar="N",
        help="Also time the first inference of N input shapes that a session has not seen, where the model is dynamic.",
    ),
    click.option(
        "--labelled",
        type=click.Path(path_type=Path),
        metavar="FOLDER",
        help="Also count a task metric on these inputs, in one folder per label.",
    ),
    click.option(
        "--metric",
        metavar="NAME|FILE.py:FUNCTION",
        help="Which: top1, top5, or your own function of outputs and labels.  [default: top1]",
    ),
    click.option(
        "--preprocess", metavar="STEPS", help="How an image becomes an input: imagenet, or resize=...,crop=..."
    ),
    strict_option("for every case that is not ok"),
    quiet_option,
)

EXAMPLES = """\b
Examples:
  deploybench run squeezenet --backend ort-cpu --backend ncnn
  deploybench run model.onnx --shape input=1,3,224,224 --threads 2 --trials 6
  deploybench run model.onnx -b ncnn --precision fp16 --tolerance fp16
  deploybench run model.onnx -b ort-cpu -o optimization=basic -o spinning=off --json
  deploybench run resnet50 --scenario offline
  deploybench run squeezenet -b ort-cpu --scenario server --latency-bound 15ms
  deploybench run squeezenet -b ort-cpu --device local --device pi5
  deploybench run squeezenet -b ort-cpu --percentile p99.9
  deploybench run squeezenet -b ort-cpu --spread 10m
  deploybench run squeezenet -b ort-cpu --soak 10m
"""


@click.command("run", epilog=EXAMPLES)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...", shell_complete=complete_models)
@click.option(
    "-b",
    "--backend",
    "backends",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_backends,
    help="A backend; several times for several. Default: all that are available.",
)
@click.option(
    "--device",
    "devices",
    multiple=True,
    default=("local",),
    show_default=True,
    metavar="NAME",
    shell_complete=complete_devices,
    help="Where to run: every name that `ssh NAME` takes, or one of devices.toml; several times for several at once.",
)
@click.option(
    "--governor",
    metavar="NAME",
    help="Set the CPUs' governor there (performance) and back afterwards; takes root or `sudo -n`.",
)
@click.option(
    "--builds",
    type=click.IntRange(1, 100),
    default=1,
    show_default=True,
    help="Build each TensorRT engine so often, and say how far the builds lie apart.",
)
@case_options
@scenario_options
@measure_options
@results_option
@cache_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    models: Sequence[str],
    backends: Sequence[str],
    devices: Sequence[str],
    governor: str | None,
    builds: int,
    threads: int,
    precision: str,
    batch: int | None,
    shapes: Sequence[str],
    extra: Sequence[str],
    cpus: str | None,
    **settings: Any,
) -> None:
    """Measure MODELs on backends and print the table.

    A MODEL is the path of an .onnx file, a folder with model.onnx and test_data_set_*, or a name that `deploybench
    models` lists. Every case is measured in fresh processes, and judged by reference outputs before and after it is
    timed.
    """
    from bench.cli import chosen

    scenario = parse(settings)
    asked.check(settings, scenario.name)
    _task(settings)  # refused before anything is made
    chosen.check_governor(governor)
    wanted = chosen.Wanted(threads, precision, batch, shapes, extra, cpus, scenario, builds)
    names = tuple(dict.fromkeys(devices))
    run = _on_one if len(names) == 1 else _on_several
    ctx.exit(show(run(models, backends, names, governor, wanted, settings), settings))


def _on_one(
    models: Sequence[str],
    backends: Sequence[str],
    names: Sequence[str],
    governor: str | None,
    wanted: Any,
    settings: dict[str, Any],
) -> list[Any]:
    from bench.cache import Cache
    from bench.cli import chosen
    from bench.cli.progress import Reporter

    with Reporter(quiet=settings["quiet"]) as reporter:
        cache, limits = Cache(settings["cache_dir"]), parse_limits(settings["limits"])
        where = chosen.place(names[0], cache, reporter.say, limits)
        cases = chosen.cases(models, chosen.backends(backends, where), wanted, where)
        with chosen.governing(where, governor):
            return measure(cases, where, settings, reporter)


def _on_several(
    models: Sequence[str],
    backends: Sequence[str],
    names: Sequence[str],
    governor: str | None,
    wanted: Any,
    settings: dict[str, Any],
) -> list[Any]:
    from bench.cache import Cache
    from bench.cli.matrix_progress import Watcher
    from bench.cli.run_devices import Devices

    with Watcher(quiet=settings["quiet"]) as watcher:
        found = Devices(names, Cache(settings["cache_dir"]), parse_limits(settings["limits"]), watcher)
        cases = found.cases(models, backends, wanted)
        return found.measure(cases, thoroughness(settings), settings, governor)


def measure(cases: Sequence[Any], where: Any, settings: dict[str, Any], reporter: Any) -> list[Any]:
    """Run the cases as the measuring options say."""
    from bench.evidence import environment
    from bench.runner import run_cases
    from bench.store import new_run

    return run_cases(
        cases,
        where,
        thoroughness(settings),
        results=settings["results"],
        machine=environment.collect().machine,
        run=new_run(),
        progress=reporter,
        ends_at=time.monotonic() + (settings["budget"] or math.inf),
    )


def thoroughness(settings: dict[str, Any]) -> Any:
    """How thoroughly to measure, as the measuring options say."""
    from bench.runner import Settings, plan_of

    plan = plan_of(asked.least_count(settings), settings["min_time"], settings["max_time"], settings["target"])
    return Settings(
        settings["trials"],
        plan,
        given_tolerance(settings["tolerance"]),
        settings["max_foreign_cpu"],
        cooldown_s=settings["cooldown"],
        max_trials=settings["max_trials"] or max(settings["trials"], MAX_TRIALS),
        spread_s=settings["spread"],
        new_shapes=settings["new_shapes"] or 0,
        task=_task(settings),
    )


def _task(settings: dict[str, Any]) -> Any:
    """The task metric that is wanted, or None."""
    from bench.errors import UsageError
    from bench.reference import Task
    from bench.reference.images import parse as parse_steps

    if settings.get("labelled") is None:
        if settings.get("metric") or settings.get("preprocess"):
            raise UsageError("--metric and --preprocess are for labelled inputs", "give them with --labelled")
        return None
    if settings["preprocess"]:
        parse_steps(settings["preprocess"])
    task = Task(settings["labelled"].absolute(), settings["metric"] or "top1", settings["preprocess"])
    task.check()
    return task


def show(records: Sequence[Any], settings: dict[str, Any], *, whole: bool = True) -> int:
    """Print the records, write the run's table, and say by the exit code how it went.

    `whole`: all of the table is printed, not only its first part, which says how fast and why not.
    """
    from bench.cli import lottery, tables
    from bench.record import FAILING
    from bench.report import blocks, devices, markdown, soaks

    page = [*devices.side_by_side(records), *markdown.blocks(records)]
    table = _write_table(blocks.markdown(page), records[0], settings["results"])
    pages = soaks.write(settings["results"] / "tables", records)
    if settings["as_json"]:
        for record in records:
            click.echo(record.to_json())
    else:
        tables.page(page if whole else [*devices.side_by_side(records), *markdown.overview(records)])
        if not settings["quiet"]:
            more = "" if whole else f"; how each was measured: {table}"
            click.echo(f"records and table: {settings['results']}{more}", err=True)
    if not settings["quiet"]:
        for text in (*(f"over time: {page}" for page in pages), *asked.lacking(records, settings["percentiles"])):
            click.echo(text, err=True)
        for text in lottery.said(records):
            click.echo(text, err=True)
        if any(r.status == "noisy" for r in records):
            click.echo(WHEN_NOISY, err=True)
    statuses = {r.status for r in records}
    if statuses & FAILING or (settings["strict"] and statuses != {"ok"}):
        return 1
    return 3 if statuses <= {"unavailable", "skipped"} else 0


def _write_table(text: str, record: Any, results: Path) -> Path:
    from bench.errors import BenchError, UsageError
    from bench.report import files

    path: Path = results / "tables" / record.machine / f"{record.run}.md"
    try:
        files.replace(path, [text])
    except UsageError as error:
        raise BenchError(f"the table {error.message}", "the records are kept") from error
    return path
