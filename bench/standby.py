"""Supervisors that stay while their children come and go: a trial needs a fresh process, not a fresh way to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from bench.place import Place, worker_on
from bench.registry import Registered
from bench.worker.client import Worker, WorkerError

REST_S = 20.0

Key = tuple[str, str]


class Standby:
    """Lends each to one at a time, and ends them all on the way out. Used by one thread."""

    def __init__(self) -> None:
        self._idle: dict[Key, Worker] = {}

    def __enter__(self) -> Standby:
        return self

    def __exit__(self, *exc: object) -> None:
        for worker in self._idle.values():
            worker.close()
        self._idle.clear()

    @contextmanager
    def lent(self, place: Place, backend: Registered) -> Iterator[Worker]:
        """A supervisor for this backend on the machine of `place`: without a child, and without the machine.

        It is kept afterwards, unless the block fails. Raises as `worker_on` does.
        """
        key = (place.device, backend.spec)
        worker = self._idle.pop(key, None)
        if worker is None or not _rests(worker):  # the link to one that waited may have been lost meanwhile
            worker = worker_on(place, backend)
        try:
            yield worker
        except BaseException:
            worker.close()
            raise
        if _rests(worker):
            if key in self._idle:
                worker.close()
            else:
                self._idle[key] = worker


def _rests(worker: Worker) -> bool:
    """End its child, and have it give the machine back; whether it is there to do so, closed if not."""
    try:
        worker.ask("rest", limit_s=REST_S)
    except WorkerError:
        worker.close()
        return False
    except BaseException:
        worker.close()
        raise
    return True
