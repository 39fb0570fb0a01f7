"""From a model reference (a path, a folder, a catalogue name) to a model that can be prepared, fed and judged."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench import catalog, onnxfile
from bench.cache import Cache, key_of
from bench.errors import UsageError
from bench.interface import Array, Feeds, Model, Outputs, Packed, ValueSpec
from bench.registry import nearest

# Random whole numbers stay below this, and below the size of a table that they index where the file shows it: a Gather
# beyond its table is an error. Where the file hides it, a smaller table needs data sets beside the model.
TOKEN_BOUND = 8
# How often inputs are drawn again that came out as others did, as a lone bool will.
_DRAWS = 64
GENERATED_FEEDS = 2
INPUT_SEED = 20261120


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made reference outputs. `producer` is a distribution's name, or `as supplied` where nobody said."""

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
    """A model ready for use: `source_sha256` is the file as the user has it, `model` has its dimensions bound."""

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
    if any(dims != bound[n] for n, dims in file.open_dims.items()):
        file = _bound(file, bound, cache)
    signature = onnxfile.infer_outputs(file, onnxfile.signature(file.proto))
    model = Model(name, file.root, file.files, file.sha256, file.opset, signature)
    supplied, notes = _supplied(path.parent, model)
    data_sets = _with_generated(supplied, model, file.index_bounds)
    return Resolved(reference, model, source_sha256, file.precision, bound, data_sets, notes)


def locate(reference: str, cache: Cache, say: Callable[[str], None]) -> tuple[Path, str]:
    """The .onnx file and the model's name. A catalogue name wins over a file or folder that is called the same."""
    entries = catalog.load()
    if reference in entries:
        return catalog.make(entries[reference], cache, say) / "model.onnx", reference
    try:
        path = Path(reference).expanduser().absolute()  # workers run in folders of their own
        if path.is_dir():
            return _in_folder(path), path.resolve().name or "model"
        if path.is_file():
            return path, (path.resolve().parent.name if path.name == "model.onnx" else path.stem) or "model"
    except (OSError, RuntimeError, ValueError) as error:  # no permission, too long a name, ~nobody
        raise UsageError(f"{reference} cannot be looked up: {getattr(error, 'strerror', None) or error}") from error
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
    """The folder's own data sets, in order. What of them cannot be used is left out, and said."""
    provenance = _provenance(folder)
    found: list[DataSet] = []
    notes: list[str] = []
    signature = model.signature
    for data in sorted(folder.glob("test_data_set_*"), key=lambda p: (len(p.name), p.name)):
        feeds = _values(data, "input", signature.inputs)
        if misfit := _misfit(feeds, signature.inputs):
            notes.append(f"{data.name} is not used: {misfit}")
            continue
        expected = _values(data, "output", signature.outputs)
        if lacking := [o.name for o in signature.outputs if o.name not in expected]:
            notes.append(f"the outputs of {data.name} are not used: there is none for {lacking[0]!r}")
            found.append(DataSet(feeds))  # type: ignore[arg-type]  # what fits holds no packed tensors
        else:
            found.append(DataSet(feeds, dict(expected), provenance))  # type: ignore[arg-type]
    return tuple(found), tuple(notes)


def _provenance(folder: Path) -> Provenance:
    try:
        data = json.loads((folder / "provenance.json").read_text())
        return Provenance(str(data["producer"]), str(data["version"]), str(data.get("settings", "")))
    except FileNotFoundError:
        return AS_SUPPLIED
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(
            f"{folder / 'provenance.json'} cannot be used: {error}", "it needs producer and version"
        ) from error


def _values(folder: Path, prefix: str, specs: tuple[ValueSpec, ...]) -> dict[str, Array | Packed]:
    """`prefix_K.pb` by the name inside, or by position where the file names none. Sequences and maps are left out."""
    found: dict[str, Array | Packed] = {}
    names = {spec.name for spec in specs}
    for index, spec in enumerate(specs):
        path = folder / f"{prefix}_{index}.pb"
        if spec.kind == "tensor" and path.is_file():
            name, value = onnxfile.tensor(path)
            found[name if name in names else spec.name] = (
                value if isinstance(value, Packed) else np.asarray(value, order="C")
            )
    return found


def _misfit(feeds: Mapping[str, Array | Packed], inputs: tuple[ValueSpec, ...]) -> str:
    for spec in inputs:
        if spec.name not in feeds:
            return f"it has no input {spec.name!r}"
        value = feeds[spec.name]
        if isinstance(value, Packed):
            return f"its {spec.name!r} is {value.dtype}, which cannot be fed"
        dtype = "string" if value.dtype == object else value.dtype.name
        if dtype != spec.dtype or value.shape != spec.shape:
            wanted = f"{spec.dtype}{list(spec.shape or ())}"
            return f"its {spec.name!r} is {dtype}{list(value.shape)}, the model takes {wanted}"
    return ""


def _with_generated(supplied: tuple[DataSet, ...], model: Model, bounds: Mapping[str, int]) -> tuple[DataSet, ...]:
    """At least two different inputs, so that a stale or input-blind output is seen."""
    inputs = model.signature.inputs
    if not inputs:
        return supplied[:1] or (DataSet({}),)
    found = list(supplied)
    known = {data.sha256 for data in found}
    for seed in range(INPUT_SEED, INPUT_SEED + _DRAWS):
        if len(known) >= GENERATED_FEEDS:
            break
        data = DataSet(random_feeds(inputs, seed, bounds))
        if data.sha256 not in known:
            known.add(data.sha256)
            found.append(data)
    return tuple(found)


def random_feeds(inputs: tuple[ValueSpec, ...], seed: int, bounds: Mapping[str, int] | None = None) -> dict[str, Array]:
    """Seeded inputs, never constant: standard normal floats, whole numbers below `bounds`, random bools and words.

    Raises:
        UsageError: an input is of a type for which none can be made.
    """
    found = {}
    for spec in inputs:
        generator = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
        found[spec.name] = _random(spec, generator, min(TOKEN_BOUND, (bounds or {}).get(spec.name, TOKEN_BOUND)))
    return found


def _random(spec: ValueSpec, generator: np.random.Generator, bound: int) -> Array:
    shape = tuple(d or 0 for d in spec.shape or ())
    if spec.kind != "tensor":
        raise UsageError(f"input {spec.name!r} is a {spec.kind}; only tensors can be generated")
    if spec.dtype == "bool":
        return _whole(generator, shape, 2).astype(bool)
    if spec.dtype == "string":
        flat = np.empty(math.prod(shape), dtype=object)
        flat[:] = [f"w{n}" for n in _whole(generator, shape, TOKEN_BOUND).ravel()]
        return flat.reshape(shape)
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError:
        dtype = np.dtype("V")
    if dtype.kind in "iu":
        return _whole(generator, shape, bound).astype(dtype)
    if dtype.kind not in "fc" or dtype.isbuiltin != 1:
        raise UsageError(f"input {spec.name!r} is {spec.dtype}, for which no input can be generated")
    return np.asarray(generator.standard_normal(shape)).astype(dtype)


def _whole(generator: np.random.Generator, shape: tuple[int, ...], bound: int) -> Array:
    """Whole numbers from 0 below the bound, not all the same where there is a choice."""
    drawn = np.asarray(generator.integers(0, max(1, bound), shape))
    if drawn.size > 1 and bound > 1 and (drawn == drawn.flat[0]).all():
        drawn.flat[0] = (drawn.flat[0] + 1) % bound
    return drawn
