"""Options that several verbs share, and how their texts become values."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
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
    click.option("--cpus", metavar="LIST", help="CPUs to run on, for example 0,2-3."),
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


def parse_cpus(text: str | None) -> tuple[int, ...]:
    """`0,2-3` as (0, 2, 3).

    Raises:
        UsageError: another form, or a CPU that this process may not use.
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
    if missing := found - os.sched_getaffinity(0):
        have = ",".join(str(c) for c in sorted(os.sched_getaffinity(0)))
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
