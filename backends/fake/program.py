"""A program of the fake device: an ONNX graph as a list of steps, and its weights.

`translate` needs onnx and runs on the host; `read` and `interpreter` need numpy only and run where the session is.
The files are the same bytes for the same model.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import LoadError, PrepareError, RunError, UnsupportedModel
from bench.interface import Array, Feeds, Outputs

from .operators import OPERATORS, Compute

FILES = ("program.json", "weights.npz")
FORMAT = 1
CONSTANTS = ("value", "value_float", "value_floats", "value_int", "value_ints")


@dataclass(frozen=True, slots=True)
class Step:
    """One node: its operator and attributes, the names it reads (empty: not given) and the one it writes."""

    op: str
    node: str
    inputs: tuple[str, ...]
    output: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Program:
    """A translated graph; weights are tensors by name."""

    opset: int
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    weights: Mapping[str, Array]


def translate(path: Path) -> Program:
    """The program of an ONNX file.

    Raises:
        UnsupportedModel: a node the fake device cannot compute, by operator and name.
        PrepareError: the file is not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]  # protobuf has no stubs here

    try:
        model = onnx.load(path)
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as error:
        raise PrepareError(f"cannot read {path.name} as an ONNX model: {error}") from error
    graph = model.graph
    if graph.sparse_initializer:
        raise UnsupportedModel("sparse initializers are beyond the fake device", "use a dense initializer")
    opset = next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 1)
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    steps = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            weights[node.output[0]] = _constant(node, index)
        else:
            steps.append(_step(node, index, opset))
    for name, value in weights.items():
        if value.dtype.kind not in "biuf" or value.dtype.isbuiltin == 2:
            raise UnsupportedModel(f"weight {name!r} is of a type that the fake device lacks: {value.dtype}")
    return Program(opset, tuple(value.name for value in graph.output), tuple(steps), weights)


def _refusal(node: Any, index: int, reason: str) -> UnsupportedModel:
    operator = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
    known = ", ".join(sorted([*OPERATORS, "Constant"]))
    return UnsupportedModel(
        f"the fake device cannot compute operator {operator} of node {node.name or f'#{index}'}: {reason}",
        f"it knows {known}",
    )


def _constant(node: Any, index: int) -> Array:
    import onnx

    (attribute,) = node.attribute
    if attribute.name not in CONSTANTS:
        raise _refusal(node, index, f"attribute {attribute.name}")
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return np.asarray(onnx.numpy_helper.to_array(value))
    return np.array(value, np.float32 if "float" in attribute.name else np.int64)


def _step(node: Any, index: int, opset: int) -> Step:
    """The step of a node, if it is one whose every attribute is honoured."""
    import onnx

    operator = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
    if operator is None:
        raise _refusal(node, index, "not among its operators")
    attributes = {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
    unknown = sorted(set(attributes) - set(operator.attributes))
    if unknown:
        raise _refusal(node, index, f"attribute {', '.join(unknown)}")
    low, high = operator.inputs
    if not low <= len(node.input) <= high or len(node.output) != 1:
        raise _refusal(node, index, f"{len(node.input)} inputs and {len(node.output)} outputs")
    plain = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in attributes.items()}
    try:
        operator.make(plain, opset)
    except ValueError as error:
        raise _refusal(node, index, str(error)) from error
    return Step(node.op_type, node.name or f"#{index}", tuple(node.input), node.output[0], plain)


def write(program: Program, folder: Path, *, noise: str = "") -> None:
    """The program's two files, below `folder`; `noise` is kept in them and means nothing."""
    names = sorted(program.weights)
    described = {
        "format": FORMAT,
        "opset": program.opset,
        "outputs": program.outputs,
        "weights": names,
        "steps": [asdict(step) for step in program.steps],
        "noise": noise,
    }
    (folder / FILES[0]).write_text(json.dumps(described, sort_keys=True, indent=1), encoding="utf-8")
    # Names may hold slashes, so the members are numbered. numpy dates them 1980: the bytes do not change.
    arrays: dict[str, Any] = {f"w{index}": program.weights[name] for index, name in enumerate(names)}
    np.savez(folder / FILES[1], **arrays)


def read(folder: Path) -> Program:
    """The program in `folder`.

    Raises:
        LoadError: the files are missing or damaged.
    """
    try:
        described = json.loads((folder / FILES[0]).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise ValueError(f"format {described['format']}, not {FORMAT}")
        with np.load(folder / FILES[1], allow_pickle=False) as stored:
            weights = {name: stored[f"w{index}"] for index, name in enumerate(described["weights"])}
        steps = tuple(
            Step(entry["op"], entry["node"], tuple(entry["inputs"]), entry["output"], entry["attributes"])
            for entry in described["steps"]
        )
        return Program(described["opset"], tuple(described["outputs"]), steps, weights)
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise LoadError(
            f"the program in {folder.name}/ is missing or damaged: {error!r}",
            "remove it from the cache and prepare again",
        ) from error


def interpreter(program: Program, inputs: tuple[str, ...]) -> Callable[[Feeds], Outputs]:
    """A function from feeds to fresh outputs. Lean, because the harness's own overhead is measured with it."""
    slots = {name: index for index, name in enumerate(dict.fromkeys([*program.weights, *inputs]))}
    steps: list[tuple[Step, Compute, tuple[int, ...], int]] = []
    for step in program.steps:
        compute = OPERATORS[step.op].make(step.attributes, program.opset)
        read_slots = tuple(slots.setdefault(name, len(slots)) for name in step.inputs)
        steps.append((step, compute, read_slots, slots.setdefault(step.output, len(slots))))
    missing = [name for name in program.outputs if name not in slots]
    if missing:
        raise LoadError(f"no step makes output {missing[0]!r}")
    # An input left out has the empty name: its slot is never written, so it reads None.
    template: list[Any] = [program.weights.get(name) for name in slots]
    fed = tuple((name, slots[name]) for name in inputs)
    made = tuple((name, slots[name]) for name in program.outputs)

    def run(feeds: Feeds) -> Outputs:
        values = template.copy()
        for name, slot in fed:
            values[slot] = feeds[name]
        current = None
        try:
            with np.errstate(all="ignore"):  # a division by zero is the model's business
                for current, compute, reads, writes in steps:  # noqa: B007 - read where it fails
                    values[writes] = compute(*[values[slot] for slot in reads])
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            where = f"node {current.node} ({current.op})" if current else "the program"
            raise RunError(f"{where} failed: {error}") from error
        return {name: np.array(values[slot], order="C") for name, slot in made}

    return run
