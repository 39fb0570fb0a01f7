"""From a model reference (a path, a folder, a catalogue name) to a model that can be prepared, fed and judged."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import catalog, onnxfile
from bench.cache import Cache, key_of
from bench.errors import UsageError
from bench.interface import Array, Feeds, Model, Outputs, ValueSpec
from bench.registry import nearest

# Random token numbers stay below this: no vocabulary is smaller, and a Gather beyond its table is an error.
TOKEN_BOUND = 8
GENERATED_FEEDS = 2
INPUT_SEED = 20261120


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made reference outputs. `producer` is a distribution's name; all fields are `as supplied` where nobody said."""

    producer: str
    version: str
    settings: str = ""


AS_SUPPLIED = Provenance("as supplied", "")


@dataclass(frozen=True, slots=True)
class DataSet:
    """One input of the model and, where it came with one, the output that a runtime must give for it."""

    feeds: Feeds
    expected: Outputs | None = None
    provenance: Provenance | None = None

    @property
    def sha256(self) -> str:
        """A hash of the feeds: names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name, array in sorted(self.feeds.items()):
            digest.update(f"{name} {array.dtype} {array.shape} ".encode())
            digest.update(repr(array.tolist()).encode() if array.dtype == object else array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model ready for use: `source_sha256` is the file as the user has it, `model` is it with its dimensions bound."""

    reference: str
    model: Model
    source_sha256: str
    precision: str
    shapes: Mapping[str, tuple[int, ...]]
    data_sets: tuple[DataSet, ...]
    notes: tuple[str, ...] = field(default=())


def resolve(
    reference: str,
    cache: Cache,
    *,
    shapes: Mapping[str, tuple[int, ...]],
    batch: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> Resolved:
    """The model that a reference names, with at least two inputs to feed it.

    Raises:
        UsageError: there is no such model, its file is bad, or its dimensions are left open.
        BenchError: its recipe failed.
    """
    path, name = locate(reference, cache, say)
    file = onnxfile.read(path)
    bound = onnxfile.bindings(file, shapes, batch)
    source_sha256 = file.sha256
    if any(tuple(dims) != bound[n] for n, dims in file.open_dims.items()):
        file = _bound(file, bound, cache)
    signature = onnxfile.infer_outputs(file, onnxfile.signature(file.proto))
    model = Model(name, file.root, file.files, file.sha256, file.opset, signature)
    supplied, notes = _supplied(path.parent, model)
    return Resolved(
        reference, model, source_sha256, file.precision, bound, _with_generated(supplied, model), notes
    )


def locate(reference: str, cache: Cache, say: Callable[[str], None]) -> tuple[Path, str]:
    """The .onnx file and the model's name. A catalogue name wins over a file or folder of the same name in this folder."""
    entries = catalog.load()
    if reference in entries:
        return catalog.make(entries[reference], cache, say) / "model.onnx", reference
    path = Path(reference).expanduser()
    if path.is_dir():
        return _in_folder(path), path.resolve().name
    if path.is_file():
        return path, path.resolve().parent.name if path.name == "model.onnx" else path.stem
    if path.suffix == ".onnx" or "/" in reference:
        raise UsageError(f"there is no file {reference}")
    hint = f"{nearest(reference, entries)}; or give the path of an .onnx file"
    raise UsageError(f"there is no model {reference!r}", hint)


def _in_folder(path: Path) -> Path:
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    found = sorted(path.glob("*.onnx"))
    if len(found) == 1:
        return found[0]
    what = f"{len(found)} .onnx files" if found else "no .onnx file"
    raise UsageError(f"the folder {path} holds {what}", "give the file itself, or call it model.onnx")


def _bound(file: onnxfile.OnnxFile, bound: Mapping[str, tuple[int, ...]], cache: Cache) -> onnxfile.OnnxFile:
    def build(folder: Path) -> dict[str, Any]:
        onnxfile.bind(file, bound, folder)
        return {"source_sha256": file.sha256}

    key = key_of([file.sha256, sorted(bound.items())])
    folder = cache.get("bound", key, build, summary=f"{file.files[0]} with {onnxfile.describe(bound)}").path
    return onnxfile.read(folder / file.files[0])


def _supplied(folder: Path, model: Model) -> tuple[tuple[DataSet, ...], tuple[str, ...]]:
    """The folder's own data sets, in order. One whose inputs do not fit the bound shapes is left out, and said."""
    provenance = _provenance(folder)
    found: list[DataSet] = []
    notes: list[str] = []
    for data in sorted(folder.glob("test_data_set_*"), key=lambda p: (len(p.name), p.name)):
        feeds = _values(data, "input", model.signature.inputs)
        if misfit := _misfit(feeds, model.signature.inputs):
            notes.append(f"{data.name} is not used: {misfit}")
            continue
        expected: dict[str, Any] = dict(_values(data, "output", model.signature.outputs))
        if set(expected) != {o.name for o in model.signature.outputs}:
            notes.append(f"{data.name} has not every output: its outputs are not used")
            found.append(DataSet(feeds))
        else:
            found.append(DataSet(feeds, expected, provenance))
    return tuple(found), tuple(notes)


def _provenance(folder: Path) -> Provenance:
    try:
        data = json.loads((folder / "provenance.json").read_text())
        return Provenance(str(data["producer"]), str(data["version"]), str(data.get("settings", "")))
    except FileNotFoundError:
        return AS_SUPPLIED
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / 'provenance.json'} cannot be used: {error}", "it needs producer and version") from error


