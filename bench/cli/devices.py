"""`deploybench devices`."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import cache_option, complete_devices, json_option, say

if TYPE_CHECKING:
    from bench.devices import Device
    from bench.hosts.ssh import SshHost, Survey

# A clock that is further off than the answer took to come is wrong; below this nobody minds.
SKEW_S = 5.0
MIB = 1 << 20

EXAMPLES = """\b
Examples:
  deploybench devices
  deploybench devices check pi5
  deploybench devices clean pi5
"""


@click.group("devices", invoke_without_command=True, epilog=EXAMPLES)
@json_option
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the devices of devices.toml, check one, or clean one.

    Every NAME that `ssh NAME` takes is a device, whether it is listed or not: keys, agent, jump hosts and known hosts
    are ssh's own. It needs Python 3.10 or newer there, and nothing else. devices.toml, in the current folder or in
    ~/.config/deploybench, says more about one: ssh, ssh_config, python, cache, provision, environment, cpus, labels,
    limits, local.
    """
    if ctx.invoked_subcommand:
        return
    from bench import devices
    from bench.cli import chosen, tables

    files = chosen.device_files()
    found = devices.load(files)
    if as_json:
        for device in found.values():
            facts = {name: getattr(device, name) for name in device.__struct_fields__}
            click.echo(json.dumps({**facts, "label": device.label}))
        return
    rows = [("local", "this machine", "", "")] if "local" not in found else []
    rows += [(name, _reached(d), ", ".join(d.labels), d.source) for name, d in found.items()]
    tables.show(("device", "reached by", "labels", "from"), rows)
    if not found:
        say(f"no {devices.FILE} ({' or '.join(str(f) for f in files)}); every name that ssh takes is a device")


@command.command("check")
@click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_devices)
@cache_option
@json_option
@click.pass_context
def check(ctx: click.Context, names: tuple[str, ...], cache_dir: Path, as_json: bool) -> None:
    """Say what is there, and what is missing with the remedy. Exit code 1 where something is."""
    from bench.cache import Cache
    from bench.errors import BenchError

    missing = False
    for name in names:
        host = _host(name)
        problems: list[str] = []
        facts: dict[str, Any] = {"device": name}
        try:
            facts |= _facts(host, Cache(cache_dir), problems)
        except BenchError as error:
            problems.append(str(error))
        finally:
            host.close()
        missing = missing or bool(problems)
        click.echo(json.dumps({**facts, "missing": problems})) if as_json else _print(facts, problems)
    ctx.exit(1 if missing else 0)


@command.command("clean")
@click.argument("name", shell_complete=complete_devices)
def clean(name: str) -> None:
    """Remove what we put on a device: code, runtimes, models, inputs. Nothing of yours."""
    from bench.errors import HostError
    from bench.hosts import ssh

    host = _host(name)
    try:
        program = (Path(ssh.__file__).parent / "clean.py").read_text()
        done = host.run([host.python, "-I", "-c", program, host.survey().cache], timeout_s=300)
    finally:
        host.close()
    lines = [line for line in done.stdout.decode("utf-8", "replace").splitlines() if line.startswith(ssh.WORD)]
    if not lines:
        raise HostError(f"{name} could not be cleaned", done.stderr.strip()[-500:])
    click.echo(f"{int(lines[-1].removeprefix(ssh.WORD)) / MIB:.0f} MiB freed on {name}", err=True)


def _reached(device: Device) -> str:
    return f"this machine, {device.python or 'this Python'}" if device.local else f"ssh {device.destination}"


def _host(name: str) -> SshHost:
    """The host of a device that ssh reaches.

    Raises:
        UsageError: it is this machine, which has verbs of its own for that.
    """
    from bench import devices
    from bench.cli import chosen
    from bench.errors import UsageError

    device = devices.find(name, devices.load(chosen.device_files()))
    if name == "local" or device.local:
        raise UsageError(f"{name} is this machine", "see `deploybench selfcheck`, and `deploybench cache`")
    return chosen.ssh_host(device, say)


