"""Who runs the parts: the backend and the reference, each in a process that stays for as long as nothing is wrong."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.artifacts import Prepared, Workshop, key_facts, prepare, workshop
from bench.cache import Cache, key_of
from bench.held import Staying
from bench.interface import Artifact, Feeds, Model, Options, Outputs
from bench.models import DataSet
from bench.place import Place, Started, started
from bench.registry import Registered
from bench.trial import run_once
from bench.worker import wire
from bench.worker.client import WorkerError

# A converter may take more memory than anything else in a search, and for a part like the whole model. Beyond this
# share of it, the workers that would wait meanwhile are ended (100 MiB), and started anew afterwards (0.5 s).
LARGE = 0.5


class BackendRunner:
    """Runs parts as every model is run: prepared, then loaded and run in a process on the device.

    The process stays from part to part. What it answers after other parts is believed where it accuses nobody: a part
    that fails is run again in a fresh one, and so is whatever is to be named (`fresh`). What is prepared of a part is
    not kept: what came of it is.
    """

    def __init__(self, place: Place, registered: Registered, options: Options) -> None:
        self._place, self._registered, self._options = place, registered, options
        self._purpose = f"part on {registered.name}"
        self._staying: Staying | None = None
        self._whole: tuple[str, Prepared | WorkerError] | None = None
        self._workshop: Workshop | None = None
        self._large_bytes = 0.0
        self.runtimes: Mapping[str, str] = {}
        self.converter: Mapping[str, str] = {}
        self.environment: Mapping[str, Any] = {}

    def prepare(self, whole: Model) -> str:
        """Prepare the model as it is, which is kept, before the machine is held: another may be about it, waiting.

        Returns:
            Why its artefact would be another, made again; empty where it would not.
        """
        if self._registered.create().prepares != "nothing":
            self._workshop = workshop(self._place, self._registered, self._options)
            self.converter = self._workshop.converter(whole)
            self._large_bytes = LARGE * _size(whole)
        try:
            made = prepare(self._place, self._registered, whole, self._options)
        except WorkerError as error:
            self._whole = whole.sha256, error
            return ""
        self._whole = whole.sha256, made
        return made.doubt

    def hold(self, place: Place, staying: Staying) -> None:
        """From now on the machine is ours, with these workers."""
        self._place, self._staying = replace(place, say=lambda message: None), staying

    def run(self, model: Model, feeds: Feeds, *, fresh: bool = False) -> Outputs:
        """The outputs of one run.

        Raises:
            WorkerError: it could not be prepared, loaded or run.
        """
        return self.runs(model, [feeds], fresh=fresh)[0]

    def runs(self, model: Model, feeds: list[Feeds], *, fresh: bool = False) -> list[Outputs]:
        """The outputs of several runs, one after another in one session."""
        with self._made(model) as (artifact, key):
            used = self._staying is not None and self._staying.has(self._purpose)
            if used and not fresh:
                try:
                    return self._answers(artifact, key, feeds)
                except WorkerError as error:
                    if error.failure.kind in ("link", "timeout"):  # a hang takes long enough once
                        raise
            if self._staying is not None:
                self._staying.end(self._purpose)
            return self._answers(artifact, key, feeds)

    @contextmanager
    def _made(self, model: Model) -> Iterator[tuple[Artifact, str]]:
        """The artefact, and the name of its content on the device."""
        if self._whole and model.sha256 == self._whole[0]:
            if isinstance(self._whole[1], WorkerError):
                raise self._whole[1]
            yield self._whole[1].artifact, self._whole[1].key
        elif self._workshop is None:
            yield model.as_it_is, model.sha256
        else:
            if self._staying is not None and _size(model) > self._large_bytes:
                self._staying.make_room(self._place.near, but=self._workshop.purpose)
            with tempfile.TemporaryDirectory(dir=model.root, prefix="artefact-") as folder:
                artifact = self._workshop.make(self._place, model, Path(folder))
                yield artifact, key_of(self._workshop.facts(model))

    def _answers(self, artifact: Artifact, key: str, feeds: list[Feeds]) -> list[Outputs]:
        place, plain = self._place, wire.plain(artifact)
        with started(place, self._registered, self._options.cpus, purpose=self._purpose) as ready:
            self.runtimes, self.environment = ready.probe.runtimes, ready.environment
            plain["root"] = str(place.host.put(artifact.root, key, artifact.files))
            args = {"artifact": plain, "options": wire.plain(self._options)}
            ready.worker.ask("load", args, limit_s=place.limits.load)
            return _ran(ready, feeds, place)


class ReferenceRunner:
    """Runs parts on the backend that may judge, near the harness, in a process that stays."""

    def __init__(self, place: Place, judge: Registered, options: Options) -> None:
        self._place, self._judge, self._options = place.near, judge, options
        self.version = judge.name

    def hold(self, place: Place) -> None:
        """From now on the machine is ours, with the workers that stay there."""
        self._place = place.near

    def run(self, model: Model, feeds: Feeds, *, fresh: bool = False) -> Outputs:
        """The reference's outputs.

        Raises:
            WorkerError: it cannot run the part.
        """
        artifact = model.as_it_is
        if self._judge.create().prepares != "nothing":
            artifact = prepare(self._place, self._judge, model, self._options).artifact
        with started(self._place, self._judge, purpose=f"reference of a search, on {self._judge.name}") as ready:
            probe = ready.probe
            self.version = " ".join(next(iter(probe.runtimes.items()), (self._judge.name, probe.version)))
            args = {"artifact": wire.plain(artifact), "options": wire.plain(self._options)}
            ready.worker.ask("load", args, limit_s=self._place.limits.load)
            return _ran(ready, [feeds], self._place)[0]


def _ran(ready: Started, feeds: list[Feeds], place: Place) -> list[Outputs]:
    """The outputs for each of them; what was loaded goes, for while another process works it would only fill memory."""
    found = [run_once(ready.worker, DataSet(feed), place.limits)[1] for feed in feeds]
    ready.worker.ask("unload", limit_s=place.limits.close)
    return found


def _size(model: Model) -> int:
    return sum((model.root / name).stat().st_size for name in model.files)


class KeptNotes:
    """Outcomes as entries of the cache, named by everything that decides them."""

    def __init__(self, cache: Cache, facts: Mapping[str, Any], summary: str) -> None:
        self._cache, self._facts, self._summary = cache, facts, summary

    def kept(self, question: Mapping[str, Any], ask: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """The answer to a question, asked only where it is not known yet."""
        key = key_of([self._facts, question])
        return self._cache.get("probes", key, lambda folder: ask(), summary=self._summary).facts


def facts_of(registered: Registered, model: Model, options: Options, runtimes: Mapping[str, str]) -> dict[str, Any]:
    """Everything about backend, options and model that decides what comes of a probe."""
    made = key_facts(registered, registered.create(), model, options)
    return {**made, "runtimes": dict(runtimes), "all options": wire.plain(options)}
