"""Inputs that a user gives: arrays, ONNX tensors, or images with a stated preprocessing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench import onnxfile
from bench.datasets import DataSet, described, misfit, owned
from bench.errors import UsageError
from bench.interface import Signature, Value, ValueSpec
from bench.reference import images

FORMS = ".npz, .npy, .pb, an image, or a folder of them"


@dataclass(frozen=True, slots=True)
class Given:
    """One input, the file that it is from, and the name of its folder where that is a label."""

    data: DataSet
    source: str
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Inputs:
    """What was given, and how it was read, in words for the provenance."""

    given: tuple[Given, ...]
    settings: str


def read(path: Path, signature: Signature, preprocess: str | None, count: int | None) -> Inputs:
    """The inputs of a file or a folder, at most `count`, in the order of their names. Nothing is cast or reshaped.

    A folder of folders is a labelled set: each folder's name is the label of what it holds.

    Raises:
        UsageError: nothing is there, or something does not fit the model: nothing is left out in silence.
    """
    files = _files(path)
    pictures = [file for file, _ in files if file.suffix.lower() in images.SUFFIXES]
    if not pictures and preprocess:
        raise UsageError("--preprocess is for images, and there are none", f"in {path}")
    if pictures and not preprocess:
        hint = "say how, for example --preprocess imagenet (README.md says what that is)"
        raise UsageError(f"{pictures[0].name} is an image: how it becomes an input is never guessed", hint)
    steps = images.parse(preprocess) if preprocess else None
    settings = f"{images.decoder()}, {steps}" if steps else ""
    chosen = files if count is None else _spread(files, count)
    found = tuple(Given(_data(file, signature, steps), file.name, label) for file, label in chosen)
    return Inputs(found, settings)


def _spread(files: list[tuple[Path, str | None]], count: int) -> list[tuple[Path, str | None]]:
    """So many, evenly over all: the first ones of a labelled folder are of one label."""
    if count >= len(files):
        return files
    return [files[index * len(files) // count] for index in range(count)]


def _files(path: Path) -> list[tuple[Path, str | None]]:
    """The files with their labels."""
    if path.is_file():
        return [(path, None)]
    if not path.is_dir():
        raise UsageError(f"there is no file or folder {path}", f"give {FORMS}")
    if (path / "input_0.pb").is_file():
        return [(path, None)]
    sets = sorted((p for p in path.glob("test_data_set_*") if p.is_dir()), key=lambda p: (len(p.name), p.name))
    if sets:
        return [(folder, None) for folder in sets]
    found = [(file, None) for file in sorted(path.iterdir()) if _readable(file)]
    labelled = [
        (file, folder.name)
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith(".")
        for file in sorted(folder.iterdir())
        if _readable(file)
    ]
    if found and labelled:
        raise UsageError(f"{path} holds files beside folders", "use one folder per label, or no folders at all")
    if not found and not labelled:
        raise UsageError(f"{path} holds no inputs", f"give {FORMS}")
    return [*found, *labelled]


def _readable(path: Path) -> bool:
    return path.is_file() and (path.suffix.lower() in _READERS or path.suffix.lower() in images.SUFFIXES)


def _data(path: Path, signature: Signature, steps: images.Preprocess | None) -> DataSet:
    if path.is_dir():
        feeds = _tensors(path, signature)
    elif path.suffix.lower() in images.SUFFIXES and steps:
        spec = _single(path, signature)
        feeds = {spec.name: images.load(path, steps, spec)}
    elif path.suffix.lower() in _READERS:
        feeds = _READERS[path.suffix.lower()](path, signature)
    else:
        raise UsageError(f"{path} is of no form that is known", f"give {FORMS}")
    if unknown := sorted(set(feeds) - {spec.name for spec in signature.inputs}):
        known = ", ".join(spec.name for spec in signature.inputs)
        raise UsageError(f"{path}: the model has no input {unknown[0]!r}", f"it has {known}")
    if reason := misfit(feeds, signature.inputs):
        raise UsageError(f"{path} does not fit the model: {reason}", "nothing is cast or reshaped for you")
    return DataSet({name: owned(value) for name, value in feeds.items()})  # type: ignore[misc]


def _single(path: Path, signature: Signature) -> ValueSpec:
    if len(signature.inputs) != 1:
        names = ", ".join(f"{spec.name} {described(spec)}" for spec in signature.inputs)
        raise UsageError(
            f"{path} is one array, and the model takes {names}", "give an .npz with an array for each name"
        )
    return signature.inputs[0]


def _npy(path: Path, signature: Signature) -> Mapping[str, Value]:
    with path.open("rb") as file:  # numpy leaves a file that it cannot read open
        return {_single(path, signature).name: _array(np.load(file, allow_pickle=False), path)}


def _npz(path: Path, signature: Signature) -> Mapping[str, Value]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        return {name: _array(archive[name], path) for name in archive.files}


def _array(value: object, path: Path) -> Value:
    if not isinstance(value, np.ndarray):
        raise UsageError(f"{path} holds no array")
    return value.astype(object) if value.dtype.kind in "US" else value


def _pb(path: Path, signature: Signature) -> Mapping[str, Value]:
    return {_single(path, signature).name: onnxfile.value(path, _single(path, signature).kind)[1]}


def _tensors(folder: Path, signature: Signature) -> Mapping[str, Value]:
    found = {}
    names = {spec.name for spec in signature.inputs}
    for index, spec in enumerate(signature.inputs):
        name, value = onnxfile.value(folder / f"input_{index}.pb", spec.kind)
        found[name if name in names else spec.name] = value
    return found


def _reading(
    reader: Callable[[Path, Signature], Mapping[str, Value]],
) -> Callable[[Path, Signature], Mapping[str, Value]]:
    def read_one(path: Path, signature: Signature) -> Mapping[str, Value]:
        try:
            return reader(path, signature)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UsageError(f"{path} cannot be read: {error}", "objects and pickles are refused") from error

    return read_one


_READERS = {".npy": _reading(_npy), ".npz": _reading(_npz), ".pb": _reading(_pb)}
