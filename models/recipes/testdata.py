"""What every recipe shares: the check that a model is alive, and the files it leaves in OUT.

OUT/model.onnx, OUT/test_data_set_<k>/{input_<i>.pb, output_<i>.pb} (ONNX model-zoo layout: one TensorProto a file, with
the tensor's name, or a SequenceProto) and OUT/provenance.json. No file carries a time, a host or a path, so equal
inputs give equal bytes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

Array = npt.NDArray[Any]
Tensors = Mapping[str, Array]

IMAGE = (3, 224, 224)
FEWEST_INPUTS = 2
LEAST_MOVEMENT = 0.01
"""Share of its own norm by which an output must move between two inputs. Source: shared/DESIGN.md, Parity."""
MOST_PROBABILITY = 0.9
"""A softmax whose top class holds more than this hides the errors of all the others."""
LEAST_SCALE = 1e-6
"""An output that is nowhere larger than this has vanished: default weights gave MobileNetV2 outputs near 1e-22."""


class Refused(Exception):
    """The model cannot be made, or what came out is of no use as a test. The message carries the figures."""


class Liveness(NamedTuple):
    """How one output behaves over the data sets: its movement (share of its norm), largest value, top probability."""

    movement: float
    scale: float
    top_probability: float | None

    def __str__(self) -> str:
        text = f"moves {self.movement:.1%} between the inputs, largest value {self.scale:.3g}"
        return text if self.top_probability is None else f"{text}, top probability {self.top_probability:.3f}"


def _top_probability(values: Array) -> float | None:
    """The largest probability if `values` look like a softmax over axis 1, else None."""
    if values.ndim < 2 or values.shape[1] < 2 or values.min() < 0:
        return None
    return float(values.max()) if np.allclose(values.sum(axis=1), 1.0, atol=1e-3) else None


def _liveness(name: str, first: Array, second: Array) -> Liveness:
    """The figures of one output for two inputs; raises `Refused` where there is nothing to measure."""
    pair = [np.asarray(values, dtype=np.float64) for values in (first, second)]
    for values in pair:
        if values.size == 0 or not np.isfinite(values).all():
            raise Refused(f"output {name!r} is empty or holds NaN or Inf")
        if values.size > 1 and np.ptp(values) == 0:
            raise Refused(f"output {name!r} is the constant {values.flat[0]:g}")
    scale = min(float(np.abs(values).max()) for values in pair)
    if scale < LEAST_SCALE:
        raise Refused(f"output {name!r} vanished: largest value {scale:.3g}, at least {LEAST_SCALE:g} is needed")
    movement = float(np.linalg.norm(pair[0] - pair[1]) / max(np.linalg.norm(values) for values in pair))
    tops = [top for top in map(_top_probability, pair) if top is not None]
    return Liveness(movement, scale, max(tops, default=None))


def check_alive(first: Tensors, second: Tensors) -> dict[str, Liveness]:
    """The figures of every output, computed from the outputs for two different inputs.

    Raises:
        Refused: an output ignores the input, is saturated, constant, vanished or not finite. A wrong runtime could
            pass parity on such a model.
    """
    figures = {name: _liveness(name, first[name], second[name]) for name in first}
    for name, figure in figures.items():
        if figure.movement < LEAST_MOVEMENT:
            raise Refused(f"output {name!r} is input-blind: {figure}; at least {LEAST_MOVEMENT:.0%} is needed")
        if figure.top_probability is not None and figure.top_probability > MOST_PROBABILITY:
            raise Refused(f"output {name!r} is saturated: {figure}; at most {MOST_PROBABILITY:g} is allowed")
    return figures


def input_generator(seed: int, index: int) -> np.random.Generator:
    """The random numbers for the inputs of data set `index`; the weights use `default_rng(seed)`, another stream."""
    return np.random.default_rng([seed, 1000 + index])


def block_images(rng: np.random.Generator, count: int) -> Array:
    """float32[count, 3, 224, 224]: coarse blocks, fine blocks and pixel noise, so that images differ at every scale.

    White noise alone looks the same to a net that averages over positions. Only exact steps (repeat, add, scale).
    """
    total = np.zeros((count, *IMAGE), dtype=np.float32)
    for block in (32, 8, 1):
        grid = rng.standard_normal((count, IMAGE[0], IMAGE[1] // block, IMAGE[2] // block), dtype=np.float32)
        total += grid.repeat(block, axis=2).repeat(block, axis=3)
    return total * np.float32(0.5)


def calibration_images(rng: np.random.Generator) -> Array:
    """float32[6, 3, 224, 224], two each of blocks, normal and uniform noise.

    A net tuned to one kind alone saturates on the others, and a harness may well feed it plain noise.
    """
    shape = (2, *IMAGE)
    kinds = (block_images(rng, 2), rng.standard_normal(shape, dtype=np.float32), rng.random(shape, dtype=np.float32))
    return np.concatenate(kinds)


def write_model(out: Path, model: onnx.ModelProto) -> Path:
    """Write OUT/model.onnx in one canonical form of bytes."""
    path = out / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def write_data_sets(out: Path, sets: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """Write the (inputs, outputs) pairs as test_data_set_0, test_data_set_1, ...; the order is the model's."""
    for index, (inputs, outputs) in enumerate(sets):
        folder = out / f"test_data_set_{index}"
        folder.mkdir()
        for kind, tensors in (("input", inputs), ("output", outputs)):
            for position, (name, values) in enumerate(tensors.items()):
                proto = _maps(values, name) if isinstance(values, list) else _tensor(values, name)
                (folder / f"{kind}_{position}.pb").write_bytes(proto.SerializeToString(deterministic=True))


