"""Brings a backend's runtime to a board: numpy and the pinned wheels, each once, each in a folder named by its hash."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bench.cache import Cache
from bench.hosts.ssh import SshHost, require
from bench.provision.tags import Tags, tags, target
from bench.provision.wheels import fetch, numpy_for
from bench.registry import Registered


class Board:
    """What a board is given, for one host."""

    def __init__(self, host: SshHost, cache: Cache, say: Callable[[str], None]) -> None:
        self._host, self._cache, self._say = host, cache, say

    def packages(self, backend: Registered) -> Sequence[str]:
        """The folders, there, of everything that the backend needs; what is missing is sent.

        Raises:
            BackendUnavailable: the runtime has no wheel for the board.
            HostError: the board cannot be reached, or cannot take it.
        """
        fits = self.tags()
        wanted = [numpy_for(fits), *backend.create().runtime_wheels(target(fits))]
        wheels = [fetch(requirement, fits, self._cache, self._say) for requirement in wanted]
        return [str(self._host.put_wheel(wheel.path, wheel.sha256)) for wheel in wheels]

    def tags(self) -> Tags:
        """What fits the board."""
        found = require(self._host.survey(), self._host.login.label)
        return tags(found.arch, found.libc, found.python, found.abi)