def _values(folder: Path, prefix: str, specs: tuple[ValueSpec, ...]) -> dict[str, Array]:
    """`prefix_K.pb` by the name inside, or by position where the file names none."""
    found: dict[str, Array] = {}
    names = {spec.name for spec in specs}
    for index, spec in enumerate(specs):
        path = folder / f"{prefix}_{index}.pb"
        if path.is_file():
            name, array = onnxfile.tensor(path)
            found[name if name in names else spec.name] = np.ascontiguousarray(array)
    return found


def _misfit(feeds: Feeds, inputs: tuple[ValueSpec, ...]) -> str:
    for spec in inputs:
        if spec.name not in feeds:
            return f"it has no input {spec.name!r}"
        array = feeds[spec.name]
        dtype = "string" if array.dtype == object else array.dtype.name
        if dtype != spec.dtype or array.shape != spec.shape:
            wanted = f"{spec.dtype}{list(spec.shape or ())}"
            return f"its {spec.name!r} is {dtype}{list(array.shape)}, the model takes {wanted}"
    return ""


def _with_generated(supplied: tuple[DataSet, ...], model: Model) -> tuple[DataSet, ...]:
    """At least two different inputs, so that a stale or input-blind output is seen."""
    generated = (DataSet(random_feeds(model.signature.inputs, INPUT_SEED + i)) for i in range(GENERATED_FEEDS))
    if not model.signature.inputs:
        return supplied[:1] or (DataSet({}),)
    return (*supplied, *generated)[: max(GENERATED_FEEDS, len(supplied))]


def random_feeds(inputs: tuple[ValueSpec, ...], seed: int) -> dict[str, Array]:
    """Seeded inputs, never constant: standard normal floats, small whole numbers, random bools and words."""
    return {spec.name: _random(spec, np.random.default_rng([seed, zlib.crc32(spec.name.encode())])) for spec in inputs}


def _random(spec: ValueSpec, generator: np.random.Generator) -> Array:
    shape = tuple(d or 0 for d in spec.shape or ())
    if spec.kind != "tensor":
        raise UsageError(f"input {spec.name!r} is a {spec.kind}; only tensors can be generated")
    if spec.dtype == "bool":
        return generator.integers(0, 2, shape).astype(bool)
    if spec.dtype == "string":
        words = np.empty(shape, dtype=object)
        words[...] = np.array([f"w{n}" for n in generator.integers(0, TOKEN_BOUND, shape).ravel()], object).reshape(shape)
        return words
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        raise UsageError(f"input {spec.name!r} is {spec.dtype}, for which no input can be generated") from None
    if dtype.kind in "iu":
        return generator.integers(0, TOKEN_BOUND, shape).astype(dtype)
    return np.asarray(generator.standard_normal(shape)).astype(dtype)
