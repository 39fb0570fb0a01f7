"""This machine, as a host."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from bench.errors import Timeout, Unreachable
from bench.hosts.base import Completed, Host, Link

CLOSE_LIMIT_S = 15.0
STDERR_TAIL_BYTES = 4096
PIPE_BYTES = 1 << 20


class LocalHost(Host):
    """Runs commands here. `put` copies nothing: what is here is there."""

    name = "local"

    def __init__(self, workspace: Path, python: str = sys.executable) -> None:
        self._workspace = workspace
        self._python = python

    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        try:
            process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            raise Unreachable(f"{argv[0]} cannot be started: {error.strerror}") from error
        with process:
            try:
                stdout, stderr = process.communicate(stdin, timeout_s)
            except subprocess.TimeoutExpired as error:
                raise Timeout(f"{argv[0]} took longer than {timeout_s:g} s") from error
            finally:
                if process.returncode is None:  # out of time, or interrupted: what it started goes with it
                    os.killpg(process.pid, signal.SIGKILL)
        return Completed(process.returncode, stdout, stderr[-STDERR_TAIL_BYTES:].decode("utf-8", "replace"))

    def start(self, argv: Sequence[str]) -> Link:
        return PipeLink(argv)

    def put(self, source: Path, key: str, files: Sequence[str] = ()) -> PurePosixPath:
        return PurePosixPath(source)

    def get(self, path: PurePosixPath, target: Path) -> None:
        if Path(path) == target:
            return
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as folder:
            part = Path(folder) / "part"
            shutil.copytree(path, part, symlinks=True) if Path(path).is_dir() else shutil.copy2(path, part)
            part.rename(target)

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
            message = f"{argv[0]} cannot be started: {error.strerror}"
            raise Unreachable(message, "check the interpreter's path") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._pipes = self._process.stdin, self._process.stdout
        self.write_fd, self.read_fd = (pipe.fileno() for pipe in self._pipes)
        for fd in (self.write_fd, self.read_fd):
            try:  # fewer turns between us and ssh
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            except OSError:
                pass  # this user has too many large ones
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
