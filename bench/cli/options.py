"""Options that several verbs share, and how their texts become values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from bench.errors import UsageError

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
tolerance_option = click.option(
    "--tolerance",
    metavar="NAME|RTOL,ATOL",
    help="Judge by fp32, fp16, bf16, int8, or two numbers (atol is of the output's scale).",
)


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
    click.option(
        "--batch", type=click.IntRange(1), help="Size of the first dimension of every input that leaves it open."
    ),
    click.option(
        "--shape", "shapes", multiple=True, metavar="INPUT=N,C,H,W", help="Shape of an input that leaves it open."
    ),
    click.option(
        "-o", "--option", "extra", multiple=True, metavar="[BACKEND:]NAME=VALUE", help="A backend's own option."
    ),
    click.option("--cpus", metavar="LIST", help="CPUs to run on: 0,2-3, big, little, or a device's own name for some."),
)


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`input=1,3,224,224`, several times.

    Raises:
        UsageError: another form.
    """
    found = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(s) for s in re.split(r"[,x]", sizes)) if sizes else ()
        except ValueError:
            shape = (0,)
        if not name or any(s < 1 for s in shape):
            raise UsageError(f"--shape {text!r} cannot be read", "write --shape INPUT=1,3,224,224")
        found[name] = shape
    return found


def parse_cpus(text: str | None, usable: Collection[int] | None = None) -> tuple[int, ...]:
    """`0,2-3` as (0, 2, 3). `usable`: the CPUs that there are, this process's own if None; empty for unknown.

    Raises:
        UsageError: another form, or a CPU that may not be used.
    """
    if not text:
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not match:
            raise UsageError(f"--cpus {text!r} cannot be read", "write --cpus 0,2-3")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not found:
        raise UsageError(f"--cpus {text!r} names no CPU", "write --cpus 0,2-3")
    allowed = set(os.sched_getaffinity(0) if usable is None else usable)
    if (missing := found - allowed) and allowed:
        have = ",".join(str(c) for c in sorted(allowed))
        raise UsageError(f"this machine has no CPU {min(missing)} for us", f"these can be used: {have}")
    return tuple(sorted(found))


def parse_extra(texts: Sequence[str], backends: Mapping[str, frozenset[str]]) -> dict[str, dict[str, str]]:
    """Options by backend. Without a backend's name an option goes to every chosen backend that knows it.

    Raises:
        UsageError: another form, or an option that no chosen backend knows.
    """
    from bench.registry import nearest

    found: dict[str, dict[str, str]] = {name: {} for name in backends}
    for text in texts:
        match = re.fullmatch(r"(?:([\w.-]+):)?([\w.-]+)=(.*)", text, re.DOTALL)
        if not match:
            raise UsageError(
                f"--option {text!r} cannot be read", "write --option NAME=VALUE or --option BACKEND:NAME=VALUE"
            )
        backend, name, value = match.groups()
        if backend is not None:
            if backend not in backends:
                raise UsageError(f"--option {text!r} is for a backend that was not chosen", nearest(backend, backends))
            found[backend][name] = value
            continue
        takers = [b for b, known in backends.items() if name in known]
        if not takers:
            known = set().union(*backends.values())
            hint = nearest(name, known) if known else "they take none"
            raise UsageError(f"none of {', '.join(backends)} has an option {name!r}", hint)
        for taker in takers:
            found[taker][name] = value
    return found


def parse_limits(texts: Sequence[str]) -> Any:
    """`PHASE=SECONDS`, several times, as `Limits`."""
    from bench.place import Limits
    from bench.registry import nearest

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
    hint = "write --target 1%, --target 0.01, or --target none"
    if text.strip().lower() == "none":
        return None
    share = _share(text, "--target", hint)
    if not 0 < share < 1:
        raise UsageError(f"--target {text!r} is not between 0 and 100 %: no measurement ends there", hint)
    return share


def parse_threshold(text: str) -> float:
    """`2%` or `0.02` as a share.

    Raises:
        UsageError: it is no number, or not between 0 and 100 %.
    """
    hint = "write --threshold 2% or --threshold 0.02"
    share = _share(text, "--threshold", hint)
    if not 0 <= share < 1:
        raise UsageError(f"--threshold {text!r} is not between 0 and 100 %", hint)
    return share


def _share(text: str, option: str, hint: str) -> float:
    try:
        return float(text.strip().removesuffix("%")) / (100 if "%" in text else 1)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no number", hint) from None


def given_tolerance(text: str | None) -> Any:
    """`fp16`, or two numbers, as a tolerance; None for none.

    Raises:
        UsageError: it is neither.
    """
    from bench.parity.compare import parse_tolerance

    try:
        return parse_tolerance(text) if text else None
    except ValueError as error:
        raise UsageError(f"--tolerance {text!r} cannot be read: {error}") from None
