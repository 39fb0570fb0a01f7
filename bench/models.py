"""From a model reference (a path, a folder, a catalogue name) to a model that can be prepared, fed and judged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import catalog, onnxfile
from bench.cache import Cache, key_of
from bench.datasets import DataSet, Provenance, random_feeds, supplied, supplied_shapes, with_generated
from bench.errors import UsageError
from bench.interface import Model
from bench.registry import nearest

__all__ = ["DataSet", "Provenance", "Resolved", "locate", "random_feeds", "resolve"]


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
    bound = onnxfile.bindings(
        file, shapes, batch, lambda: supplied_shapes(path.parent, onnxfile.signature(file.proto).inputs)
    )
    source_sha256 = file.sha256
    if any(dims != bound[n] for n, dims in file.open_dims.items()):
        file = _bound(file, bound, cache)
    signature = onnxfile.infer_outputs(file, onnxfile.signature(file.proto))
    model = Model(name, file.root, file.files, file.sha256, file.opset, signature)
    found, notes = supplied(path.parent, model, (source_sha256, model.sha256))
    data_sets = with_generated(found, model, file.index_bounds)
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
    hint = f"give the path of an .onnx file, or a name of the catalogue; {nearest(reference, entries)}"
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

    key = key_of([file.sha256, sorted(bound.items()), list(file.files)])  # a copy by another name is another entry
    folder = cache.get("bound", key, build, summary=f"{file.files[0]} with {onnxfile.describe(bound)}").path
    return onnxfile.read(folder / file.files[0])
