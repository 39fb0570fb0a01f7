"""A machine that is held for as long as a search takes, and workers on it that stay: each would have cost a start."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from bench.place import Place, Started, begun, leased, worker_on
from bench.registry import Registered

Key = tuple[str, str, tuple[int, ...], str]


class Staying:
    """Workers that are asked again and again; one that failed is ended, and the next is fresh."""

    def __init__(self) -> None:
        self._known: dict[Key, Started] = {}

    @contextmanager
    def started(
        self, place: Place, backend: Registered, cpus: Sequence[int], *, purpose: str, builds: bool
    ) -> Iterator[Started]:
        """The worker for a purpose, its child started; ended where the block fails.

        Raises:
            WorkerError: it could not be started, or the runtime is not available there.
        """
        key = (place.device, backend.spec, tuple(cpus), purpose)
        if key not in self._known:
            worker = worker_on(place, backend)
            try:
                self._known[key] = begun(worker, place, backend, cpus, builds=builds)
            except BaseException:
                worker.close()
                raise
        try:
            yield self._known[key]
        except BaseException:
            self._known.pop(key).worker.close()
            raise

    def has(self, purpose: str) -> bool:
        """Whether one for this purpose has been asked already."""
        return any(key[-1] == purpose for key in self._known)

    def make_room(self, place: Place, but: str) -> None:
        """End those on the machine of `place` that are not for the purpose `but`, which needs their memory."""
        for key in [key for key in self._known if key[0] == place.device and key[-1] != but]:
            self._known.pop(key).worker.close()

    def end(self, purpose: str | None = None) -> None:
        """End those for a purpose, or all."""
        for key in [key for key in self._known if purpose in (None, key[-1])]:
            self._known.pop(key).worker.close()


@contextmanager
def hold(place: Place, backend: Registered, *, purpose: str) -> Iterator[tuple[Place, Staying]]:
    """The place, ours until the end, and the machine that the harness is on with it: workers there ask for neither.

    What others may be making while they wait for the machine must not be waited for meanwhile: entries of the cache.

    Raises:
        WorkerError: the machine was busy for too long, or cannot be reached.
    """
    staying = Staying()
    home = replace(place.home, workers=staying) if place.home else None
    try:
        with worker_on(place, backend) as worker, leased(worker, place, purpose) as at_home:
            if at_home:
                yield replace(place, home=home, workers=staying), staying
                return
            with worker_on(place.near, backend) as near, leased(near, place.near, purpose):
                yield replace(place, home=home, workers=staying), staying
    finally:
        staying.end()
