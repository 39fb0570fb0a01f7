"""`deploybench run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.cli.options import (
    cache_option,
    case_options,
    complete_backends,
    complete_models,
    json_option,
    results_option,
    stacked,
)
from bench.cli.scenario import parse, scenario_options

# Six processes are the fewest that give an interval. If it is too wide, thirteen are the next number worth its time:
# the interval leaves out two at either end and still holds with the look after six (bench/measure/stats.py).
MAX_TRIALS = 13

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
        "--max-time",
        type=click.FloatRange(0, min_open=True),
        default=10.0,
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
    click.option(
        "--tolerance",
        metavar="NAME|RTOL,ATOL",
        help="Judge by fp32, fp16, bf16, int8, or two numbers (atol is of the output's scale).",
    ),
    click.option(
        "--max-foreign-cpu",
        type=click.FloatRange(0, 1),
        default=0.03,
        show_default=True,
        help="Share of the CPU that others may use before a trial is noisy; 1 accepts all.",
    ),
    click.option(
        "--cooldown",
        type=click.FloatRange(1, 3600),
        metavar="SECONDS",
        help="Before each trial, wait at most so long until the machine is quiet and cool.  [default: 5 after noise]",
    ),
    click.option("--strict", is_flag=True, help="Exit 1 for every case that is not ok."),
    click.option("--quiet", is_flag=True, help="No progress on standard error."),
)

EXAMPLES = """\b
Examples:
  deploybench run squeezenet --backend ort-cpu --backend ncnn
  deploybench run model.onnx --shape input=1,3,224,224 --threads 2 --trials 6
  deploybench run model.onnx -b ncnn --precision fp16 --tolerance fp16
  deploybench run model.onnx -b ort-cpu -o optimization=basic -o spinning=off --json
  deploybench run resnet50 --scenario offline
  deploybench run squeezenet -b ort-cpu --scenario server --latency-bound 15ms
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
@click.option("--device", default="local", show_default=True, help="Where to run.")
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
    device: str,
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
    from bench.cache import Cache
    from bench.cli import chosen
    from bench.cli.progress import Reporter

    check(settings)
    wanted = chosen.Wanted(threads, precision, batch, shapes, extra, cpus, parse(settings))
    with Reporter(quiet=settings["quiet"]) as reporter:
        cache, limits = Cache(settings["cache_dir"]), parse_limits(settings["limits"])
        where = chosen.place(device, cache, reporter.say, limits)
        cases = chosen.cases(models, chosen.backends(backends, where), wanted, where)
        records = measure(cases, where, settings, reporter)
    ctx.exit(show(records, settings))


def measure(cases: Sequence[Any], where: Any, settings: dict[str, Any], reporter: Any) -> list[Any]:
    """Run the cases as the measuring options say."""
    from bench.evidence import environment
    from bench.interface import Plan
    from bench.runner import Settings, run_cases
    from bench.store import new_run

    plan = Plan(settings["min_count"], settings["min_time"], max(settings["max_time"], settings["min_time"]))
    plan = replace(plan, warmup_max_s=min(plan.warmup_max_s, plan.max_s))
    plan = replace(plan, target=settings["target"])
    end = time.monotonic() + settings["budget"] if settings["budget"] else None
    return run_cases(
        cases,
        where,
        Settings(
            settings["trials"],
            plan,
            _tolerance(settings["tolerance"]),
            settings["max_foreign_cpu"],
            settings["cooldown"],
            settings["max_trials"] or max(settings["trials"], MAX_TRIALS),
        ),
        results=settings["results"],
        machine=environment.collect().machine,
        run=new_run(),
        progress=reporter,
        out_of_time=lambda: end is not None and time.monotonic() > end,
    )


def show(records: Sequence[Any], settings: dict[str, Any]) -> int:
    """Print the records, write the run's table, and say by the exit code how it went."""
    from bench.record import FAILING
    from bench.report import markdown

    text = markdown.document(records)
    _write_table(text, records[0], settings["results"])
    if settings["as_json"]:
        for record in records:
            click.echo(record.to_json())
    else:
        click.echo(text, nl=False)
        if not settings["quiet"]:
            click.echo(f"records and table: {settings['results']}", err=True)
    statuses = {r.status for r in records}
    if statuses & FAILING or (settings["strict"] and statuses != {"ok"}):
        return 1
    return 3 if statuses <= {"unavailable", "skipped"} else 0


def _write_table(text: str, record: Any, results: Path) -> None:
    from bench.errors import BenchError

    path = results / "tables" / record.machine / f"{record.run}.md"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise BenchError(f"the table {path} cannot be written: {error.strerror}", "the records are kept") from error


def parse_limits(texts: Sequence[str]) -> Any:
    """`PHASE=SECONDS`, several times, as `Limits`."""
    from bench.errors import UsageError
    from bench.registry import nearest
    from bench.trial import Limits

    limits = Limits()
    for text in texts:
        phase, _, seconds = text.partition("=")
        if phase not in Limits.__slots__:
            raise UsageError(f"--limit {text!r} names no phase", nearest(phase, Limits.__slots__))
        try:
            limits = replace(limits, **{phase: float(seconds)})
        except ValueError:
            raise UsageError(f"--limit {text!r} has no number of seconds", "write --limit prepare=600") from None
    return limits


def parse_target(text: str) -> float | None:
    """`1%` or `0.01` as a share; `none` as None.

    Raises:
        UsageError: it is no number, or not between 0 and 100 %.
    """
    from bench.errors import UsageError

    hint = "write --target 1%, --target 0.01, or --target none"
    if text.strip().lower() == "none":
        return None
    try:
        share = float(text.strip().removesuffix("%")) / (100 if "%" in text else 1)
    except ValueError:
        raise UsageError(f"--target {text!r} is no number", hint) from None
    if not 0 < share < 1:
        raise UsageError(f"--target {text!r} is not between 0 and 100 %: no measurement ends there", hint)
    return share


def check(settings: dict[str, Any]) -> None:
    """Refuse what cannot be meant, before anything is made or run.

    Raises:
        UsageError: two options contradict each other.
    """
    from bench.errors import UsageError

    trials, most = settings["trials"], settings["max_trials"]
    if most is not None and most < trials:
        raise UsageError(f"--max-trials {most} is less than --trials {trials}", "give --max-trials as many, or more")


def _tolerance(text: str | None) -> Any:
    from bench.errors import UsageError
    from bench.parity.compare import parse_tolerance

    try:
        return parse_tolerance(text) if text else None
    except ValueError as error:
        raise UsageError(f"--tolerance {text!r} cannot be read: {error}") from None
