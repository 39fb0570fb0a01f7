"""Cuts a part out of a model: some of its nodes, fed at the cut, as a model of its own."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]
from onnx import TensorProto, helper, numpy_helper

from bench.errors import UsageError
from bench.interface import Array, Model, Signature, ValueSpec
from bench.onnxfile.file import OnnxFile, carry, external_file
from bench.onnxfile.graph import Node

# From this version on a weight need not be listed as an input as well; names and meaning are otherwise the same.
_IR = 4
# A protobuf file holds 2 GiB; what a part holds beside weights is small.
_ONE_FILE_BYTES = 3 << 29


def cut(
    file: OnnxFile,
    nodes: Sequence[Node],
    inputs: Sequence[ValueSpec],
    constants: Mapping[str, Array],
    outputs: Sequence[ValueSpec],
    folder: Path,
    *,
    name: str = "part",
    alone: bool = True,
) -> Model:
    """The part as `NAME.onnx` below `folder`, with the weights that it needs inside.

    Not `alone`, or where they are too large for one file, external weights stay so; unless `folder` is the model's own,
    their files come along, linked.
    `constants` become weights: what a runtime takes only as such (the shapes of a Reshape, scalars).

    Raises:
        UsageError: it cannot be written.
    """
    proto = _part(file.proto, nodes, inputs, constants, outputs)
    if alone:
        _take_in(proto, file)
    external = sorted({external_file(t, file.root / file.files[0]) for t in proto.graph.initializer if t.data_location})
    try:
        data = proto.SerializeToString(deterministic=True)
    except (ValueError, EncodeError) as error:
        raise UsageError(f"a part of {file.files[0]} does not fit into one file: {error}") from error
    path = folder / f"{name}.onnx"
    path.write_bytes(data)
    if folder != file.root:
        carry(file, external, folder)
    digest = hashlib.sha256(data)
    if external:
        digest.update(file.sha256.encode())
    found = Signature(tuple(inputs), tuple(outputs))
    return Model(name, folder, (path.name, *external), digest.hexdigest(), file.opset, found)


def _part(
    whole: Any,
    nodes: Sequence[Node],
    inputs: Sequence[ValueSpec],
    constants: Mapping[str, Array],
    outputs: Sequence[ValueSpec],
) -> Any:
    part = onnx.ModelProto(ir_version=max(_IR, whole.ir_version), producer_name=whole.producer_name)
    part.opset_import.extend(whole.opset_import)
    part.functions.extend(whole.functions)
    graph = part.graph
    graph.name = whole.graph.name or "part"
    graph.node.extend(whole.graph.node[node.index] for node in nodes)
    read = {name for node in nodes for name in node.inputs} | {spec.name for spec in outputs}
    held = read - constants.keys() - {spec.name for spec in inputs}
    graph.initializer.extend(t for t in whole.graph.initializer if t.name in held)
    graph.sparse_initializer.extend(t for t in whole.graph.sparse_initializer if t.values.name in held)
    graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in constants.items())
    graph.input.extend(_info(spec) for spec in inputs)
    known = {info.name: info for info in (*whole.graph.output, *whole.graph.value_info)}
    graph.output.extend(_info(spec, known.get(spec.name)) for spec in outputs)
    inside = {name for node in nodes for name in node.outputs} - {spec.name for spec in outputs}
    graph.value_info.extend(info for info in whole.graph.value_info if info.name in inside)
    return part


def _take_in(part: Any, file: OnnxFile) -> None:
    outside = [t for t in part.graph.initializer if t.data_location == TensorProto.EXTERNAL]
    sizes = (int(entry.value) for t in outside for entry in t.external_data if entry.key == "length")
    if sum(sizes) > _ONE_FILE_BYTES:
        return
    for tensor in outside:
        tensor.raw_data = _read(tensor, file)
        tensor.ClearField("data_location")
        del tensor.external_data[:]


def _read(tensor: Any, file: OnnxFile) -> bytes:
    """Its values. onnx's own reader refuses files with several names, as linked ones have."""
    facts = {entry.key: entry.value for entry in tensor.external_data}
    with (file.root / external_file(tensor, file.root / file.files[0])).open("rb") as source:
        source.seek(int(facts.get("offset") or 0))
        return source.read(int(facts.get("length") or -1))


def _info(spec: ValueSpec, known: Any = None) -> Any:
    """The type that the file states; a tensor's own; or none, which runtimes infer."""
    if spec.kind != "tensor" or not spec.dtype:
        return known or onnx.ValueInfoProto(name=spec.name)
    kinds = {"float32": "FLOAT", "float64": "DOUBLE"}
    kind = TensorProto.DataType.Value(kinds.get(spec.dtype, spec.dtype.upper()))
    shape = None if spec.shape is None else [f"{spec.name}_{i}" if d is None else d for i, d in enumerate(spec.shape)]
    return helper.make_tensor_value_info(spec.name, kind, shape)
