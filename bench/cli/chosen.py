"""From the command line's words to cases: backends chosen, options checked, models resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from bench.cache import Cache
from bench.cli.options import parse_cpus, parse_extra, parse_shapes
from bench.errors import UsageError
from bench.hosts.base import Host
from bench.hosts.local import LocalHost
from bench.interface import Options, Probe
from bench.measure.scenarios import Scenario
from bench.models import resolve
from bench.registry import Registered, complete_options, find, installed
from bench.runner import Case
from bench.trial import Limits, Place, probe


@dataclass(frozen=True, slots=True)
class Wanted:
    """The case options of the command line, as given."""

    threads: int
    precision: str
    batch: int | None
    shapes: Sequence[str]
    extra: Sequence[str]
    cpus: str | None
    scenario: Scenario = field(default_factory=Scenario)


def place(device: str, cache: Cache, say: Callable[[str], None], limits: Limits | None = None) -> Place:
    """The device as a place to run on.

    Raises:
        UsageError: there is no such device.
    """
    return Place(device, _host(device, cache), cache, limits or Limits(), say=say)


def _host(device: str, cache: Cache) -> Host:
    if device == "local":
        return LocalHost(cache.root / "work")
    if device == "fake" or device.startswith("fake:"):
        from bench.hosts.fake import FakeHost, parse_faults

        return FakeHost(LocalHost(cache.root / "work"), parse_faults(device.partition(":")[2]))
    raise UsageError(f"there is no device {device!r}", "known: local, and fake: with faults for tests")


def probes(found: Sequence[Registered], where: Place) -> list[Probe]:
    """What each of them can do on a place, asked all at once: nothing is measured meanwhile."""
    with ThreadPoolExecutor(max_workers=4) as pool:
        return list(pool.map(lambda registered: probe(where, registered), found))


def backends(names: Sequence[str], where: Place) -> list[Registered]:
    """The backends of these names, each once; without names, every one that is available there and not opt-in.

    Raises:
        UsageError: an unknown name, or nothing is available.
    """
    if names:
        return [find(name) for name in dict.fromkeys(names)]
    usual = [r for r in installed().values() if r.works() and not r.create().opt_in]
    if present := [r for r, p in zip(usual, probes(usual, where), strict=True) if p.available]:
        return present
    hints = [r.create().install for r in usual if r.create().install]
    raise UsageError("no runtime is installed", f"install one or more, for example: {hints[0]}" if hints else "")


def cases(
    models: Sequence[str],
    chosen: Sequence[Registered],
    wanted: Wanted,
    where: Place,
) -> list[Case]:
    """Every model on every backend, models outermost.

    Raises:
        UsageError: whatever of it is wrong, before anything runs.
        BenchError: a model's recipe failed.
    """
    options = _options(chosen, wanted)
    shapes = parse_shapes(wanted.shapes)
    files = {
        name: str(o.extra[name])
        for r in chosen
        for o in (options[r.name],)
        for name in _file_options(r)
        if o.extra[name]
    }
    found = []
    for reference in dict.fromkeys(models):
        resolved = resolve(reference, where.cache, shapes=shapes, batch=wanted.batch, say=where.say)
        found += [
            Case(resolved, r, where.device, options[r.name], wanted.batch, files, wanted.scenario) for r in chosen
        ]
    return found


def _options(chosen: Sequence[Registered], wanted: Wanted) -> dict[str, Options]:
    declared = {r.name: frozenset(o.name for o in r.create().options) for r in chosen}
    given = parse_extra(wanted.extra, declared)
    base = Options(threads=wanted.threads, precision=wanted.precision, cpus=parse_cpus(wanted.cpus))
    found = {}
    for registered in chosen:
        backend = registered.create()
        extra: dict[str, Any] = complete_options(backend, given[registered.name])
        for name in _file_options(registered):
            if extra[name]:
                extra[name] = _existing(str(extra[name]), name)
        found[registered.name] = replace(base, extra=extra)
    return found


def _file_options(registered: Registered) -> list[str]:
    return [option.name for option in registered.create().options if option.kind == "file"]


def _existing(text: str, name: str) -> str:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {text} for the option {name}")
    return str(path.resolve())
