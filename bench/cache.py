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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, Timeout

MANIFEST = "manifest.json"
CONTENT = "content"
MAKING = "making"
LOCK_LIMIT_S = 1800.0
# What was used this recently may be in use still: the size limit does not take it.
KEEP_S = 3600.0
UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.EIO)


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
            found[name] = (os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())
    return found


class Cache:
    """A folder of entries, `<kind>/<key>/`, with an optional limit on its size."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()  # workers run in folders of their own

    def get(
        self,
        kind: str,
        key: str,
        build: Callable[[Path], Mapping[str, Any]],
        *,
        summary: str = "",
        on_wait: Callable[[str], None] = lambda message: None,
    ) -> Entry:
        """The entry; built into an empty folder by `build`, whose JSON facts are kept beside it, unless it is whole.

        Raises:
            Timeout: another process has been building it for half an hour.
            BenchError: the disk is full, or the cache's folder cannot be used.
            Whatever `build` raises; then nothing is kept.
        """
        with _disk_errors(self.root), self._locked(kind, key, on_wait, summary or f"{kind}/{key[:12]}"):
            folder = self.root / kind / key
            manifest = _whole(folder)
            if manifest is not None:
                os.utime(folder / MANIFEST)
                return _entry(folder, manifest, hit=True, seconds=0.0)
            self._sweep()
            begin = time.monotonic()
            manifest = self._build(kind, key, build, summary)
            entry = _entry(folder, manifest, hit=False, seconds=time.monotonic() - begin)
        self._enforce_limit()
        return entry

    def _build(self, kind: str, key: str, build: Callable[[Path], Mapping[str, Any]], summary: str) -> dict[str, Any]:
        """Build beside the entry's place and move it there. Called with the entry's lock, which guards both."""
        folder, making = self.root / kind / key, self.root / MAKING / f"{kind}-{key}"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(making, ignore_errors=True)
        (making / CONTENT).mkdir(parents=True)
        try:
            facts = dict(build(making / CONTENT))
            files = hash_files(making / CONTENT, _names(making / CONTENT))
            text = json.dumps({"summary": summary, "facts": facts, "files": files})
            (making / MANIFEST).write_text(text)
            folder.parent.mkdir(parents=True, exist_ok=True)
            making.rename(folder)
            kept: dict[str, Any] = json.loads(text)  # the same on a miss as on every hit after it
            return kept
        finally:
            shutil.rmtree(making, ignore_errors=True)

    def _sweep(self) -> None:
        """Remove what processes left half-made when they were killed: what lies there and is locked by nobody."""
        for left in (self.root / MAKING).glob("*-*"):
            kind, _, key = left.name.rpartition("-")
            with self._locked_now(kind, key) as locked:
                if locked:
                    shutil.rmtree(left, ignore_errors=True)

    @contextmanager
    def _locked(self, kind: str, key: str, on_wait: Callable[[str], None], what: str) -> Iterator[None]:
        end = time.monotonic() + LOCK_LIMIT_S
        waited = False
        while True:
            with self._locked_now(kind, key) as locked:
                if locked:
                    yield
                    return
            if time.monotonic() > end:
                raise Timeout(f"another process has been making {kind}/{key[:12]} for {LOCK_LIMIT_S:g} s")
            if not waited:
                on_wait(f"waiting for another process, which is making {what}")
            waited = True
            time.sleep(0.1)

    @contextmanager
    def _locked_now(self, kind: str, key: str) -> Iterator[bool]:
        """Whether the entry's lock could be had; it is held until the block ends. The lock's file goes with it."""
        path = self.root / "locks" / f"{kind}-{key}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked = os.path.samestat(os.fstat(file.fileno()), path.stat())
            except OSError:  # another has it, or had it until now and took the file away
                locked = False
            try:
                yield locked
            finally:
                if locked:
                    path.unlink(missing_ok=True)

    def list(self) -> list[Listed]:
        """Every entry, the one used last first."""
        found = []
        for manifest in self.root.glob(f"*/*/{MANIFEST}"):
            kind, key = manifest.parts[-3:-1]
            data = _read(manifest) or {}
            try:
                size = sum(int(size) for size, _ in data.get("files", {}).values())
                used_at = manifest.stat().st_mtime
            except OSError:
                continue  # removed while we looked
            if kind != MAKING:
                found.append(Listed(kind, key, size, used_at, data.get("summary", "")))
        return sorted(found, key=lambda e: -e.used_at)

    def facts(self, kind: str, summary: str) -> Iterator[Mapping[str, Any]]:
        """What was kept beside the entries of this kind with this summary; an entry that is damaged now included."""
        for manifest in self.root.glob(f"{kind}/*/{MANIFEST}"):
            data = _read(manifest)
            if data and data["summary"] == summary:
                yield data["facts"]

    def holds(self, kind: str, key: str) -> bool:
        """Whether the entry was made once and not removed since; it may be damaged."""
        return (self.root / kind / key).exists()

    def remove(self, entry: Listed) -> None:
        """Take an entry out, whole; whoever asks for it next builds it again.

        Raises:
            BenchError: the cache's folder cannot be used.
        """
        with _disk_errors(self.root), self._locked(entry.kind, entry.key, lambda message: None, ""):
            self._take_out(entry)

    def _take_out(self, entry: Listed) -> None:
        """Called with the entry's lock. Its removal can be interrupted; what is left then is not an entry."""
        gone = self.root / MAKING / f"{entry.kind}-{entry.key}"
        gone.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(gone, ignore_errors=True)
        try:
            (self.root / entry.kind / entry.key).rename(gone)
        except FileNotFoundError:
            return  # another was faster
        shutil.rmtree(gone, ignore_errors=True)

    def clean(self, kind: str | None = None) -> int:
        """Remove everything, or everything of a kind, that is not being made right now; the bytes freed."""
        freed = 0
        for entry in (e for e in self.list() if kind in (None, e.kind)):
            self.remove(entry)
            freed += entry.size_bytes
        self._sweep()
        return freed

    @property
    def limit_bytes(self) -> int | None:
        """The size that the cache keeps itself below, None for no limit."""
        try:
            text = (self.root / "limit").read_text().strip()
        except FileNotFoundError:
            return None
        return int(text) if text.isdigit() else None

    def set_limit(self, limit_bytes: int | None) -> None:
        """Set or lift the limit, and keep it from now on."""
        with _disk_errors(self.root):
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
            with _disk_errors(self.root), self._locked_now(entry.kind, entry.key) as locked:
                if locked:  # else it is being used or made anew this very moment
                    self._take_out(entry)
                    total -= entry.size_bytes


