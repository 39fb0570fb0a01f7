"""Makes reference outputs on request: inputs that are given or seeded, answered by a producer of the user's choice."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench import __version__, catalog, onnxfile
from bench.datasets import INPUT_SEED, DataSet, Provenance, described, generated, supplied
from bench.errors import BenchError, UsageError
from bench.interface import Model, Outputs, Packed, Value, ValueSpec
from bench.models import Resolved
from bench.parity.sense import not_finite
from bench.place import Place
from bench.reference import given
from bench.reference.double import answers_in_double
from bench.reference.judge import Answers, cached, judges

Producer = Literal["framework", "ort", "float64"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What was asked for. `data` None: inputs are drawn; `count` None: two, or all that were given."""

    producer: Producer | None
    count: int | None = None
    seed: int | None = None
    data: Path | None = None
    preprocess: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The model with the data sets that were made, and what the provenance says of all of them."""

    resolved: Resolved
    said: Mapping[str, Any]
    sources: tuple[str, ...]


def make(resolved: Resolved, wanted: Wanted, place: Place, *, catalogued: bool) -> Made:
    """Inputs and their reference outputs. `catalogued`: the model has a recipe.

    Raises:
        UsageError: what was asked for contradicts itself or the model.
        BenchError: the producer fails on the model, or answers with NaN or infinity.
    """
    producer = wanted.producer or ("framework" if catalogued and wanted.data is None else "ort")
    if producer == "framework":
        return _by_framework(resolved, wanted, place, catalogued=catalogued)
    data_sets, said, sources = _inputs(resolved, wanted)
    try:
        answers, settings = _answered(producer, resolved.model, data_sets, place)
    except UsageError:
        raise
    except BenchError as error:
        raise BenchError(f"the reference itself fails on this model: {error.message}", error.hint) from error
    precision = "float64" if producer == "float64" else "float32"
    provenance = Provenance(answers.producer, answers.version, settings, precision, said.get("seed"))
    found = tuple(
        replace(data, expected=_in_types(outputs, resolved.model), provenance=provenance)
        for data, outputs in zip(data_sets, answers.outputs, strict=True)
    )
    _check(found)
    facts = {"producer": answers.producer, "version": answers.version, "precision": precision, "settings": settings}
    return Made(replace(resolved, data_sets=found), {**facts, **said, "deploybench": __version__}, sources)


def _by_framework(resolved: Resolved, wanted: Wanted, place: Place, *, catalogued: bool) -> Made:
    """The outputs that the recipe's own source framework computed, beside the model."""
    if not catalogued:
        raise UsageError(
            "only models of the catalogue have a source framework here",
            "let the framework write test_data_set_0 beside your model, or take --producer ort or float64",
        )
    if wanted.data is not None or wanted.seed is not None:
        raise UsageError("a recipe draws its own inputs", "leave out --data and --seed, or take --producer ort")
    found = _of_recipe(resolved, wanted.count, place)
    _check(found)
    first = found[0].provenance
    assert first is not None
    said = {
        "producer": first.producer,
        "version": first.version,
        "precision": first.precision,
        "settings": first.settings,
        "seed": first.seed,
        "inputs": "the recipe's",
        "deploybench": __version__,
    }
    return Made(replace(resolved, data_sets=found), said, tuple("the recipe's" for _ in found))


def _of_recipe(resolved: Resolved, count: int | None, place: Place) -> tuple[DataSet, ...]:
    """So many data sets of the recipe's; it is run again where it made fewer."""
    sets = resolved.data_sets
    if count is not None and count > len(sets):
        entry = catalog.load()[resolved.reference]
        folder = catalog.make(entry, place.cache, place.say, count)
        sets, _ = supplied(folder, resolved.model, (resolved.source_sha256,))
    found = [data for data in sets if data.expected is not None and data.provenance]
    if not found:
        raise UsageError("the recipe's inputs do not fit the shapes that were asked for", "take --producer ort")
    return tuple(found[:count])


def _inputs(resolved: Resolved, wanted: Wanted) -> tuple[tuple[DataSet, ...], dict[str, Any], tuple[str, ...]]:
    """The inputs, what the provenance says of them, and where each is from."""
    if wanted.data is not None:
        if wanted.seed is not None:
            raise UsageError("--seed is for inputs that are drawn, and --data gives them", "leave one of them out")
        read = given.read(wanted.data, resolved.model.signature, wanted.preprocess, wanted.count)
        names = tuple(one.source for one in read.given)
        said = {"inputs": "given", "files": list(names), "preprocess": read.settings}
        return tuple(one.data for one in read.given), {**said, "sources": said.pop("files")}, names
    if wanted.preprocess:
        raise UsageError("--preprocess is for images", "give them with --data")
    seed, count = INPUT_SEED if wanted.seed is None else wanted.seed, wanted.count or 2
    if not resolved.model.signature.inputs:
        return (DataSet({}),), {"inputs": "none"}, ("the model takes none",)
    bounds = onnxfile.read(resolved.model.path).index_bounds
    like = next((data for data in resolved.data_sets if data.expected is not None), None)
    drawn = generated(resolved.model, bounds, count, seed, like=like)
    how = "drawn like the model's own" if like else "drawn"
    words = f"{how} with seed {seed}"
    return drawn, {"inputs": f"{how}, standard normal where float", "seed": seed}, tuple(words for _ in drawn)


def _answered(producer: Producer, model: Model, data_sets: tuple[DataSet, ...], place: Place) -> tuple[Answers, str]:
    if producer == "float64":
        return answers_in_double(model, data_sets, place), "computed in float64, rounded to the model's own types"
    judge = next((judge for judge in judges() if not judge.create().local_only), None)
    if judge is None:
        raise UsageError("ONNX Runtime is not installed", 'pip install "deploybench[cpu]"')
    settings = dict(judge.create().reference or {})
    words = ", ".join(f"{name} {value}" for name, value in settings.items())
    return cached(judge, model, data_sets, place, settings, what="reference outputs"), words


def _in_types(outputs: Outputs, model: Model) -> Outputs:
    """The outputs in the model's own types: a float64 run gives wider ones."""
    return {spec.name: _in_type(outputs[spec.name], spec) for spec in model.signature.outputs}


def _in_type(value: Value, spec: ValueSpec) -> Value:
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or spec.dtype in ("float64", ""):
        return value
    if spec.dtype == "bfloat16":
        bits = value.astype(np.float32).view(np.uint32)
        return Packed("bfloat16", ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16))
    return value.astype(spec.dtype)


def _check(data_sets: tuple[DataSet, ...]) -> None:
    if odd := not_finite([data.expected for data in data_sets if data.expected]):
        raise BenchError(
            f"the reference output {', '.join(odd)} holds NaN or infinity: nothing is written",
            "the model, or these inputs for it, are not sound: give inputs that it is made for with --data",
        )


def shapes_of(data: DataSet) -> str:
    """Inputs and outputs of a data set in words."""
    sides = (data.feeds, data.expected or {})
    return " -> ".join(", ".join(f"{name} {described(value)}" for name, value in side.items()) for side in sides)
