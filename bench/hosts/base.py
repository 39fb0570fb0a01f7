"""What a machine can do for us."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar, Protocol


@dataclass(frozen=True, slots=True)
class Completed:
    """A command's end: exit code, standard output, and the last of standard error."""

    code: int
    stdout: bytes
    stderr: str


class Link(Protocol):
    """A running command's pipes. File descriptors, so that a reader can wait on them with a limit."""

    read_fd: int
    write_fd: int

    def close(self) -> None:
        """Close both pipes and wait, bounded, for the command to end; then end it. Calling it again does nothing."""

    def said(self) -> str:
        """The last that the command wrote to standard error: why a login failed, why Python did not start."""


class Host(ABC):
    """One machine, reached somehow. Paths on it are given as they are there."""

    name: ClassVar[str]

    @abstractmethod
    def run(self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float) -> Completed:
        """Run a command to its end.

        Raises:
            Timeout: it took longer; it has been killed.
            Unreachable: it could not be started, or the link was lost.
        """

    @abstractmethod
    def start(self, argv: Sequence[str]) -> Link:
        """Start a command and hold its pipes.

        Raises:
            Unreachable: it could not be started.
        """

    @abstractmethod
    def put(self, source: Path, key: str, files: Sequence[str] = ()) -> PurePosixPath:
        """The path, there, of a copy of this file or folder, named by its content `key`. Atomic; sent when absent.

        `files`: of a folder that holds more, those that are meant.
        """

    @abstractmethod
    def get(self, path: PurePosixPath, target: Path) -> None:
        """Copy a file or folder from there to `target`, which must not exist. Atomic."""

    @property
    def root(self) -> str:
        """The folder, there, below which the system tells of the machine: another than `/` where it is made up."""
        return "/"

    @property
    @abstractmethod
    def python(self) -> str:
        """The interpreter, there, that runs workers."""

    @property
    @abstractmethod
    def workspace(self) -> PurePosixPath:
        """A folder, there, that we may fill: prepared artefacts are built below it."""
