"""This machine, as a host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bench.errors import Timeout, Unreachable
from bench.hosts.base import Completed, Host, Link

CLOSE_LIMIT_S = 15.0
STDERR_TAIL_BYTES = 4096


class LocalHost(Host):
    """Runs commands here. `put` copies nothing: what is here is there."""

    name = "local"

    def __init__(self, workspace: Path, python: str = sys.executable) -> None:
        self._workspace = workspace
        self._python = python

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        try:
            done = subprocess.run(list(argv), input=stdin, capture_output=True, timeout=timeout_s, check=False)
        except subprocess.TimeoutExpired as error:
            raise Timeout(f"{argv[0]} took longer than {timeout_s:g} s") from error
        except OSError as error:
            raise Unreachable(f"{argv[0]} cannot be started: {error.strerror}") from error
        return Completed(done.returncode, done.stdout, done.stderr[-STDERR_TAIL_BYTES:].decode("utf-8", "replace"))

    def start(self, argv: Sequence[str]) -> Link:
        return PipeLink(argv)

    def put(self, source: Path, key: str) -> PurePosixPath:
        return PurePosixPath(source)

    def get(self, path: PurePosixPath, target: Path) -> None:
        if Path(path) != target:
            shutil.copytree(path, target) if Path(path).is_dir() else shutil.copy2(path, target)

    @property
    def python(self) -> str:
        return self._python

    @property
    def workspace(self) -> PurePosixPath:
        return PurePosixPath(self._workspace)


class PipeLink:
    """A local process's pipes, in a session of its own: Ctrl-C at the terminal reaches us alone, and we end it."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        try:
            self._process = subprocess.Popen(
                list(argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
            )
        except OSError as error:
            self._stderr.close()
            raise Unreachable(f"{argv[0]} cannot be started: {error.strerror}", "check the interpreter's path") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = self._process.stdin, self._process.stdout
        self.write_fd, self.read_fd = (pipe.fileno() for pipe in self._pipes)
        self.pid = self._process.pid

    def close(self) -> None:
        for pipe in self._pipes:
            try:
                pipe.close()
            except OSError:
                pass  # the far side is gone: that is what we want
        try:
            self._process.wait(CLOSE_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if not self._stderr.closed:
            self._stderr.close()

    def said(self) -> str:
        if self._stderr.closed:
            return ""
        fd = self._stderr.fileno()
        size = os.fstat(fd).st_size
        return os.pread(fd, STDERR_TAIL_BYTES, max(0, size - STDERR_TAIL_BYTES)).decode("utf-8", "replace").strip()
