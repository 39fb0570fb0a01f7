"""Devices by name: this machine, what `ssh NAME` reaches, and what devices.toml says of either.

`devices.toml` is optional: one in the user's configuration folder, one in the project's; the project's words win.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.errors import UsageError
from bench.registry import nearest

FILE = "devices.toml"
# A user, a host name, an address, an alias. ssh puts names into commands of its own (ProxyCommand), so a name that a
# shell would read in another way is refused, whatever ssh makes of it.
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_\[][A-Za-z0-9_.:\[\]-]*(?:%[A-Za-z0-9_.-]+)?")
_ALIAS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,62}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One device, and how it is to be used.

    `ssh`: what ssh is told to reach, the name itself if empty. `ssh_config`: a file for `ssh -F`. `local`: not reached
    by ssh at all, but this machine with another interpreter. `cache`: our folder there. `provision`: bring the
    runtimes along; without, those that `python` has are used. `cpus`: names for sets of CPUs, for `--cpus`.
    `limits`: seconds by phase, as for `--limit`.
    """

    name: str = ""
    ssh: str = ""
    ssh_config: str = ""
    local: bool = False
    python: str = ""
    cache: str = ""
    provision: bool = True
    environment: dict[str, str] = {}
    cpus: dict[str, str] = {}
    labels: list[str] = []
    limits: dict[str, float] = {}
    source: str = ""

    @property
    def destination(self) -> str:
        """What ssh is told to reach."""
        return self.ssh or self.name

    @property
    def label(self) -> str:
        """Its name in records, which may become public: an alias stands, a user's name or an address does not."""
        if _ALIAS.fullmatch(self.name):
            return self.name
        return f"device-{hashlib.sha256(self.name.encode()).hexdigest()[:6]}"


def places(config: Path, project: Path) -> tuple[Path, ...]:
    """Where devices.toml may lie, the weaker first."""
    return config / "deploybench" / FILE, project / FILE


def load(files: Sequence[Path]) -> Mapping[str, Device]:
    """Every device that the files name; a later file's words replace an earlier one's, key by key.

    Raises:
        UsageError: a file that cannot be read, or that says what nobody knows.
    """
    tables: dict[str, dict[str, Any]] = {}
    for file in files:
        for name, table in _read(file).items():
            if not isinstance(table, dict):
                raise UsageError(f"{file}: {name!r} stands outside a table", "write [NAME] above what is said of it")
            if config := table.get("ssh_config"):
                table["ssh_config"] = str(file.absolute().parent / Path(str(config)).expanduser())
            known = tables.get(name, {})
            tables[name] = {**known, **table, "name": name, "source": str(file)}
    return {name: _device(name, table) for name, table in sorted(tables.items())}


def find(name: str, known: Mapping[str, Device]) -> Device:
    """The device of that name: one that is known, or whatever `ssh NAME` reaches.

    Raises:
        UsageError: the name is none that can safely be handed to ssh.
    """
    device = known.get(name) or Device(name=name)
    if not device.local:
        _check_name(device.destination)
    return device


def _check_name(destination: str) -> None:
    if len(destination) > 255 or not _NAME.fullmatch(destination):
        raise UsageError(
            f"{destination!r} is not a device's name",
            "a name that ssh takes: letters, digits and . _ - : with user@ before it; anything else in ~/.ssh/config",
        )


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{file} is not TOML: {error}") from error


def _device(name: str, table: Mapping[str, Any]) -> Device:
    where = f"{table['source']}: [{name}]"
    fields = [f for f in Device.__struct_fields__ if f not in ("name", "source")]
    for key in table:
        if key not in Device.__struct_fields__:
            raise UsageError(f"{where} has no key {key!r}", nearest(key, fields))
    try:
        device = msgspec.convert(table, Device)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}: {error}", f"known: {', '.join(fields)}") from error
    if wrong := [v for v in device.environment if not _VARIABLE.fullmatch(v)]:
        raise UsageError(f"{where}: {wrong[0]!r} is no name of an environment variable")
    if any("\0" in text for text in (*device.environment.values(), device.python, device.cache)):
        raise UsageError(f"{where} holds a zero character")
    if name == "local" and not device.local:
        device = msgspec.structs.replace(device, local=True)
    return device
