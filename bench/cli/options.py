"""Options that several verbs share, and how they complete."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from bench.cli.parsing import parse_threshold

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def default_cache() -> Path:
    """`$DEPLOYBENCH_CACHE`, else `deploybench` in the user's cache folder."""
    if given := os.environ.get("DEPLOYBENCH_CACHE"):
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "deploybench"


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Catalogue names, then files."""
    from click.shell_completion import CompletionItem

    from bench import catalog

    found = [CompletionItem(n, help=e.summary) for n, e in catalog.load().items() if n.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_backends(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Registered backends."""
    from bench.registry import installed

    return [name for name in installed() if name.startswith(incomplete)]


def complete_devices(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """This machine, and the devices of devices.toml."""
    from bench import devices
    from bench.cli import chosen
    from bench.errors import BenchError

    try:
        found = list(devices.load(chosen.device_files()))
    except BenchError:
        found = []
    return [name for name in dict.fromkeys(("local", *found)) if name.startswith(incomplete)]


def _results(ctx: click.Context) -> Path:
    return (ctx.params.get("results") or Path("results")) / "records"


def complete_runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Runs below --results, the newest first, then files."""
    from click.shell_completion import CompletionItem

    runs = sorted({path.stem for path in _results(ctx).rglob("*.jsonl")}, reverse=True)
    found = [CompletionItem(run) for run in runs if run.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]


def complete_records(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Records below --results, the newest first, each with what it is of."""
    from click.shell_completion import CompletionItem

    from bench import scan
    from bench.errors import BenchError
    from bench.store import run_files

    try:
        known = sorted(scan.find(run_files([_results(ctx)])), reverse=True)
    except BenchError:
        known = []
    return [CompletionItem(r.id, help=f"{r.started_at}, cell {r.cell}") for r in known if r.id.startswith(incomplete)]


def complete_cell(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """A model of the catalogue, and behind it a backend."""
    named = ctx.params.get("cell")
    return complete_backends(ctx, param, incomplete) if named else complete_models(ctx, param, incomplete)


cache_option = click.option(
    "--cache",
    "cache_dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=default_cache,
    show_default="~/.cache/deploybench",
    help="Folder for models, artefacts and tools, kept between runs.",
)
results_option = click.option(
    "--results",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("results"),
    show_default=True,
    help="Folder of records and tables.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, one object per line.")
quiet_option = click.option("--quiet", is_flag=True, help="No progress on standard error.")
batch_option = click.option(
    "--batch", type=click.IntRange(1), help="Size of the first dimension of every input that leaves it open."
)
shape_option = click.option(
    "--shape", "shapes", multiple=True, metavar="INPUT=N,C,H,W", help="Shape of an input that leaves it open."
)
tolerance_option = click.option(
    "--tolerance",
    metavar="NAME|RTOL,ATOL",
    help="Judge by fp32, fp16, bf16, int8, or two numbers (atol is of the output's scale).",
)


def threshold_option(about: str) -> Decorator:
    """`--threshold`, a share; what it bounds is the verb's."""
    return click.option(
        "--threshold",
        default="1%",
        show_default=True,
        callback=lambda ctx, param, value: parse_threshold(value),
        metavar="SHARE",
        help=about,
    )


def strict_option(about: str) -> Decorator:
    """`--strict`; what else fails a command is the verb's."""
    return click.option("--strict", is_flag=True, help=f"Exit 1 {about}.")


def say(message: str) -> None:
    """Tell the person who waits; standard output is for results."""
    click.echo(message, err=True)


def stacked(*options: Decorator) -> Decorator:
    """Several options as one decorator, listed in this order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


# What decides the artefact and how it is run: `run` and `export` take the same.
case_options = stacked(
    click.option(
        "--threads", type=click.IntRange(1, 1024), default=1, show_default=True, help="Threads of one inference."
    ),
    click.option(
        "--precision", default="model", show_default=True, help="What to compute in; `model`: what the file says."
    ),
    batch_option,
    shape_option,
    click.option(
        "-o", "--option", "extra", multiple=True, metavar="[BACKEND:]NAME=VALUE", help="A backend's own option."
    ),
    click.option("--cpus", metavar="LIST", help="CPUs to run on: 0,2-3, big, little, or a device's own name for some."),
)
