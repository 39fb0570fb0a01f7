"""`deploybench backends`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from bench.cli.options import cache_option, complete_backends, json_option

EXAMPLES = """\b
Examples:
  deploybench backends
  deploybench backends ncnn
  deploybench backends --json
"""


@click.command("backends", epilog=EXAMPLES)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_backends)
@cache_option
@json_option
def command(names: tuple[str, ...], cache_dir: Path, as_json: bool) -> None:
    """List the backends: what is available here, or why not and what would help.

    With a NAME, show its options too. Each runtime is imported in a process of its own.
    """
    from bench.cache import Cache
    from bench.cli import chosen, tables
    from bench.registry import find, installed
    from bench.worker import wire

    found = [find(name) for name in names] if names else list(installed().values())
    where = chosen.place("local", Cache(cache_dir), lambda message: None)
    probes = chosen.probes(found, where)
    if as_json:
        for registered, probe in zip(found, probes, strict=True):
            options = wire.plain(registered.create().options) if registered.works() else []
            facts = {
                "name": registered.name,
                "distribution": registered.distribution,
                **wire.plain(probe),
                "options": options,
            }
            click.echo(json.dumps(facts))
        return
    rows = []
    for registered, probe in zip(found, probes, strict=True):
        state = "available" if probe.available else "unavailable"
        gpu = f"; {probe.runtimes['gpu']}" if "gpu" in probe.runtimes else ""
        usable = f"precisions: {', '.join(probe.precisions)}{gpu}"
        rest = usable if probe.available else f"{probe.reason}; {probe.remedy}"
        rows.append((registered.name, state, probe.version, rest))
    tables.show(("backend", "here", "version", "what, or why not"), rows)
    for registered in found if names else ():
        click.echo(f"\nOptions of {registered.name} (deploybench run -o NAME=VALUE):")
        options = [
            (o.name, "" if o.default is None else str(o.default), "|".join(o.choices) or o.kind, o.help)
            for o in registered.create().options
        ]
        tables.show(("option", "default", "values", "what"), options)