def _tensor(values: Array, name: str = "") -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, order="C"), name)


def _maps(rows: Sequence[Mapping[int, float]], name: str) -> onnx.SequenceProto:
    """What ZipMap makes: for every row a map from class to probability, each probability a float32 of rank 0."""
    sequence = onnx.SequenceProto(name=name, elem_type=onnx.SequenceProto.MAP)
    for row in rows:
        values = [_tensor(np.asarray(value, np.float32)) for value in row.values()]
        inside = onnx.SequenceProto(elem_type=onnx.SequenceProto.TENSOR, tensor_values=values)
        sequence.map_values.append(onnx.MapProto(key_type=onnx.TensorProto.INT64, keys=list(row), values=inside))
    return sequence


def write_provenance(out: Path, *, producer: str, version: str, settings: str, seed: int) -> None:
    """Say in OUT/provenance.json who computed the reference outputs, and how; always in float32 or better."""
    said = {"producer": producer, "version": version, "precision": "float32", "settings": settings, "seed": seed}
    (out / "provenance.json").write_text(json.dumps(said, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main(build: Callable[[Path, str, int, int], Mapping[str, Liveness]], architectures: Sequence[str]) -> int:
    """Read `OUT --seed N --architecture NAME [--inputs N]` and build; exit code 1 for a refusal, told on stderr."""
    parser = argparse.ArgumentParser(description="Write a model and its reference outputs into OUT.")
    parser.add_argument("out", type=Path, metavar="OUT", help="an empty folder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--architecture", choices=sorted(architectures), required=True)
    parser.add_argument("--inputs", type=int, default=FEWEST_INPUTS, help="how many data sets")
    asked = parser.parse_args()
    try:
        if not asked.out.is_dir() or any(asked.out.iterdir()):
            raise Refused(f"{asked.out} is not an empty folder")
        if asked.inputs < FEWEST_INPUTS:
            raise Refused(f"{asked.inputs} inputs are too few to see that the output follows them")
        for name, figure in build(asked.out, asked.architecture, asked.seed, asked.inputs).items():
            print(f"{asked.architecture}: output {name!r} {figure}")
    except Refused as refusal:
        print(f"{asked.architecture}, seed {asked.seed}: {refusal}", file=sys.stderr)
        return 1
    return 0
