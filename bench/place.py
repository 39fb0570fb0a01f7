"""A place: a host with what a worker on it needs; how one is started there, alone on the machine; files put there."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from bench import __version__, record
from bench.cache import Cache, hash_files, key_of
from bench.errors import BackendUnavailable, BenchError, Timeout
from bench.evidence.boot import boot_id
from bench.hosts.base import Host
from bench.interface import Options, Probe
from bench.models import DataSet
from bench.registry import Registered
from bench.store import now
from bench.worker import bundle, wire
from bench.worker.client import CONNECT_S, Failure, Worker, WorkerError
from bench.worker.lease import Lease

SAY_AFTER_S = 2.0
LEASE_FOLDER = "/tmp"


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each phase may take, in seconds. `measure` is added to what the plan itself may take."""

    connect: float = CONNECT_S
    lease: float = 3600.0
    start: float = 60.0
    probe: float = 60.0
    prepare: float = 900.0
    load: float = 300.0
    first_run: float = 300.0
    measure: float = 60.0
    close: float = 60.0


class Workers(Protocol):
    """Workers that stay, on a machine that is held."""

    def started(
        self, place: Place, backend: Registered, cpus: Sequence[int], *, purpose: str, builds: bool
    ) -> AbstractContextManager[Started]:
        """One of them, its child started; ended where the block fails."""


@dataclass(frozen=True, slots=True)
class Place:
    """A host with what a worker on it needs."""

    device: str
    host: Host
    cache: Cache
    limits: Limits = field(default_factory=Limits)
    lease_folder: str = LEASE_FOLDER
    say: Callable[[str], None] = lambda message: None
    """Told what takes a while: waiting for the machine, fetching, converting."""
    home: Place | None = None
    """Where conversions and reference outputs are made, where that is not here: the machine that the harness is on."""
    packages: Callable[[Registered], Sequence[str]] = lambda backend: ()
    """The folders, there, of what a backend needs and was brought along."""
    cpu_sets: Mapping[str, str] = field(default_factory=dict)
    """Names for sets of its CPUs, as devices.toml gives them."""
    retries: int = 0
    """How often a trial is begun again whose link was lost."""
    workers: Workers | None = None
    """Where the machine is held for a while, those that stay; else each is a fresh one that asks for the machine."""

    @property
    def near(self) -> Place:
        """Where files of this machine can be read."""
        return self.home or self


@dataclass(frozen=True, slots=True)
class Wait:
    """Before a trial, wait at most so long for others to use less of the machine, and for it to be no hotter."""

    seconds: float
    max_foreign_cpu: float
    max_temperature_c: float | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """A worker whose child has imported its runtime."""

    worker: Worker
    probe: Probe
    environment: Mapping[str, Any]
    start_s: float
    import_s: float
    waited: record.WaitedFacts | None = None


def probe(place: Place, backend: Registered) -> Probe:
    """What the backend can do there, asked in a process of its own: importing a runtime may print, crash or hang."""
    try:
        with worker_on(place, backend) as worker:
            worker.ask("start", {"backend": backend.spec, "cpus": []}, limit_s=place.limits.start)
            answer, _ = worker.ask("probe", limit_s=place.limits.probe)
    except BenchError as error:
        return Probe(False, reason=error.message, remedy=error.hint)
    return wire.probe(answer["probe"])


@contextmanager
def started(
    place: Place,
    backend: Registered,
    cpus: Sequence[int] = (),
    *,
    purpose: str,
    wait: Wait | None = None,
    builds: bool = False,
) -> Iterator[Started]:
    """A leased worker with a fresh child for this backend, ended on the way out.

    `builds`: it is wanted for `prepare` alone.

    Raises:
        WorkerError: it could not be started, or the runtime is not available there.
    """
    if place.workers:
        with place.workers.started(place, backend, cpus, purpose=purpose, builds=builds) as ready:
            yield ready
        return
    with worker_on(place, backend) as worker, leased(worker, place, purpose):
        waited = _quiet(worker, place, wait) if wait else None
        yield replace(begun(worker, place, backend, cpus, builds=builds), waited=waited)


