"""The interface's values as JSON and back, for the frames' headers. Standard library only, Python 3.10."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from bench.interface import Artifact, Model, Options, Probe, Signature, ValueSpec


def plain(value: Any) -> Any:
    """Dataclasses as objects, tuples as arrays, paths as text."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def _spec(data: Mapping[str, Any]) -> ValueSpec:
    shape = data["shape"]
    return ValueSpec(data["name"], data["dtype"], None if shape is None else tuple(shape), data["kind"])


def signature(data: Mapping[str, Any]) -> Signature:
    """The inverse of `plain`, as are the functions below."""
    return Signature(tuple(_spec(s) for s in data["inputs"]), tuple(_spec(s) for s in data["outputs"]))


def model(data: Mapping[str, Any]) -> Model:
    root, files = Path(data["root"]), tuple(data["files"])
    return Model(data["name"], root, files, data["sha256"], data["opset"], signature(data["signature"]))


def artifact(data: Mapping[str, Any]) -> Artifact:
    return Artifact(Path(data["root"]), tuple(data["files"]), signature(data["signature"]), data["meta"])


def options(data: Mapping[str, Any]) -> Options:
    return Options(data["threads"], data["precision"], tuple(data["cpus"]), data["extra"])


def probe(data: Mapping[str, Any]) -> Probe:
    named = {**data, "devices": tuple(data["devices"]), "precisions": tuple(data["precisions"])}
    return Probe(**named)
