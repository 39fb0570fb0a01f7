"""From the command line's words to cases: backends chosen, options checked, models resolved."""

from __future__ import annotations

import atexit
import os
import re
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import devices
from bench.cache import Cache
from bench.cli import lottery
from bench.cli.parsing import parse_cpus, parse_extra, parse_shapes
from bench.devices import Device
from bench.errors import UsageError
from bench.evidence.cores import clusters
from bench.hosts.local import LocalHost
from bench.interface import Options, Probe
from bench.measure.scenarios import Scenario
from bench.models import resolve
from bench.place import Limits, Place, probe
from bench.registry import Registered, complete_options, find, installed
from bench.runner import Case

if TYPE_CHECKING:
    from bench.hosts.ssh import SshHost

# A trial whose link was lost is begun again so often: a cut passes, a board that is gone does not come back in between.
LINK_RETRIES = 2


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
    builds: int = 1


def place(device: str, cache: Cache, say: Callable[[str], None], limits: Limits | None = None) -> Place:
    """The device as a place to run on. Nothing is reached yet.

    Raises:
        UsageError: it is no name of a device, or devices.toml is wrong.
    """
    limits = limits or Limits()
    if device == "fake" or device.startswith("fake:"):
        from bench.hosts.fake import FakeHost, parse_faults

        faults = parse_faults(device.partition(":")[2])
        return Place(device, FakeHost(LocalHost(cache.root / "work"), faults), cache, limits, say=say)
    known = devices.load(device_files())
    home = Place("local", LocalHost(cache.root / "work"), cache, limits, say=say)
    if device == "local" and device not in known:
        return home
    found = devices.find(device, known)
    limits = _limits(limits, found)
    if found.local:
        host = LocalHost(cache.root / "work", found.python or sys.executable)
        return Place(found.label, host, cache, limits, say=say, cpu_sets=found.cpus)
    return _remote(found, home, limits)


def device_files() -> tuple[Path, ...]:
    """Where devices.toml may lie: in the user's configuration folder, and in the current one."""
    config = os.environ.get("XDG_CONFIG_HOME")
    return devices.places(Path(config) if config else Path.home() / ".config", Path())


def ssh_host(device: Device, say: Callable[[str], None]) -> SshHost:
    """The machine of a device that ssh reaches. Its connection ends with this process at the latest."""
    from bench.hosts.ssh import Login, SshHost

    login = Login(device.destination, device.label, device.ssh_config)
    host = SshHost(
        login, python=device.python or "python3", cache=device.cache, environment=device.environment, say=say
    )
    atexit.register(host.close)
    return host


def _remote(device: Device, home: Place, limits: Limits) -> Place:
    from bench.provision.board import Board

    host = ssh_host(device, home.say)
    if device.label != device.name:
        home.say(f"records call {device.name} {device.label}: they hold no names and addresses of yours")
    packages = Board(host, home.cache, home.say).packages if device.provision else lambda backend: ()
    reached = replace(home, device=device.label, host=host, limits=limits, home=home, cpu_sets=device.cpus)
    return replace(reached, packages=packages, retries=LINK_RETRIES)


def _limits(given: Limits, device: Device) -> Limits:
    """What the command line does not say, devices.toml may."""
    from bench.registry import nearest

    for phase in device.limits:
        if phase not in Limits.__slots__:
            raise UsageError(
                f"{device.source}: [{device.name}] limits names no phase {phase!r}", nearest(phase, Limits.__slots__)
            )
    usual = Limits()
    open_ = {p: s for p, s in device.limits.items() if getattr(given, p) == getattr(usual, p)}
    return replace(given, **open_)


def governing(where: Place, governor: str | None) -> AbstractContextManager[None]:
    """What holds the place's governor while it is measured; nothing where none is asked for."""
    from bench.hosts.governor import governed

    return nullcontext() if governor is None else governed(where.host, governor)


def check_governor(governor: str | None) -> None:
    """Refuse what cannot be a governor's name.

    Raises:
        UsageError: it is none.
    """
    if governor is not None and not re.fullmatch(r"[a-z_]{1,32}", governor):
        raise UsageError(f"--governor {governor!r} is no governor's name", "write --governor performance")


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
    if where.home:
        raise UsageError(f"no runtime can be used on {where.device}", "say which one, to see why not: --backend NAME")
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
    options = options_of(chosen, wanted, where)
    shapes = parse_shapes(wanted.shapes)
    files = {
        name: str(o.extra[name])
        for r in chosen
        for o in (options[r.name],)
        for name in file_options(r)
        if o.extra[name]
    }
    found = []
    for reference in dict.fromkeys(models):
        resolved = resolve(reference, where.cache, shapes=shapes, batch=wanted.batch, say=where.say)
        found += [
            Case(resolved, r, where.device, options[r.name], wanted.batch, files, wanted.scenario) for r in chosen
        ]
    return lottery.spread(found, wanted.builds)


def options_of(chosen: Sequence[Registered], wanted: Wanted, where: Place) -> dict[str, Options]:
    """The options of every backend by its name, complete and typed. A place is reached only to tell its big cores.

    Raises:
        UsageError: an option that no backend knows, or a value that it cannot have.
    """
    declared = {r.name: frozenset(o.name for o in r.create().options) for r in chosen}
    given = parse_extra(wanted.extra, declared)
    base = Options(threads=wanted.threads, precision=wanted.precision, cpus=_cpus(wanted.cpus, where))
    found = {}
    for registered in chosen:
        backend = registered.create()
        extra: dict[str, Any] = complete_options(backend, given[registered.name])
        for name in file_options(registered):
            if extra[name]:
                extra[name] = _existing(str(extra[name]), name)
        found[registered.name] = replace(base, extra=extra)
    return found


def _cpus(text: str | None, where: Place) -> tuple[int, ...]:
    """The CPUs of a place that are meant: a list, `big`, `little`, or a name of devices.toml."""
    text = where.cpu_sets.get(text or "", text)
    if text not in ("big", "little"):
        return parse_cpus(text, () if where.home else None)
    if where.home:
        from bench.provision.describe import describe

        kinds = [tuple(kind["cpus"]) for kind in describe(where.host, where.cache)["environment"]["clusters"]]
    else:
        kinds = [kind.cpus for kind in clusters(where.host.root)]
    if len(kinds) < 2:
        raise UsageError(f"all cores of {where.device} are of one kind: none is {text}", "write --cpus 0,2-3")
    return kinds[-1 if text == "big" else 0]


def file_options(registered: Registered) -> list[str]:
    """The names of its options that are files."""
    return [option.name for option in registered.create().options if option.kind == "file"]


def _existing(text: str, name: str) -> str:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UsageError(f"there is no file {text} for the option {name}")
    return str(path.resolve())
