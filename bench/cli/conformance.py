"""`deploybench conformance`."""

from __future__ import annotations

import json
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from bench.cli.options import cache_option, complete_backends, json_option, say, stacked
from bench.errors import BackendUnavailable, UsageError
from bench.interface import Tool

EXAMPLES = """\b
Examples:
  deploybench conformance
  deploybench conformance ncnn --check values_conv --check damaged_artifact
  deploybench conformance --spec my_backend:MyBackend
  deploybench conformance --list
"""


def complete_checks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """Names of checks, each with its rule."""
    from click.shell_completion import CompletionItem

    from bench.conformance import checks

    return [CompletionItem(check.name, help=check.rule) for check in checks() if check.name.startswith(incomplete)]


POSITIVE = click.FloatRange(0, min_open=True)
choice_options = stacked(
    click.option(
        "--spec",
        "specs",
        multiple=True,
        metavar="MODULE:CLASS",
        help="A backend that is not registered; MODULE may lie in the current folder.",
    ),
    click.option(
        "--check",
        "names",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_checks,
        help="A check; several times for several. Default: all.",
    ),
    click.option(
        "--tool",
        "given",
        multiple=True,
        metavar="NAME=PATH",
        help="Where a tool is that a backend declares, instead of fetching it.",
    ),
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend to put through the checks: what to call it, `module:Class`, and the tools that it declares."""

    name: str
    spec: str
    tools: Sequence[Tool]


@click.command("conformance", epilog=EXAMPLES)
@click.argument("backends", nargs=-1, metavar="[BACKEND]...", shell_complete=complete_backends)
@choice_options
@click.option(
    "--limit", "limit_s", type=POSITIVE, default=120.0, show_default=True, help="Seconds that a check may take."
)
@click.option("--list", "only_list", is_flag=True, help="Print the checks and their rules, and run none.")
@cache_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    backends: Sequence[str],
    specs: Sequence[str],
    names: Sequence[str],
    given: Sequence[str],
    limit_s: float,
    only_list: bool,
    cache_dir: Path,
    as_json: bool,
) -> None:
    """Check BACKENDs against the rules of the interface. Default: all that are available here.

    The checks run in processes of their own: a crash or a hang is a failed check, and the next one still runs. A check
    is skipped, with the reason, where it does not apply. Exit code: 1 a check failed, 2 usage, 3 nothing ran.
    """
    from bench.cache import Cache

    if only_list:
        _list(as_json)
        return
    chosen = _checks(names)
    paths = _paths(given)
    counts: Counter[str] = Counter()
    cache = Cache(cache_dir)
    for candidate in _candidates(backends, specs, cache):
        tools = {**_fetched([tool for tool in candidate.tools if tool.name not in paths], cache), **paths}
        outcomes = _outcomes(candidate, chosen, tools, limit_s)
        _show(candidate.name, outcomes, as_json)
        counts.update(outcome.status for outcome in outcomes)
    ctx.exit(1 if counts["failed"] else 0 if counts["passed"] else 3)


def _list(as_json: bool) -> None:
    from bench.cli import tables
    from bench.conformance import checks

    if not as_json:
        tables.show(("check", "rule"), [(check.name, check.rule) for check in checks()])
        return
    for check in checks():
        click.echo(json.dumps({"check": check.name, "rule": check.rule}))


def _checks(names: Sequence[str]) -> list[str]:
    from bench.conformance import checks
    from bench.conformance.checks import named

    wanted = {named(name).name for name in names}
    return [check.name for check in checks() if check.name in wanted or not names]


def _paths(given: Sequence[str]) -> dict[str, Path]:
    found = {}
    for text in given:
        name, _, path = text.partition("=")
        if not path:
            raise UsageError(f"--tool {text!r} cannot be read", "write --tool NAME=PATH")
        if not Path(path).is_file():
            raise UsageError(f"there is no file {path} for the tool {name}")
        found[name] = Path(path).resolve()
    return found


def _candidates(names: Sequence[str], specs: Sequence[str], cache: Any) -> list[Candidate]:
    from bench.cli import chosen
    from bench.conformance import resolve

    found = []
    if names or not specs:
        for one in chosen.backends(names, chosen.place("local", cache, say)):
            # Where the module is broken, the checks will say it.
            found.append(Candidate(one.name, one.spec, one.create().tools if one.works() else ()))
    if specs:
        # The command is no script of the current folder: Python does not look there by itself.
        sys.path.append(str(Path.cwd()))
    return found + [Candidate(spec, spec, resolve(spec).tools) for spec in dict.fromkeys(specs)]


def _fetched(tools: Sequence[Tool], cache: Any) -> dict[str, Path]:
    """The tools that can be had; the checks that need another are skipped."""
    from bench.toolbox import fetch

    found = {}
    for tool in tools:
        try:
            found[tool.name] = fetch(tool, cache, say)
        except BackendUnavailable as error:
            say(str(error))
    return found


def _outcomes(candidate: Candidate, names: Sequence[str], tools: Mapping[str, Path], limit_s: float) -> list[Any]:
    from bench.conformance import isolated_checks

    found = []
    with tempfile.TemporaryDirectory() as folder, _progress(candidate.name, len(names)) as step:
        for outcome in isolated_checks(candidate.spec, names, workdir=Path(folder), tools=tools, limit_s=limit_s):
            found.append(outcome)
            step()
    return found


def _show(backend: str, outcomes: Sequence[Any], as_json: bool) -> None:
    counts = Counter(outcome.status for outcome in outcomes)
    for each in outcomes:
        if as_json:
            facts = {"check": each.name, "status": each.status, "message": each.message, "rule": each.rule}
            click.echo(json.dumps({"backend": backend, **facts}))
        elif each.status != "passed":
            click.echo(f"{backend}: {each.name} {each.status}: {each.message} [rule: {each.rule}]")
    summary = ", ".join(f"{counts[status]} {status}" for status in ("passed", "skipped", "failed"))
    click.echo(f"{backend}: {summary}", err=as_json)


class _progress:
    """A bar on a terminal, one line per backend elsewhere; entering gives the function that moves it by one check."""

    def __init__(self, backend: str, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        console = Console(stderr=True, highlight=False, soft_wrap=True)
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn())
        live = console.is_terminal
        self._bar = Progress(*columns, console=console, auto_refresh=False, transient=True, disable=not live)
        self._task = self._bar.add_task(f"checking {backend}", total=total)
        if not live:
            say(f"checking {backend}: {total} rules")

    def __enter__(self) -> Callable[[], None]:
        self._bar.start()
        return self._step

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def _step(self) -> None:
        self._bar.update(self._task, advance=1, refresh=True)
