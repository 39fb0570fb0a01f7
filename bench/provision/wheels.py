"""Wheels for another machine, fetched with this one's pip into the cache: pinned, whole, and nothing they ask for.

pip holds what it fetches against the SHA-256 that the index states. That is the one which is taken here from the file,
checked by the cache on every use, by the board before it unpacks, and written into records.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cache import Cache, key_of
from bench.errors import BackendUnavailable
from bench.provision.tags import Tags

FETCH_LIMIT_S = 600.0
# numpy by the board's Python: the newest that has wheels for it on x86-64 and aarch64.
# Source: the package index, November 2026; 2.2.6 is the last with wheels for Python 3.10.
NUMPY = {"3.10": "numpy==2.2.6"}
NUMPY_NOW = "numpy==2.4.6"
_SKIPPED = re.compile(r"Skipping link: none of the wheel's tags \(([^)]*)\) are compatible.*?/([^/#\s]+\.whl)")


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel here, and the SHA-256 that names it there."""

    path: Path
    sha256: str


def numpy_for(tags: Tags) -> str:
    """The numpy of a board with this Python."""
    return NUMPY.get(tags.python, NUMPY_NOW)


def fetch(requirement: str, tags: Tags, cache: Cache, say: Callable[[str], None]) -> Wheel:
    """The wheel of a pinned requirement (`name==version`) that fits these tags.

    Raises:
        BackendUnavailable: there is none, with the tags wanted and offered; or the package index cannot be reached.
    """

    def build(folder: Path) -> dict[str, Any]:
        say(f"fetching {requirement} for {tags} (once)")
        _download(requirement, tags, folder)
        (wheel,) = folder.glob("*.whl")
        return {"file": wheel.name, "sha256": hashlib.sha256(wheel.read_bytes()).hexdigest()}

    key = key_of([requirement, tags.python, tags.abis, tags.platforms])
    entry = cache.get("wheels", key, build, summary=f"{requirement} for {tags}", on_wait=say)
    return Wheel(entry.path / entry.facts["file"], entry.facts["sha256"])


def _download(requirement: str, tags: Tags, folder: Path) -> None:
    argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "-vv", "--no-deps"]
    argv += ["--no-cache-dir", "--only-binary=:all:", "--implementation", "cp", "--python-version", tags.python]
    argv += [word for abi in tags.abis for word in ("--abi", abi)]
    argv += [word for platform in tags.platforms for word in ("--platform", platform)]
    hint = "wheels are fetched once, with pip: run again with a network, then they are kept in the cache"
    if not tags.platforms:
        raise BackendUnavailable(f"no wheels exist for this device: its C library is unknown ({tags})")
    try:
        done = subprocess.run(
            [*argv, "--dest", str(folder), requirement],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailable(f"fetching {requirement} took longer than {FETCH_LIMIT_S:g} s", hint) from error
    if done.returncode == 0:
        return
    lines = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR")]
    if any("DO NOT MATCH THE HASHES" in line for line in lines):
        message = f"the wheel of {requirement} is not the one that the package index has the SHA-256 of"
        raise BackendUnavailable(message, "it was not used: try again; if it stays so, somebody may have changed it")
    if offered := _offered(done.stdout + done.stderr, requirement, tags.arch):
        message = f"{requirement} has no wheel for this device: wanted {tags}; offered {', '.join(offered)}"
        raise BackendUnavailable(message, "another Python there may have one; name it in devices.toml: python = ...")
    raise BackendUnavailable(f"{requirement} could not be fetched: {lines[0] if lines else 'pip failed'}", hint)


def _offered(output: str, requirement: str, arch: str) -> list[str]:
    """The tags of the requirement's wheels that pip passed over: those of this architecture where there are any."""
    name, _, version = requirement.partition("==")
    found = set()
    for tags, file in _SKIPPED.findall(output):
        distribution, its_version, *_ = f"{file}--".split("-")
        if (_plain(distribution), its_version) == (_plain(name), version):
            found |= set(tags.split(", "))
    return sorted(t for t in found if t.endswith(arch)) or sorted(found)


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
