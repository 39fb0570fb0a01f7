"""How far the reference itself may be off: what float32 costs a model, measured without any other runtime's help.

Three ways, because each alone may see nothing: ONNX Runtime with its optimisations on against off (blind where nothing
is fused), inputs changed by half of their last place (blind to what long sums cost), and float64 (seldom to be had, and
slow: `run` uses it where `deploybench reference` has computed it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.datasets import DataSet
from bench.errors import BenchError
from bench.interface import Array, Outputs
from bench.models import Resolved
from bench.parity.compare import TOLERANCES, OutputParity, compare
from bench.parity.precision import QUIETEST_DB
from bench.place import Place
from bench.reference.double import answers_in_double, has_answers_in_double
from bench.reference.judge import cached
from bench.registry import Registered, installed

_SEED = 7
_CONTRADICTION_DB = 60.0


@dataclass(frozen=True, slots=True)
class Noise:
    """What float32 costs one output. Shares of its scale, None where not measured; `snr_db` is the loudest of all."""

    name: str
    snr_db: float
    max_rel_scale: float
    optimised: float | None = None
    nudged: float | None = None
    own: float | None = None
    float64: float | None = None


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """The noise of every float output, and why some figure is missing."""

    outputs: tuple[Noise, ...] = ()
    reason: str = ""


def noise_floor(resolved: Resolved, place: Place, files: Mapping[str, str], *, double: bool) -> NoiseFloor:
    """What float32 costs the model on its inputs, whose expected outputs are known. Never raises: it is a help.

    `double`: measure against float64 too, even where that has to be computed first.
    """
    data_sets = [data for data in resolved.data_sets if data.expected is not None]
    judge = next((r for r in installed().values() if r.works() and "optimization" in _known(r)), None)
    if judge is None or not data_sets:
        return NoiseFloor(reason="ONNX Runtime is not installed: the reference's own noise is not known")
    options = {name: path for name, path in files.items() if name in _known(judge)}
    try:
        found, reason = _measured(judge, resolved, data_sets, place, options, double)
    except BenchError as error:
        return NoiseFloor(reason=f"the reference's own noise could not be measured: {error.message}")
    names = [name for name in data_sets[0].expected or {} if any(name in f for f in found.values())]
    return NoiseFloor(tuple(_joined(name, found) for name in names), reason)


def _known(registered: Registered) -> frozenset[str]:
    return frozenset(option.name for option in registered.create().options)


Figures = dict[str, OutputParity]


def _measured(
    judge: Registered,
    resolved: Resolved,
    data_sets: Sequence[DataSet],
    place: Place,
    options: Mapping[str, str],
    double: bool,
) -> tuple[dict[str, Figures], str]:
    model, what = resolved.model, "noise of float32 ({} of 2)"
    both = [*data_sets, *(_nudged(data) for data in data_sets)]
    answers = cached(judge, model, both, place, {"optimization": "off", **options}, what=what.format(1)).outputs
    plain, nudged = answers[: len(data_sets)], answers[len(data_sets) :]
    fused = cached(judge, model, data_sets, place, {"optimization": "all", **options}, what=what.format(2)).outputs
    expected = [data.expected or {} for data in data_sets]
    found = {"optimised": _loudest(plain, fused), "nudged": _loudest(plain, nudged), "own": _loudest(plain, expected)}
    if not double and not has_answers_in_double(model, data_sets, place):
        return found, ""
    try:
        wide = answers_in_double(model, data_sets, place).outputs
    except BenchError as error:
        return found, error.message
    against = _loudest([_rounded(w, p) for w, p in zip(wide, plain, strict=True)], plain)
    reference = _loudest([_rounded(w, p) for w, p in zip(wide, expected, strict=True)], expected)
    doubles = {name: max(against[name], reference[name], key=_level) for name in against if name in reference}
    fused_by, nudged_by = found["optimised"], found["nudged"]
    if odd := [n for n, double in doubles.items() if _contradicts(double, fused_by.get(n), nudged_by.get(n))]:
        share = max(doubles[name].max_rel_scale or 0.0 for name in odd)
        return (
            found,
            f"float64 and float32 contradict each other in {', '.join(odd)} by {share:.1e}: one of them is wrong",
        )
    return {**found, "float64": doubles}, ""


def _contradicts(double: OutputParity, *others: OutputParity | None) -> bool:
    """Whether float64 is so far off that rounding cannot be why: a thousand times what the other ways find."""
    loudest = max((_level(other) for other in others if other), default=-QUIETEST_DB)
    return _level(double) > max(loudest, -QUIETEST_DB) + _CONTRADICTION_DB


def _nudged(data: DataSet) -> DataSet:
    """The same inputs, each float number off by at most half of its last place."""
    generator = np.random.default_rng(_SEED)

    def nudge(value: Array) -> Array:
        if not isinstance(value, np.ndarray) or value.dtype != np.float32:
            return value
        return np.asarray(value * (1 + generator.uniform(-(2.0**-24), 2.0**-24, value.shape))).astype(np.float32)

    return replace(data, feeds={name: nudge(value) for name, value in data.feeds.items()})


def _rounded(wide: Outputs, like: Outputs) -> Outputs:
    """Float64 outputs in the types of others: what rounding the answer itself costs is no error."""
    return {
        name: value.astype(like[name].dtype)  # type: ignore[union-attr]
        for name, value in wide.items()
        if isinstance(value, np.ndarray) and isinstance(like.get(name), np.ndarray) and value.dtype.kind == "f"
    }


def _loudest(first: Sequence[Outputs], second: Sequence[Outputs]) -> Figures:
    """The figures of every float output for the input with the largest error."""
    found: Figures = {}
    for expected, got in zip(first, second, strict=True):
        for output in compare(expected, got, TOLERANCES["fp32"]).outputs:
            if output.cosine is not None and not output.nan:
                found[output.name] = max(found.get(output.name, output), output, key=_level)
    return found


def _level(output: OutputParity) -> float:
    return -QUIETEST_DB if output.snr_db is None else -output.snr_db


def _joined(name: str, found: Mapping[str, Figures]) -> Noise:
    figures = {way: f[name] for way, f in found.items() if name in f}
    shares = {way: f.max_rel_scale or 0.0 for way, f in figures.items()}
    return Noise(
        name,
        snr_db=min(QUIETEST_DB, *(-_level(f) for f in figures.values())),
        max_rel_scale=max(shares.values()),
        optimised=shares.get("optimised"),
        nudged=shares.get("nudged"),
        own=shares.get("own"),
        float64=shares.get("float64"),
    )
