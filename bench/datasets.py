"""Inputs and expected outputs: those of `test_data_set_*` folders with their provenance, and made-up inputs."""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np

from bench import onnxfile
from bench.errors import UsageError
from bench.interface import Array, Feeds, Model, Outputs, Packed, Signature, Value, ValueSpec

# Random whole numbers stay below this, and below the size of a table that they index where the file shows it: a Gather
# beyond its table is an error. Where the file hides it, a smaller table needs data sets beside the model.
TOKEN_BOUND = 8
# How often inputs are drawn again that came out as others did, as a lone bool will.
_DRAWS = 64
# Floats of so few elements are a setting (the scales of a Resize, the size of an image), not data. Rule of thumb.
_SETTING = 16
GENERATED_FEEDS = 2
INPUT_SEED = 20261120
PROVENANCE = "provenance.json"


@dataclass(frozen=True, slots=True)
class Provenance:
    """Who made reference outputs. `producer` is a distribution's name, or `as supplied` where nobody said."""

    producer: str
    version: str
    settings: str = ""
    precision: str = ""
    seed: int | None = None


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
        for name, value in sorted(self.feeds.items()):
            digest.update(f"{name} ".encode())
            _digest(value, digest)
        return digest.hexdigest()


def _digest(value: Any, digest: Any) -> None:
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape} ".encode())
        digest.update(repr(value.tolist()).encode() if value.dtype == object else value.tobytes())
    elif isinstance(value, (list, dict)):
        digest.update(f"{type(value).__name__} {len(value)} ".encode())
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            digest.update(f"{key} ".encode())
            _digest(item, digest)
    else:
        digest.update(f"{value!r} ".encode())


def supplied(folder: Path, model: Model, hashes: tuple[str, ...]) -> tuple[tuple[DataSet, ...], tuple[str, ...]]:
    """The folder's own data sets in order, and what of them is left out because it does not fit, in words.

    `hashes` are those of the model as it was given and with its dimensions bound.

    Raises:
        UsageError: a file is broken, or the provenance says that the outputs are of another model, or other outputs.
    """
    said = _said(folder)
    provenance = _provenance(said, folder)
    _check_model(said, folder, hashes)
    found: list[DataSet] = []
    notes: list[str] = []
    signature = model.signature
    for data in sorted(folder.glob("test_data_set_*"), key=_in_order):
        feeds = _values(data, "input", signature.inputs)
        if reason := misfit(feeds, signature.inputs):
            notes.append(f"{data.name} is not used: {reason}")
            continue
        _check_files(said, folder, data)
        expected = _values(data, "output", signature.outputs)
        if reason := _lacking(expected, signature):
            notes.append(f"the outputs of {data.name} are not used: {reason}")
            found.append(DataSet(feeds))  # type: ignore[arg-type]  # what fits holds no packed tensors
        else:
            found.append(DataSet(feeds, dict(expected), provenance))  # type: ignore[arg-type]
    return tuple(found), tuple(notes)


def supplied_shapes(folder: Path, inputs: tuple[ValueSpec, ...]) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in the folder's first data set, by input; none where it cannot be read."""
    try:
        feeds = _values(min(folder.glob("test_data_set_*"), key=_in_order), "input", inputs)
    except (UsageError, ValueError):  # a broken file, or no data set
        return {}
    return {name: value.shape for name, value in feeds.items() if isinstance(value, np.ndarray)}


def _in_order(path: Path) -> tuple[int, str]:
    return len(path.name), path.name


