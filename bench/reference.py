"""Reference outputs for a model's inputs: those that came with it, else from a runtime that may judge.

That is ONNX Runtime on the CPU in fp32 with its optimisations off where it is installed, else onnx's own evaluator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from bench.artifacts import identity, prepare
from bench.cache import key_of
from bench.errors import BenchError
from bench.interface import Backend, Options, Outputs
from bench.models import DataSet, Provenance, Resolved
from bench.registry import Registered, complete_options, installed
from bench.trial import Place, run_once, started
from bench.worker import wire
from bench.worker.protocol import Decoder, Unpacker, encode, pack

FILE = "outputs.bin"


def judges() -> list[Registered]:
    """The backends whose outputs may judge others, the best first."""
    works = {name: r for name, r in installed().items() if r.works()}
    found = [(r.create().local_only, name, r) for name, r in works.items() if r.create().reference is not None]
    return [registered for _, _, registered in sorted(found, key=lambda item: item[:2])]


def complete(resolved: Resolved, place: Place, files: Mapping[str, str] | None = None) -> Resolved:
    """The model with an expected output for each of its inputs. `files`: the run's file options (custom operators).

    Raises:
        BenchError: no installed backend can give one; the message says what each answered.
    """
    if all(data.expected is not None for data in resolved.data_sets):
        return resolved
    reasons: list[str] = []
    for judge in judges():
        try:
            data_sets = tuple(_with_expected(d, resolved, place, judge, files or {}) for d in resolved.data_sets)
        except BenchError as error:
            reasons.append(f"{judge.name}: {error.message}")
            continue
        return replace(resolved, data_sets=data_sets)
    raise BenchError(
        f"no reference outputs for {resolved.model.name}: {'; '.join(reasons) or 'no backend may judge'}",
        'install one that can: pip install "deploybench[cpu]", or put test_data_set_0 beside the model',
    )


def _with_expected(
    data: DataSet,
    resolved: Resolved,
    place: Place,
    judge: Registered,
    files: Mapping[str, str],
) -> DataSet:
    if data.expected is not None:
        return data
    backend = judge.create()
    known = {option.name for option in backend.options if option.kind == "file"}
    settings = {k: str(v) for k, v in (backend.reference or {}).items()} | {
        k: v for k, v in files.items() if k in known
    }
    options = Options(extra=complete_options(backend, settings))

    def build(folder: Path) -> dict[str, Any]:
        place.say(f"computing reference outputs of {resolved.model.name} with {judge.name} (once)")
        prepared = prepare(place, judge, resolved.model, options)
        with started(place, judge, purpose=f"reference outputs with {judge.name}") as ready:
            args = {"artifact": wire.plain(prepared.artifact), "options": wire.plain(options)}
            ready.worker.ask("load", args, limit_s=place.limits.load)
            _, outputs = run_once(ready.worker, data, place.limits)
        _save(outputs, folder / FILE)
        producer, version = next(iter(ready.probe.runtimes.items()), (judge.name, ready.probe.version))
        return {"producer": producer, "version": version}

    facts = {name: identity(value) for name, value in settings.items()}
    key = key_of([resolved.model.sha256, data.sha256, judge.name, facts, _versions(backend)])
    entry = place.cache.get(
        "references", key, build, summary=f"{resolved.model.name} by {judge.name}", on_wait=place.say
    )
    words = ", ".join(f"{k} {v}" for k, v in facts.items())
    provenance = Provenance(entry.facts["producer"], entry.facts["version"], words)
    return replace(data, expected=_load(entry.path / FILE), provenance=provenance)


def _versions(backend: Backend) -> dict[str, str]:
    """The judge's versions, without loading its runtime."""
    found = {}
    for name in backend.distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def _save(outputs: Outputs, path: Path) -> None:
    buffers: list[bytes | memoryview] = []
    trees = {name: pack(value, buffers) for name, value in outputs.items()}
    path.write_bytes(encode({"outputs": trees}, buffers))


def _load(path: Path) -> Outputs:
    frame = next(iter(Decoder().feed(path.read_bytes())))
    reader = Unpacker(frame.body)
    trees: Mapping[str, Any] = frame.header["outputs"]
    return {name: reader.value(tree) for name, tree in trees.items()}
