"""Programs that come in wheels which must not be installed beside the user's packages, fetched alone into the cache.

pnnx is the case in point: its wheel declares torch, gigabytes with CUDA, that its binary does not use.
"""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from bench.cache import Cache, key_of
from bench.errors import BackendUnavailable
from bench.interface import Tool

FETCH_LIMIT_S = 600.0


def fetch(tool: Tool, cache: Cache, say: Callable[[str], None]) -> Path:
    """The tool's binary, fetched with pip on first need.

    Raises:
        BackendUnavailable: it could not be fetched; the hint holds the command that would.
    """

    def build(folder: Path) -> dict[str, str]:
        say(f"fetching {tool.requirement} (once)")
        hashes = " ".join(f"--hash=sha256:{digest}" for digest in tool.sha256)
        wanted = folder.parent / "requirements.txt"
        wanted.write_text(f"{tool.requirement} {hashes}\n")
        argv = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        argv += [
            "--no-deps",
            "--no-user",
            "--no-compile",
            "--only-binary=:all:",
            "--require-hashes",
            "--target",
            str(folder),
        ]
        _run([*argv, "--requirement", str(wanted)], tool)
        binary = folder / tool.binary
        if not binary.is_file():
            raise BackendUnavailable(f"{tool.requirement} holds no {tool.binary} for this platform")
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
        return {"requirement": tool.requirement}

    key = key_of([tool.requirement, tool.binary, sorted(tool.sha256)])
    return cache.get("tools", key, build, summary=tool.requirement, on_wait=say).path / tool.binary


def _run(argv: list[str], tool: Tool) -> None:
    hint = (
        "it is fetched once, with pip, from the package index: run again with a network, then it is kept in the cache"
    )
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=FETCH_LIMIT_S)
    except subprocess.TimeoutExpired as error:
        raise BackendUnavailable(f"fetching {tool.requirement} took longer than {FETCH_LIMIT_S:g} s", hint) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        why = lines[0].removeprefix("ERROR: ") if lines else f"pip ended with {done.returncode}"
        if "DO NOT MATCH THE HASHES" in why:
            raise BackendUnavailable(
                f"the wheel of {tool.requirement} is not the one that is pinned", "it was not used; tell us"
            )
        raise BackendUnavailable(f"{tool.requirement} could not be fetched: {why}", hint)
