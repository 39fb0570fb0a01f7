"""Writes reference outputs as a model folder: the model, `test_data_set_*` in ONNX's layout, and their provenance."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import onnxfile
from bench.datasets import PROVENANCE, DataSet
from bench.errors import UsageError
from bench.interface import Model


def check_free(output: Path, model: Model) -> None:
    """Refuse a folder that holds reference outputs already, or another model.

    Raises:
        UsageError: it does, or it is no folder.
    """
    if output.exists() and not output.is_dir():
        raise UsageError(f"{output} is a file, not a folder", "choose another --output")
    there = sorted(p.name for p in output.glob("test_data_set_*")) + [PROVENANCE] * (output / PROVENANCE).exists()
    if there:
        raise UsageError(f"{output} holds {there[0]} already", "choose another --output, or remove what is there")
    found = sorted(output.glob("*.onnx"))
    if found and [onnxfile.read(path).sha256 for path in found] != [model.sha256]:
        raise UsageError(f"{output} holds another model: {found[0].name}", "choose another --output")


def write(output: Path, model: Model, data_sets: tuple[DataSet, ...], said: Mapping[str, Any]) -> list[Path]:
    """The folder's new paths. What is there afterwards is whole: it is made beside its place and moved there.

    Raises:
        UsageError: the folder cannot be written, or the disk is full.
    """
    making = output.with_name(f".{output.name}.making")
    try:
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        files: dict[str, str] = {}
        for number, data in enumerate(data_sets):
            files |= _write_set(making, f"test_data_set_{number}", data, model)
        facts = {**said, "model_sha256": model.sha256, "files": files}
        (making / PROVENANCE).write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        if not any(output.glob("*.onnx")):
            _copy_model(model, making)
        if not output.exists() or not any(output.iterdir()):
            names = sorted(path.name for path in making.iterdir())
            making.rename(output)
            return [output / name for name in names]
        # The provenance first: without it, outputs would count as supplied by nobody.
        made = sorted(making.iterdir(), key=lambda path: path.name != PROVENANCE)
        return [path.rename(output / path.name) for path in made]
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}", "choose another --output") from error
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _write_set(folder: Path, name: str, data: DataSet, model: Model) -> dict[str, str]:
    """The hashes of its files by their names below the folder."""
    (folder / name).mkdir()
    hashes = {}
    for prefix, specs, values in (
        ("input", model.signature.inputs, data.feeds),
        ("output", model.signature.outputs, data.expected or {}),
    ):
        for index, spec in enumerate(specs):
            try:
                content = onnxfile.encoded(values[spec.name], spec.name, spec.kind)
            except TypeError as error:
                raise UsageError(f"{spec.name!r} cannot be written in ONNX's format: {error}") from error
            path = f"{name}/{prefix}_{index}.pb"
            (folder / path).write_bytes(content)
            hashes[path] = hashlib.sha256(content).hexdigest()
    return hashes


def _copy_model(model: Model, folder: Path) -> None:
    """The bound model with its external data. Copied, not linked: who edits the copy must not edit the original."""
    for index, name in enumerate(model.files):
        target = folder / (name if index else "model.onnx")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.root / name, target)
