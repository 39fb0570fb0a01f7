"""The records of a git revision, by the system's git."""

from __future__ import annotations

import subprocess
import tarfile
from pathlib import Path

from bench.archive import unpack
from bench.errors import UsageError

GIT_S = 120.0


def commit(text: str, results: Path) -> str:
    """The hash of the commit that `text` names in the repository around `results`; empty where it names none."""
    try:
        found = _git(results, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    except FileNotFoundError:
        return ""
    return found.stdout.decode().strip() if found.returncode == 0 else ""


def extract(sha: str, results: Path, folder: Path) -> Path:
    """The folder of run files of that commit, written below `folder`.

    Raises:
        UsageError: the commit holds none, or links instead of files.
    """
    made = _git(results, "archive", "--format=tar", sha, "--", "records")
    if made.returncode:
        raise UsageError(
            f"the revision {sha[:12]} has no {results}/records", "records are committed with their results folder"
        )
    try:
        unpack(made.stdout, folder)
    except tarfile.TarError as error:
        raise UsageError(f"the records of the revision {sha[:12]} cannot be read: {error}") from error
    return folder / "records"


def _git(results: Path, *argv: str) -> subprocess.CompletedProcess[bytes]:
    if not results.is_dir():
        return subprocess.CompletedProcess(argv, 1, b"", b"")
    return subprocess.run(
        ["git", "-C", str(results), *argv], stdin=subprocess.DEVNULL, capture_output=True, timeout=GIT_S, check=False
    )