def _names(content: Path) -> list[str]:
    """The files below a folder. What Python compiles beside sources that it runs from there is nobody's content."""
    inside = (p for p in content.rglob("*") if p.is_file() and p.parent.name != "__pycache__")
    return sorted(str(p.relative_to(content)) for p in inside)


def _read(manifest: Path) -> dict[str, Any] | None:
    """A manifest that says what it must, else None."""
    try:
        data = json.loads(manifest.read_text())
        files = {str(name): (int(size), str(sha256)) for name, (size, sha256) in data["files"].items()}
        return {"summary": str(data["summary"]), "facts": dict(data["facts"]), "files": files}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _whole(folder: Path) -> dict[str, Any] | None:
    """The manifest, when the files it names are there with the content they had, and no others."""
    manifest = _read(folder / MANIFEST)
    try:
        if manifest is None or _names(folder / CONTENT) != sorted(manifest["files"]):
            return None
        same = hash_files(folder / CONTENT, list(manifest["files"])) == manifest["files"]
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
        name = Path(str(error.filename or ""))
        if error.errno in UNUSABLE and (name.is_relative_to(root) or root.is_relative_to(name)):
            message = f"the cache's folder {root} cannot be used: {error.strerror}"
            raise BenchError(message, "choose another with --cache, or mend this one") from error
        raise