def _facts(host: SshHost, cache: Any, problems: list[str]) -> dict[str, Any]:
    """What is there, as far as it can be asked; what is missing goes to `problems`."""
    from bench.errors import BenchError
    from bench.hosts.ssh import require
    from bench.provision import tags
    from bench.provision.describe import describe

    begin = time.time()
    survey = host.survey()
    took_s = time.time() - begin
    facts: dict[str, Any] = {name: value for name, value in asdict(survey).items() if name != "objects"}
    facts["skew_s"] = _skew(survey, begin, took_s)
    if facts["skew_s"]:
        problems.append(
            f"its clock is {facts['skew_s']:+.0f} s off; timedatectl set-ntp true. Measurements do not mind"
        )
    try:
        require(survey, host.login.label)
        fits = tags.tags(survey.arch, survey.libc, survey.python, survey.abi)
        facts |= {"wheels": str(fits), **_backends(fits, problems)}
        facts |= describe(host, cache)
    except BenchError as error:
        problems.append(str(error))
    problems += [f"it is slowed down right now: {word}" for word in facts.get("slowed", ())]
    return facts


def _skew(survey: Survey, begin: float, took_s: float) -> float:
    """How far its clock is off, as far as the time that the answer took lets one tell; 0 if that is little."""
    off = survey.time_s - begin
    off = off if off < 0 else max(0.0, off - took_s)
    return round(off, 1) if abs(off) > SKEW_S else 0.0


def _backends(fits: Any, problems: list[str]) -> dict[str, Any]:
    """What each backend would bring along."""
    from bench.provision.tags import target
    from bench.registry import installed

    usual = [r.create() for r in installed().values() if r.works()]
    wanted = {b.name: list(b.runtime_wheels(target(fits))) for b in usual if not (b.opt_in or b.local_only)}
    if not fits.platforms:
        problems.append(
            "its C library is unknown: no wheels can be chosen for it; set provision = false in devices.toml"
        )
    return {"runtimes": wanted}


def _print(facts: Mapping[str, Any], problems: list[str]) -> None:
    click.echo(f"{facts['device']}")
    for name, text in _rows(facts):
        click.echo(f"  {name:13}{text}")
    for problem in problems:
        click.echo(f"  missing      {problem}")
    if not problems:
        click.echo("  nothing is missing")


def _rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = []
    if "python" in facts:
        free = "unknown" if facts["free_bytes"] is None else f"{facts['free_bytes'] / MIB:,.0f} MiB free"
        rows += [
            ("system", f"{facts['system']} {facts['arch']}, {facts['bits']} bit, {facts['libc'] or 'unknown libc'}")
        ]
        rows += [("python", f"{facts['python']} ({facts['executable']})"), ("cache", f"{facts['cache']}, {free}")]
        rows += [("clock", "right" if not facts["skew_s"] else f"{facts['skew_s']:+.0f} s off")]
    if "wheels" in facts:
        rows.append(("wheels", f"{facts['wheels']}: {', '.join(w for ws in facts['runtimes'].values() for w in ws)}"))
    if "environment" in facts:
        rows += _machine_rows(facts["environment"], facts)
    return rows


def _machine_rows(machine: Mapping[str, Any], facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    memory = "unknown" if machine["memory_bytes"] is None else f"{machine['memory_bytes'] / 2**30:.1f} GiB"
    rows = [("machine", f"{machine['cpu']}, memory {memory}"), ("os", f"{machine['os']}, {machine['kernel']}")]
    for kind in machine["clusters"]:
        clock = f", up to {kind['mhz_max']} MHz" if kind["mhz_max"] else ""
        rows.append(("cores", f"{','.join(map(str, kind['cpus']))}: {kind['core'] or 'of one kind'}{clock}"))
    heat = "not available" if facts["temperature_c"] is None else f"{facts['temperature_c']:.0f} C"
    mhz = ", ".join(f"{m:.0f}" for m in facts["mhz"]) or "not available"
    rows.append(("now", f"governor {facts['governor'] or 'not available'}, {heat}, MHz {mhz}"))
    if machine["emulated"]:
        rows.append(("emulated", f"{machine['emulated']}: times say nothing of a real machine"))
    elif facts["virtual"]:
        rows.append(("virtual", f"{facts['virtual']}; nothing shows that its processor is imitated"))
    return rows
