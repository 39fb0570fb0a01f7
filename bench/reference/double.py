"""A model in float64, and what it answers: the reference itself is judged against it.

Every float tensor, cast and type becomes a double; where an operator's own rules want float32 (the scales of a Resize)
it stays. ONNX Runtime computes it where its kernels can, else onnx's evaluator. Knows protobuf; runs on the host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, TensorProto, helper, numpy_helper

from bench.cache import key_of
from bench.datasets import DataSet
from bench.errors import BenchError, UnsupportedModel
from bench.interface import Model, Signature, ValueSpec
from bench.onnxfile import graphs
from bench.place import Place
from bench.reference.judge import Answers, answers, judges, load, options_of, save, versions

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
# Inputs that are float32 whatever the others are. Source: the operators' type constraints, onnx 1.23.
_FLOAT32_INPUTS = {"Resize": (1, 2), "Upsample": (1,), "DequantizeLinear": (1,), "QuantizeLinear": (1,)}
# Attributes that name the type of what an operator makes.
_TYPE_ATTRIBUTES = ("to", "dtype")
# About less precision than float64 by their meaning: there is no such model.
_NO_DOUBLE = frozenset(
    {"DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"}
)


def answers_in_double(model: Model, data_sets: Sequence[DataSet], place: Place) -> Answers:
    """What the model answers in float64, computed once and kept. Outputs are float64 where the model's are float.

    Raises:
        BenchError: no installed runtime can compute it; the message says which operators are in the way.
    """

    def build(folder: Path) -> dict[str, Any]:
        place.say(f"computing {model.name} in float64 (once)")
        wide = as_double(model, folder)
        made = _by_any(wide, [_widened(data) for data in data_sets], place.near)
        wide.path.unlink()
        save(made.outputs, folder)
        return {"producer": made.producer, "version": made.version}

    entry = place.cache.get(
        "references", _key(model, data_sets), build, summary=f"{model.name} in float64", on_wait=place.say
    )
    return Answers(load(entry.path), entry.facts["producer"], entry.facts["version"])


def has_answers_in_double(model: Model, data_sets: Sequence[DataSet], place: Place) -> bool:
    """Whether they have been computed and are kept."""
    return (place.cache.root / "references" / _key(model, data_sets)).is_dir()


def _key(model: Model, data_sets: Sequence[DataSet]) -> str:
    known = {judge.name: versions(judge.create()) for judge in judges()}
    return key_of(["float64", model.sha256, [d.sha256 for d in data_sets], known])


def _by_any(model: Model, data_sets: Sequence[DataSet], place: Place) -> Answers:
    reasons = []
    for judge in judges():
        try:
            options = options_of(judge.create(), judge.create().reference or {})
            return answers(judge, model, data_sets, place, options, purpose="float64 outputs")
        except BenchError as error:
            reasons.append(f"{judge.name}: {error.message}")
    raise UnsupportedModel(f"nothing here computes {model.name} in float64: {'; '.join(reasons)}")


def _widened(data: DataSet) -> DataSet:
    return DataSet({n: v.astype(np.float64) if v.dtype.kind == "f" else v for n, v in data.feeds.items()})


def as_double(model: Model, folder: Path) -> Model:
    """The model in float64, written with its weights inside below a folder.

    Raises:
        UnsupportedModel: it holds operators that have no meaning in float64; they are named.
    """
    proto = onnx.load(model.path)
    names = {node.op_type for graph in graphs(proto) for node in graph.node}
    domains = {node.domain for graph in graphs(proto) for node in graph.node} - {"", "ai.onnx"}
    if odd := sorted(names & _NO_DOUBLE) + sorted(domains):
        raise UnsupportedModel(f"no float64 model: {', '.join(odd)} cannot compute in it")
    for graph in graphs(proto):
        _convert(graph)
    for value in (*proto.graph.input, *proto.graph.output):
        _convert_type(value.type)
    path = folder / "double.onnx"
    onnx.save(proto, path)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    both = (tuple(map(_wide_spec, specs)) for specs in (model.signature.inputs, model.signature.outputs))
    return replace(model, root=folder, files=(path.name,), sha256=digest, signature=Signature(*both))


def _wide_spec(spec: ValueSpec) -> ValueSpec:
    return replace(spec, dtype="float64") if spec.dtype in ("float32", "float16", "bfloat16") else spec


def _convert(graph: Any) -> None:
    kept = {
        node.input[index]
        for node in graph.node
        for index in _FLOAT32_INPUTS.get(node.op_type, ())
        if index < len(node.input)
    }
    if isinstance(graph, GraphProto):  # a function has neither
        for tensor in graph.initializer:
            if tensor.name not in kept:
                _convert_tensor(tensor)
        del graph.value_info[:]
    for node in graph.node:
        _plain_statistics(node)
        for attribute in node.attribute:
            if attribute.HasField("t") and node.output[0] not in kept:
                _convert_tensor(attribute.t)
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            if node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                _spell_out(attribute)


def _plain_statistics(node: Any) -> None:
    """BatchNormalization as it infers: onnx's evaluator takes the momentum of old opsets for training; 1 keeps all."""
    if node.op_type == "BatchNormalization":
        for attribute in node.attribute:
            if attribute.name == "momentum":
                attribute.f = 1.0
        if "momentum" not in {attribute.name for attribute in node.attribute}:
            node.attribute.append(helper.make_attribute("momentum", 1.0))


def _spell_out(attribute: Any) -> None:
    """A Constant's float attribute as a double tensor."""
    values = attribute.f if attribute.name == "value_float" else list(attribute.floats)
    made = helper.make_attribute("value", numpy_helper.from_array(np.asarray(values, np.float64)))
    attribute.CopyFrom(made)


def _convert_tensor(tensor: Any) -> None:
    if tensor.data_type in _FLOATS:
        made = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float64), tensor.name)
        tensor.CopyFrom(made)


def _convert_type(kind: Any) -> None:
    which = kind.WhichOneof("value")
    if which in ("tensor_type", "sparse_tensor_type"):
        inside = getattr(kind, which)
        if inside.elem_type in _FLOATS:
            inside.elem_type = TensorProto.DOUBLE
    elif which in ("sequence_type", "optional_type"):
        _convert_type(getattr(kind, which).elem_type)
    elif which == "map_type":
        _convert_type(kind.map_type.value_type)
