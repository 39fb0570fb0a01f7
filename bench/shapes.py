"""What the first inference of an input shape costs that a session has not seen: memory, plans and kernels made anew.

It takes a session of its own: a case is measured with its dimensions bound, here the model is loaded as the file has
it. The session is warm, at the case's own shape, before the first new one. Every answer is judged.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from bench import onnxfile
from bench.datasets import DataSet, random_feeds
from bench.errors import BenchError
from bench.interface import Feeds, Model, Plan, Signature, ValueSpec
from bench.models import Resolved, locate
from bench.parity.compare import compare
from bench.place import Place, started
from bench.preparation import Preparation
from bench.record import ShapesTried
from bench.redact import public
from bench.trial import Trial, TrialPlan, run_once

NOT = "not available: "
SEED = 20261121
# Enough for the session to be warm at its first shape: it is not what is measured here.
WARM = Plan(min_count=3, min_s=0.2, max_s=2.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=0.0, target=None)


@dataclass(frozen=True, slots=True)
class _Open:
    """The model as its file has it, and the shapes to try, input by input."""

    model: Model
    shapes: tuple[dict[str, tuple[int, ...]], ...]
    bounds: Mapping[str, int]


class _Wrong(Exception):
    """An answer at a new shape failed parity; the message says how."""


def tried(
    resolved: Resolved, plan: TrialPlan, place: Place, preparation: Preparation, files: Mapping[str, str], count: int
) -> ShapesTried:
    """The first and the second inference of so many new shapes, or why they cannot be had. `plan`: the case's own."""
    backend = plan.backend.create()
    if not backend.dynamic:
        return _absent(f"an artefact of {backend.name} is for one shape")
    try:
        found = _opened(resolved, place, count)
        if found is None:
            return _absent("the model leaves no dimension open")
        return _measured(found, resolved, plan, place, preparation, files)
    except BenchError as error:
        return _absent(public(error.message))
    except _Wrong as error:
        return _absent(public(str(error)))


def _absent(reason: str) -> ShapesTried:
    return ShapesTried(shapes=[], first_s=[], second_s=[], reason=f"{NOT}{reason}")


def _opened(resolved: Resolved, place: Place, count: int) -> _Open | None:
    """The model unbound, or None where it has nothing to bind."""
    path, name = locate(resolved.reference, place.cache, place.say)
    file = onnxfile.read(path)
    varied = _varied(file.open_dims)
    if not varied:
        return None
    signature = onnxfile.signature(file.proto)
    opened = Signature(tuple(_unbound(s) for s in signature.inputs), tuple(_unbound(s) for s in signature.outputs))
    model = Model(name, file.root, file.files, file.sha256, file.opset, opened)
    shapes = tuple(_larger(resolved.shapes, file.open_dims, varied, by) for by in range(1, count + 1))
    return _Open(model, shapes, file.index_bounds)


def _unbound(spec: ValueSpec) -> ValueSpec:
    """Some exporters write 0 or -1 where they mean unknown."""
    if spec.shape is None:
        return spec
    return replace(spec, shape=tuple(d if d is not None and d > 0 else None for d in spec.shape))


def _varied(open_dims: Mapping[str, onnxfile.Dims | None]) -> frozenset[object]:
    """The dimensions to vary: those that come first (batches), else all that are open. A symbol is one dimension."""
    every = [(axis, _which(name, axis, dim)) for name, axis, dim in _dims(open_dims)]
    first = frozenset(which for axis, which in every if axis == 0)
    return first or frozenset(which for _, which in every)


def _dims(open_dims: Mapping[str, onnxfile.Dims | None]) -> Iterator[tuple[str, int, str | int | None]]:
    for name, dims in open_dims.items():
        for axis, dim in enumerate(dims or ()):
            if not (isinstance(dim, int) and dim > 0):
                yield name, axis, dim


def _which(name: str, axis: int, dim: str | int | None) -> object:
    return dim if isinstance(dim, str) else (name, axis)


def _larger(
    shapes: Mapping[str, tuple[int, ...]],
    open_dims: Mapping[str, onnxfile.Dims | None],
    varied: frozenset[object],
    by: int,
) -> dict[str, tuple[int, ...]]:
    """The shapes with every varied dimension larger by so much."""
    found = {name: list(shape) for name, shape in shapes.items()}
    for name, axis, dim in _dims(open_dims):
        if _which(name, axis, dim) in varied:
            found[name][axis] += by
    return {name: tuple(shape) for name, shape in found.items()}


def _measured(
    found: _Open,
    resolved: Resolved,
    plan: TrialPlan,
    place: Place,
    preparation: Preparation,
    files: Mapping[str, str],
) -> ShapesTried:
    data_sets = tuple(DataSet(_feeds(found, shapes, number)) for number, shapes in enumerate(found.shapes))
    judged = preparation.reference(replace(resolved, model=found.model, data_sets=data_sets), place, files).data_sets
    prepared = preparation.artefact(plan.backend, found.model, plan.options, place)
    session = replace(plan, artifact=prepared.artifact, artifact_key=prepared.sha256)
    trial = Trial(0, session)
    first_s: list[float] = []
    second_s: list[float] = []
    with started(place, plan.backend, plan.options.cpus, purpose=f"new shapes of {plan.backend.name}") as ready:
        trial.begin(ready, place)
        _refuse_wrong(trial)
        ready.worker.ask("measure", {"plan": asdict(WARM)}, limit_s=WARM.max_s + place.limits.measure)
        for shapes, data in zip(found.shapes, judged, strict=True):
            for seconds in (first_s, second_s):
                answer, outputs = run_once(ready.worker, data, place.limits, timed=False, place=place)
                report = compare(data.expected or {}, outputs, plan.tolerance)
                if not report.passed:
                    raise _Wrong(f"wrong at {onnxfile.describe(shapes)}: {report.problem}")
                seconds.append(float(answer["run_s"]))
    return ShapesTried(
        shapes=[{name: list(shape) for name, shape in shapes.items()} for shapes in found.shapes],
        first_s=first_s,
        second_s=second_s,
    )


def _feeds(found: _Open, shapes: Mapping[str, Sequence[int]], number: int) -> Feeds:
    specs = tuple(replace(spec, shape=tuple(shapes[spec.name])) for spec in found.model.signature.inputs)
    return random_feeds(specs, SEED + number, found.bounds)


def _refuse_wrong(trial: Trial) -> None:
    judged = trial.line().parity
    if judged and not judged.passed:
        raise _Wrong(f"wrong where its dimensions are left open: {judged.problem}")
