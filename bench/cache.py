"""The content-addressed cache: folders named by what decides their content, built once, checked on every use.

Two processes may ask for the same entry at once: one builds, the other waits. An entry appears whole or not at all; a
corrupt one is built again; a failed build leaves nothing. Entries: bound models, recipes' models, prepared artefacts,
reference outputs, worker code, fetched tools.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Timeout

MANIFEST = "manifest.json"
CONTENT = "content"
LOCK_LIMIT_S = 1800.0
# What was used this recently may be in use still: the size limit does not take it.
KEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder of the cache, whether it was there already, and how long building it took."""

    path: Path
    hit: bool
    seconds: float
    facts: Mapping[str, Any]
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Listed:
    """One line of a listing."""

    kind: str
    key: str
    size_bytes: int
    used_at: float
    summary: str


def key_of(facts: Any) -> str:
    """The name of an entry: a hash of the JSON facts that decide its content."""
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


def hash_files(root: Path, names: list[str]) -> dict[str, tuple[int, str]]:
    """Size and sha256 of each file."""
    found = {}
    for name in names:
        with (root / name).open("rb") as file:
            found[name] = ((root / name).stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return found


class Cache:
    """A folder of entries, `<kind>/<key>/`, with an optional limit on its size."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def get(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        summary: str = "",
        on_wait: Callable[[str], None] = lambda message: None,
    ) -> Entry:
        """The entry, built into an empty folder by `build` (whose JSON facts are kept beside it) unless it is there and whole.

        Raises:
            Timeout: another process has been building it for half an hour.
            BenchError: the disk is full, or the cache's folder cannot be written.
            Whatever `build` raises; then nothing is kept.
        """
        with _disk_errors(self.root), self._locked(kind, key, on_wait):
            folder = self.root / kind / key
            manifest = _whole(folder)
            if manifest is not None:
                os.utime(folder / MANIFEST)
                return _entry(folder, manifest, hit=True, seconds=0.0)
            shutil.rmtree(folder, ignore_errors=True)
            begin = time.monotonic()
            manifest = self._build(folder, build, summary)
            entry = _entry(folder, manifest, hit=False, seconds=time.monotonic() - begin)
        self._enforce_limit()
        return entry

    def _build(self, folder: Path, build: Callable[[Path], Mapping[str, Any]], summary: str) -> dict[str, Any]:
        making = self.root / "making" / uuid.uuid4().hex
        (making / CONTENT).mkdir(parents=True)
        try:
            facts = dict(build(making / CONTENT))
            names = sorted(str(p.relative_to(making / CONTENT)) for p in (making / CONTENT).rglob("*") if p.is_file())
            manifest = {"summary": summary, "facts": facts, "files": hash_files(making / CONTENT, names)}
            (making / MANIFEST).write_text(json.dumps(manifest))
            folder.parent.mkdir(parents=True, exist_ok=True)
            making.rename(folder)
            return manifest
        finally:
            shutil.rmtree(making, ignore_errors=True)

    @contextmanager
    def _locked(self, kind: str, key: str, on_wait: Callable[[str], None]) -> Iterator[None]:
        locks = self.root / "locks"
        locks.mkdir(parents=True, exist_ok=True)
        with (locks / f"{kind}-{key}").open("w") as file:
            end = time.monotonic() + LOCK_LIMIT_S
            waited = False
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except OSError:
                    if time.monotonic() > end:
                        raise Timeout(f"another process has been making {kind}/{key[:12]} for {LOCK_LIMIT_S:g} s") from None
                    if not waited:
                        on_wait("another process is making this; waiting for it")
                    waited = True
                    time.sleep(0.1)
            yield

    def list(self) -> list[Listed]:
        """Every entry, the one used last first."""
        found = []
        for manifest in self.root.glob(f"*/*/{MANIFEST}"):
            kind, key = manifest.parts[-3:-1]
            if kind == "making":
                continue
            data = _read(manifest) or {}
            size = sum(int(size) for size, _ in data.get("files", {}).values())
            found.append(Listed(kind, key, size, manifest.stat().st_mtime, data.get("summary", "")))
        return sorted(found, key=lambda e: -e.used_at)

    def remove(self, entry: Listed) -> None:
        """Take an entry out; whoever asks for it next builds it again."""
        with self._locked(entry.kind, entry.key, lambda message: None):
            shutil.rmtree(self.root / entry.kind / entry.key, ignore_errors=True)

    def clean(self, kind: str | None = None) -> int:
        """Remove everything, or everything of a kind; the bytes freed."""
        freed = 0
        for entry in [e for e in self.list() if kind in (None, e.kind)]:
            self.remove(entry)
            freed += entry.size_bytes
        shutil.rmtree(self.root / "making", ignore_errors=True)
        return freed

    @property
    def limit_bytes(self) -> int | None:
        """The size that the cache keeps itself below, None for no limit."""
        text = (self.root / "limit").read_text() if (self.root / "limit").exists() else ""
        return int(text) if text.isdigit() else None

    def set_limit(self, limit_bytes: int | None) -> None:
        """Set or lift the limit, and keep it from now on."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "limit").write_text("" if limit_bytes is None else str(limit_bytes))
        self._enforce_limit()

    def _enforce_limit(self) -> None:
        limit = self.limit_bytes
        if limit is None:
            return
        entries = self.list()
        total = sum(e.size_bytes for e in entries)
        for entry in reversed(entries):
            if total <= limit or time.time() - entry.used_at < KEEP_S:
                return
            self.remove(entry)
            total -= entry.size_bytes


def _read(manifest: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(manifest.read_text())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("files"), dict) else None


def _whole(folder: Path) -> dict[str, Any] | None:
    """The manifest, when every file it names is there with the content it had."""
    manifest = _read(folder / MANIFEST)
    if manifest is None:
        return None
    wanted = {name: tuple(value) for name, value in manifest["files"].items()}
    try:
        same = hash_files(folder / CONTENT, list(wanted)) == wanted
    except OSError:
        return None
    return manifest if same else None


def _entry(folder: Path, manifest: Mapping[str, Any], *, hit: bool, seconds: float) -> Entry:
    files = manifest["files"]
    size = sum(int(size) for size, _ in files.values())
    return Entry(folder / CONTENT, hit, seconds, manifest["facts"], key_of(files), size)


@contextmanager
def _disk_errors(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some, run `deploybench cache clean`, or choose another folder with --cache"
            raise BenchError(f"no space left for the cache in {root}", hint) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise BenchError(f"the cache's folder {root} cannot be written", "choose another with --cache") from error
        raise