def _said(folder: Path) -> Mapping[str, Any] | None:
    """What provenance.json holds, None where there is none."""
    try:
        data = json.loads((folder / PROVENANCE).read_text())
        return {**data, "producer": str(data["producer"]), "version": str(data["version"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{folder / PROVENANCE} cannot be used: {error}", "it needs producer and version") from error


def _provenance(said: Mapping[str, Any] | None, folder: Path) -> Provenance:
    if said is None:
        return AS_SUPPLIED
    seed = said.get("seed")
    return Provenance(
        said["producer"],
        said["version"],
        str(said.get("settings", "")),
        str(said.get("precision", "")),
        seed if isinstance(seed, int) else None,
    )


def _check_model(said: Mapping[str, Any] | None, folder: Path, hashes: tuple[str, ...]) -> None:
    """Refuse reference outputs that say they are of another model."""
    claimed = (said or {}).get("model_sha256")
    if claimed is not None and claimed not in hashes:
        raise UsageError(
            f"the reference outputs in {folder} are of another model: {PROVENANCE} says {str(claimed)[:12]}, "
            f"the model is {hashes[0][:12]}",
            "write them anew with `deploybench reference`, or remove them",
        )


def _check_files(said: Mapping[str, Any] | None, folder: Path, data: Path) -> None:
    """Refuse files that are not those that the provenance is about."""
    hashes = (said or {}).get("files")
    if not isinstance(hashes, dict):
        return
    for path in sorted(data.glob("*.pb")):
        name = f"{data.name}/{path.name}"
        if hashes.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
            raise UsageError(
                f"{folder / name} is not the file that {PROVENANCE} is about: it was changed, or it came later",
                f"write them anew with `deploybench reference`, or remove {PROVENANCE}: then they count as supplied",
            )


def _values(folder: Path, prefix: str, specs: tuple[ValueSpec, ...]) -> dict[str, Value]:
    """`prefix_K.pb` by the name inside, or by position where the file names none."""
    found: dict[str, Value] = {}
    kinds = {spec.name: spec.kind for spec in specs}
    for index, spec in enumerate(specs):
        path = folder / f"{prefix}_{index}.pb"
        if path.is_file():
            name, value = onnxfile.value(path, spec.kind)
            if kinds.get(name, spec.kind) != spec.kind:
                name, value = onnxfile.value(path, kinds[name])
            found[name if name in kinds else spec.name] = owned(value)
    return found


def owned(value: Value) -> Value:
    """A tensor in C order; everything else as it is."""
    return np.asarray(value, order="C") if isinstance(value, np.ndarray) else value


def misfit(feeds: Mapping[str, Value], inputs: tuple[ValueSpec, ...]) -> str:
    """Why these cannot be fed to a model with these inputs; empty where they can."""
    for spec in inputs:
        if spec.name not in feeds:
            return f"it has no input {spec.name!r}"
        value = feeds[spec.name]
        if isinstance(value, Packed):
            return f"its {spec.name!r} is {value.dtype}, which cannot be fed"
        if spec.kind == "tensor" and described(value) != described(spec):
            return f"its {spec.name!r} is {described(value)}, the model takes {described(spec)}"
    return ""


def described(value: Value | ValueSpec) -> str:
    """`float32[1, 3, 224, 224]`; `a sequence` and the like for what is no tensor."""
    if isinstance(value, ValueSpec):
        return f"{value.dtype}{list(value.shape or ())}" if value.kind == "tensor" else f"a {value.kind}"
    if isinstance(value, Packed):
        return f"{value.dtype}{list(value.bits.shape)}"
    if isinstance(value, np.ndarray):
        return f"{'string' if value.dtype == object else value.dtype.name}{list(value.shape)}"
    return "absent" if value is None else "a map" if isinstance(value, dict) else "a sequence"


def _lacking(expected: Mapping[str, Value], signature: Signature) -> str:
    """Why these outputs cannot be the model's; empty where they can."""
    for spec in signature.outputs:
        if spec.name not in expected:
            return f"there is none for {spec.name!r}"
        value = expected[spec.name]
        if spec.kind != "tensor":
            continue
        stored = value.bits if isinstance(value, Packed) else value
        if not isinstance(stored, np.ndarray) or described(value).partition("[")[0] != spec.dtype:
            return f"its {spec.name!r} is {described(value)}, the model gives {spec.dtype}"
        known = spec.shape is not None and len(spec.shape) == stored.ndim
        if known and any(want not in (None, size) for want, size in zip(spec.shape or (), stored.shape, strict=True)):
            return f"its {spec.name!r} is {described(value)}, the model gives {described(spec)}"
    return ""


def with_generated(found: tuple[DataSet, ...], model: Model, bounds: Mapping[str, int]) -> tuple[DataSet, ...]:
    """At least two different inputs, so that a stale or input-blind output is seen."""
    if not model.signature.inputs:
        return found[:1] or (DataSet({}),)
    known = {data.sha256 for data in found}
    lacking = max(0, GENERATED_FEEDS - len(known))
    return (*found, *generated(model, bounds, lacking, INPUT_SEED, like=found[0] if found else None, known=known))


def generated(
    model: Model,
    bounds: Mapping[str, int],
    count: int,
    seed: int,
    *,
    like: DataSet | None = None,
    known: Collection[str] = (),
) -> tuple[DataSet, ...]:
    """So many inputs, all different and none of `known`; fewer where the inputs leave no choice.

    Where one came with the model they are `like` it, so that indices, sizes and lengths stay possible ones: whole
    numbers, words and the few floats of a setting keep their values, in another order; other floats are drawn anew.
    """
    numbers = range(seed, seed + _DRAWS + count)
    alike = (_redrawn(like, number) for number in numbers) if like else ()
    drawn = (random_feeds(model.signature.inputs, number, bounds) for number in numbers)
    return tuple(islice(_different(chain(alike, drawn), known), count))


def _different(candidates: Iterable[Feeds], known: Collection[str]) -> Iterator[DataSet]:
    """Those that are not known. None is drawn before it is asked for: some inputs cannot be made up."""
    seen = set(known)
    for feeds in candidates:
        data = DataSet(feeds)
        if data.sha256 not in seen:
            seen.add(data.sha256)
            yield data


def _redrawn(like: DataSet, seed: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    given: Mapping[str, Any] = like.feeds  # sequences and maps among them
    for name, value in given.items():
        generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if not isinstance(value, np.ndarray):
            found[name] = value
        elif value.dtype.kind in "fc" and value.size > _SETTING:
            found[name] = np.asarray(generator.standard_normal(value.shape)).astype(value.dtype)
        else:
            found[name] = generator.permutation(value.ravel()).reshape(value.shape)
    return found


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
