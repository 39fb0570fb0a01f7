"""Prepared artefacts: what a backend makes of a model, built once in a worker and kept by content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench import toolbox
from bench.building import built_on, site, why_anew
from bench.cache import hash_files, key_of
from bench.interface import Artifact, Backend, Model, Options, OptionValue, Target
from bench.place import Place, started
from bench.registry import Registered
from bench.reproducible import made_again
from bench.worker import bundle, wire


@dataclass(frozen=True, slots=True)
class Prepared:
    """An artefact on this machine, ready to be put where it is loaded."""

    artifact: Artifact
    key: str
    seconds: float
    cache: str
    size_bytes: int
    sha256: str
    converter: Mapping[str, str]
    doubt: str = ""
    """Why making it again may give another one; empty where it was made twice alike, or cannot be."""


@dataclass(frozen=True, slots=True)
class Workshop:
    """What it takes to make artefacts for a backend, had once: its tools, and what of the device decides them."""

    registered: Registered
    options: Options
    tools: Mapping[str, Path]
    built_on: Mapping[str, str]

    @property
    def purpose(self) -> str:
        """What its worker is there for."""
        return f"conversion for {self.registered.name}"

    def facts(self, model: Model) -> dict[str, Any]:
        """Everything that decides the artefact of a model."""
        found = key_facts(self.registered, self.registered.create(), model, self.options)
        return found | {"built_on": dict(self.built_on)} if self.built_on else found

    def make(self, place: Place, model: Model, folder: Path) -> Artifact:
        """The artefact of a model in an empty folder, converted in a worker of its own.

        Raises:
            WorkerError: the conversion failed, timed out, or its tool crashed.
        """
        with self._converting(place, model, folder) as convert:
            artifact = convert(None)
        _keep_only(folder, artifact.files)
        return replace(artifact, root=folder)

    def make_twice(self, place: Place, model: Model, folder: Path) -> tuple[Artifact, float, str]:
        """The artefact, the seconds that it took, and in words what was different the second time, if on the host.

        Raises as `make` does, where it fails the first time.
        """
        begin = time.perf_counter()
        if self.registered.create().prepares != "host":  # a device tunes by timing: nobody expects the same bytes
            return self.make(place, model, folder), time.perf_counter() - begin, ""
        with self._converting(place, model, folder) as convert:
            made = replace(convert(None), root=folder)
            seconds = time.perf_counter() - begin
            _keep_only(folder, made.files)
            return made, seconds, made_again(made, convert)

    @contextmanager
    def _converting(self, place: Place, model: Model, folder: Path) -> Iterator[Callable[[Path | None], Artifact]]:
        """A worker that makes the artefact where the site says, or again, in another folder."""
        with (
            site(place, self.registered, model, self.options, folder) as at,
            started(at.place, self.registered, purpose=self.purpose, builds=True) as ready,
        ):

            def convert(again: Path | None) -> Artifact:
                args = {
                    "model": wire.plain(at.model),
                    "options": wire.plain(at.options),
                    "workdir": str(again or at.workdir),
                    "tools": {name: str(path) for name, path in self.tools.items()},
                }
                answer, _ = ready.worker.ask("prepare", args, limit_s=place.limits.prepare)
                return wire.artifact(answer["artifact"])

            yield convert

    def converter(self, model: Model) -> dict[str, str]:
        """The versions of what makes the artefact."""
        backend = self.registered.create()
        made_by = backend.prepare_key(model, self.options, Target(""))
        found = {name: str(value) for name, value in made_by.items()} | dict(self.built_on)
        return found | {tool.name: tool.requirement.partition("==")[2] for tool in backend.tools}


def workshop(place: Place, registered: Registered, options: Options, *, to_run: bool = True) -> Workshop:
    """The workshop of a backend that prepares.

    `to_run`: an artefact is of no use where it cannot be run afterwards.

    Raises:
        BackendUnavailable: a tool that it needs could not be fetched, or it cannot be built there.
    """
    backend = registered.create()
    tools = {tool.name: toolbox.fetch(tool, place.cache, place.say) for tool in backend.tools}
    there = built_on(place, registered, to_run=to_run) if backend.prepares == "device" else {}
    return Workshop(registered, options, tools, there)


def prepare(place: Place, registered: Registered, model: Model, options: Options, *, to_run: bool = True) -> Prepared:
    """The artefact of a model for a backend; converted in a worker of its own unless the cache has it.

    Raises as `workshop` and `Workshop.make` do.
    """
    if registered.create().prepares == "nothing":
        return _as_it_is(model)
    shop = workshop(place, registered, options, to_run=to_run)
    facts = shop.facts(model)
    key, summary = key_of(facts), f"{model.name} for {registered.name}"
    damaged = place.cache.holds("artifacts", key)

    def build(folder: Path) -> dict[str, Any]:
        why = "the one in the cache is damaged" if damaged else why_anew(place.cache.facts("artifacts", summary), facts)
        place.say(f"preparing {summary} ({why or 'once'})")
        made, seconds, doubt = shop.make_twice(place, model, folder)
        return {"artifact": {**wire.plain(made), "root": ""}, "made_from": facts, "seconds": seconds, "doubt": doubt}

    entry = place.cache.get("artifacts", key, build, summary=summary, on_wait=place.say)
    artifact = replace(wire.artifact(entry.facts["artifact"]), root=entry.path)
    cache = "hit" if entry.hit else "miss"
    return Prepared(
        artifact,
        key,
        0.0 if entry.hit else entry.facts["seconds"],
        cache,
        entry.size_bytes,
        entry.sha256,
        shop.converter(model),
        entry.facts.get("doubt", ""),
    )


def key_facts(registered: Registered, backend: Backend, model: Model, options: Options) -> dict[str, Any]:
    """Everything that decides the artefact: model, options that shape it, converter, and the backend's own code."""
    shaping = {o.name for o in backend.options if o.artefact}
    code = bundle.files(registered.spec)
    return {
        "backend": registered.name,
        "model": model.sha256,
        "precision": options.precision,
        "options": {name: identity(value) for name, value in options.extra.items() if name in shaping},
        "tools": sorted(tool.requirement for tool in backend.tools),
        "versions": dict(backend.prepare_key(model, options, Target(""))),
        "code": key_of(
            sorted((n, hashlib.sha256(d).hexdigest()) for n, d in code.items() if not n.startswith("bench/"))
        ),
    }


def identity(value: OptionValue) -> OptionValue:
    """What stands for an option's value in keys and records: a file is its name and content, wherever it lies."""
    if isinstance(value, str) and "/" in value and Path(value).is_file():
        digest = hashlib.sha256(Path(value).read_bytes()).hexdigest()
        return f"{Path(value).name} sha256:{digest}"
    return value


def _as_it_is(model: Model) -> Prepared:
    files = hash_files(model.root, list(model.files))
    size = sum(size for size, _ in files.values())
    return Prepared(model.as_it_is, model.sha256, 0.0, "none", size, key_of(files), {})


def _keep_only(folder: Path, files: Sequence[str]) -> None:
    """Converters leave drafts behind; the artefact is what the backend named."""
    keep = {folder / name for name in files}
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir() and not path.is_symlink():
            if not any(path.iterdir()):
                path.rmdir()
        elif path not in keep:
            path.unlink()