def begun(
    worker: Worker, place: Place, backend: Registered, cpus: Sequence[int] = (), *, builds: bool = False
) -> Started:
    """The worker with a fresh child that has imported its runtime. Raises as `started` does."""
    limits = place.limits
    begin = time.perf_counter()
    facts, _ = worker.ask("start", {"backend": backend.spec, "cpus": list(cpus)}, limit_s=limits.start)
    start_s = time.perf_counter() - begin
    begin = time.perf_counter()
    answer, _ = worker.ask("probe", {"machine": place.host.root}, limit_s=limits.probe)
    import_s = time.perf_counter() - begin
    probe = wire.probe(answer["probe"])
    if not (probe.available or (builds and probe.builds)):
        failure = Failure("probe", "BackendUnavailable", probe.reason, probe.remedy, error=BackendUnavailable.__name__)
        raise WorkerError(failure)
    environment = {**answer["environment"], "numpy": facts["numpy"], "deploybench": __version__}
    return Started(worker, probe, environment, start_s, import_s)


def worker_on(place: Place, backend: Registered) -> Worker:
    """A worker there, without a child, and without the machine."""
    code, key = bundle.make(backend.spec, place.cache)
    there, packages = str(place.host.put(code, key)), place.packages(backend)
    return Worker(place.host, there, packages=packages, connect_s=place.limits.connect, say=place.say)


@contextmanager
def leased(worker: Worker, place: Place, purpose: str) -> Iterator[bool]:
    """Have the machine to ourselves; whether that is the one that the harness is on, too.

    A device may be this very machine, in a container or emulated: it has the same kernel, but perhaps not the folder
    that users of this machine meet in. So we meet them ourselves.
    """
    where = f" on {place.device}" if place.home else ""
    holder = f"deploybench {purpose}{where} (process {os.getpid()}, since {now()})"
    boot = _lease(worker, place, holder)
    if place.home is None or boot != boot_id():
        yield place.home is None
        return
    lease = Lease(place.lease_folder, holder)
    try:
        if not lease.held and lease.holder() != holder:  # else the device uses this folder, and it is ours already
            place.say(f"waiting: {place.device} is on this machine, and {lease.holder()} holds it")
            if not select.select([lease.ready_fd], [], [], place.limits.lease)[0]:
                message = f"the machine is busy: {lease.holder()} holds it"
                raise Timeout(message, "wait for it to end, or raise the limit")
            lease.take()
        yield True
    finally:
        lease.release()


def _lease(worker: Worker, place: Place, holder: str) -> str:
    """Have the device to ourselves, and say so when that takes a while; the kernel's name for its boot."""
    args = {"folder": place.lease_folder, "holder": holder}
    try:
        answer, _ = worker.ask("lease", args, phase="connect", limit_s=min(SAY_AFTER_S, place.limits.lease))
    except WorkerError as error:
        if error.failure.kind != "lease" or place.limits.lease <= SAY_AFTER_S:
            raise
        place.say(f"waiting: {error.message}")
        answer, _ = worker.ask("lease", args, phase="connect", limit_s=place.limits.lease - SAY_AFTER_S)
    return str(answer["boot"])


def _quiet(worker: Worker, place: Place, wait: Wait) -> record.WaitedFacts:
    """Have the machine quiet and cool, if it gets so in time: there, before anything of ours runs."""
    place.say(f"waiting for the machine to be quiet, at most {wait.seconds:g} s")
    args = {
        "wait_s": wait.seconds,
        "max_foreign_cpu": wait.max_foreign_cpu,
        "max_temperature_c": wait.max_temperature_c,
    }
    answer, _ = worker.ask("quiet", args, phase="connect", limit_s=wait.seconds + place.limits.connect)
    return record.WaitedFacts(**answer)


def feeds_there(place: Place, data: DataSet, buffers: Sequence[bytes | memoryview]) -> PurePosixPath:
    """The file, there, of an input's bytes."""

    def build(folder: Path) -> dict[str, Any]:
        (folder / "feeds").write_bytes(b"".join(buffers))
        return {}

    entry = place.cache.get("inputs", data.sha256, build, summary="inputs for devices")
    return place.host.put(entry.path / "feeds", f"inputs-{entry.sha256}")


def options_there(place: Place, backend: Registered, options: Options) -> Options:
    """The options, with the files that they name put there."""
    named = [o.name for o in backend.create().options if o.kind == "file" and options.extra.get(o.name)]
    if not named:
        return options
    there = {name: str(_put_file(place, Path(str(options.extra[name])))) for name in named}
    return replace(options, extra={**options.extra, **there})


def _put_file(place: Place, path: Path) -> PurePosixPath:
    return place.host.put(path, f"file-{key_of(hash_files(path.parent, [path.name]))}")
