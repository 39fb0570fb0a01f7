"""Reference outputs for a model's inputs: those that came with it, else from a runtime that may judge.

That is ONNX Runtime on the CPU in fp32 with its optimisations off where it is installed, else onnx's own evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.artifacts import identity, prepare
from bench.cache import key_of
from bench.datasets import DataSet, Provenance
from bench.errors import BenchError
from bench.interface import Backend, Model, Options, OptionValue, Outputs
from bench.models import Resolved
from bench.place import Place, started
from bench.registry import Registered, complete_options, installed
from bench.trial import error_facts, passing, run_once
from bench.worker import wire
from bench.worker.protocol import Decoder, Unpacker, encode, pack

FILE = "outputs.bin"


@dataclass(frozen=True, slots=True)
class Answers:
    """What a runtime gave for some inputs, in their order, and who it says it is."""

    outputs: tuple[Outputs, ...]
    producer: str
    version: str


def judges() -> list[Registered]:
    """The backends whose outputs may judge others, the best first."""
    works = {name: r for name, r in installed().items() if r.works()}
    found = [(r.create().local_only, name, r) for name, r in works.items() if r.create().reference is not None]
    return [registered for _, _, registered in sorted(found, key=lambda item: item[:2])]


def complete(resolved: Resolved, place: Place, files: Mapping[str, str] | None = None) -> Resolved:
    """The model with an expected output for each of its inputs. `files`: the run's file options (custom operators).

    Raises:
        BenchError: no installed backend can give one; the message says what each answered. Or the way to the machine
            failed, and nobody could be asked.
    """
    if all(data.expected is not None for data in resolved.data_sets):
        return resolved
    reasons: list[str] = []
    for judge in judges():
        try:
            return replace(resolved, data_sets=expected_by(judge, resolved, place, files or {}))
        except BenchError as error:
            if passing(error_facts(error, "resolve")):
                raise
            reasons.append(f"{judge.name}: {error.message}")
    came = any(data.expected is not None for data in resolved.data_sets)
    number, why = (1, ": stale answers show only with two") if came else (0, "")
    raise BenchError(
        f"no reference outputs for {resolved.model.name}: {'; '.join(reasons) or 'no backend may judge'}",
        f'install one that can: pip install "deploybench[cpu]", or put test_data_set_{number} beside the model{why}',
    )


def expected_by(judge: Registered, resolved: Resolved, place: Place, files: Mapping[str, str]) -> tuple[DataSet, ...]:
    """The data sets, each that has no expected output with the judge's.

    Raises:
        BenchError: the judge cannot load or run the model.
    """
    backend = judge.create()
    known = {option.name for option in backend.options if option.kind == "file"}
    settings = dict(backend.reference or {}) | {k: v for k, v in files.items() if k in known}
    lacking = [data for data in resolved.data_sets if data.expected is None]
    answers = cached(judge, resolved.model, lacking, place, settings, what="reference outputs")
    words = ", ".join(f"{k} {identity(v)}" for k, v in settings.items())
    provenance = Provenance(answers.producer, answers.version, words, "float32")
    made = iter(answers.outputs)
    return tuple(
        data if data.expected is not None else replace(data, expected=next(made), provenance=provenance)
        for data in resolved.data_sets
    )


def cached(
    judge: Registered,
    model: Model,
    data_sets: Sequence[DataSet],
    place: Place,
    settings: Mapping[str, OptionValue],
    *,
    what: str,
) -> Answers:
    """The judge's answers under these options, computed once and kept.

    Raises:
        BenchError: the judge cannot load or run the model.
    """
    backend = judge.create()

    def build(folder: Path) -> dict[str, Any]:
        place.say(f"computing {what} of {model.name} with {judge.name} (once)")
        options = options_of(backend, settings)
        made = answers(judge, model, data_sets, place.near, options, purpose=f"{what} with {judge.name}")
        save(made.outputs, folder)
        return {"producer": made.producer, "version": made.version}

    facts = {name: identity(value) for name, value in settings.items()}
    key = key_of([model.sha256, [d.sha256 for d in data_sets], judge.name, facts, versions(backend)])
    entry = place.cache.get("references", key, build, summary=f"{model.name} by {judge.name}", on_wait=place.say)
    return Answers(load(entry.path), entry.facts["producer"], entry.facts["version"])


def answers(
    judge: Registered,
    model: Model,
    data_sets: Sequence[DataSet],
    place: Place,
    options: Options,
    *,
    purpose: str,
) -> Answers:
    """What a backend answers to each input, in a worker of its own. Nothing is timed.

    Raises:
        BenchError: it cannot prepare, load or run the model.
    """
    prepared = prepare(place, judge, model, options)
    with started(place, judge, purpose=purpose) as ready:
        args = {"artifact": wire.plain(prepared.artifact), "options": wire.plain(options)}
        ready.worker.ask("load", args, limit_s=place.limits.load)
        outputs = tuple(run_once(ready.worker, data, place.limits, timed=False)[1] for data in data_sets)
    producer, told = next(iter(ready.probe.runtimes.items()), (judge.name, ready.probe.version))
    return Answers(outputs, producer, told)


def options_of(backend: Backend, settings: Mapping[str, OptionValue]) -> Options:
    """The backend's options, complete, with these settings."""
    return Options(extra=complete_options(backend, {name: str(value) for name, value in settings.items()}))


def versions(backend: Backend) -> dict[str, str]:
    """The judge's versions, without loading its runtime."""
    found = {}
    for name in backend.distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def save(sets: Sequence[Outputs], folder: Path) -> None:
    """Keep outputs in a folder of the cache; `load` is the inverse."""
    buffers: list[bytes | memoryview] = []
    trees = [{name: pack(value, buffers) for name, value in outputs.items()} for outputs in sets]
    (folder / FILE).write_bytes(encode({"sets": trees}, buffers))


def load(folder: Path) -> tuple[Outputs, ...]:
    """What `save` kept."""
    frame = next(iter(Decoder().feed((folder / FILE).read_bytes())))
    reader = Unpacker(frame.body)
    sets: Sequence[Mapping[str, Any]] = frame.header["sets"]
    return tuple({name: reader.value(tree) for name, tree in trees.items()} for trees in sets)
