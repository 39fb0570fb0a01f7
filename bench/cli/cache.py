"""`deploybench cache`."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import click

from bench.cli.options import cache_option, json_option

UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@click.group("cache")
def command() -> None:
    """List, limit or clean the cache of models, artefacts, reference outputs, tools and worker code.

    Everything in it can be made again; an entry that was damaged is noticed and made anew.
    """


@command.command("list")
@cache_option
@json_option
def list_(cache_dir: Path, as_json: bool) -> None:
    """List what is kept, the last used first."""
    from dataclasses import asdict

    from bench.cache import Cache
    from bench.cli import tables
    from bench.report.words import megabytes

    cache = Cache(cache_dir)
    entries = cache.list()
    if as_json:
        for entry in entries:
            click.echo(json.dumps(asdict(entry)))
        return
    days = [time.strftime("%Y-%m-%d %H:%M", time.localtime(e.used_at)) for e in entries]
    rows = [(e.kind, e.key[:12], megabytes(e.size_bytes), d, e.summary) for e, d in zip(entries, days, strict=True)]
    tables.show(("kind", "key", "MiB", "last used", "what"), rows)
    limit = cache.limit_bytes
    bound = f"limit {megabytes(limit)} MiB" if limit is not None else "no limit"
    click.echo(f"{megabytes(sum(e.size_bytes for e in entries))} MiB in {cache_dir} ({bound})", err=True)


@command.command("limit")
@click.argument("size", metavar="SIZE")
@cache_option
def limit(size: str, cache_dir: Path) -> None:
    """Keep the cache below SIZE (500M, 10G), or `none`. What was used in the last hour stays."""
    from bench.cache import Cache
    from bench.errors import UsageError

    match = re.fullmatch(r"(\d+)\s*([kmgt]?)(?:i?b)?", size.lower())
    if not match and size != "none":
        raise UsageError(f"{size!r} is not a size", "write 500M, 10G, or none")
    Cache(cache_dir).set_limit(int(match[1]) * UNITS[match[2]] if match else None)


@command.command("clean")
@click.option("--kind", help="Only this kind (see `cache list`).")
@cache_option
def clean(kind: str | None, cache_dir: Path) -> None:
    """Remove everything, or everything of one kind."""
    from bench.cache import Cache
    from bench.report.words import megabytes

    click.echo(f"{megabytes(Cache(cache_dir).clean(kind))} MiB freed", err=True)
