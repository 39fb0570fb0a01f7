"""An ONNX file, parsed and checked: what it takes and gives, and what belongs to it."""

from __future__ import annotations

import hashlib
import math
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, TensorProto

from bench.errors import UsageError
from bench.interface import Signature, ValueSpec

Dims = tuple[int | str | None, ...]
_KINDS = {"tensor_type": "tensor", "sequence_type": "sequence", "map_type": "map", "optional_type": "optional"}
_QUANTISED = re.compile(
    r"(Dynamic)?Quantize(Linear|MatMul|LSTM)|DequantizeLinear|QLinear\w+|QGemm|QAttention|(Conv|MatMul)Integer\w*|MatMulNBits"
)
_FLOATS = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp32",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.FLOAT16: "fp16",
}
# Operators that hand indices on unchanged, or rearranged.
_HAND_ON = frozenset({"Cast", "Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose"})


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A parsed model without its external data: `files[0]` below `root`, then the external files it names."""

    root: Path
    files: tuple[str, ...]
    sha256: str
    opset: int
    proto: Any

    @property
    def open_dims(self) -> dict[str, Dims | None]:
        """The shape of each input to feed, as the file has it: symbols are names, unknown dimensions are None.

        None where even the rank is unknown.
        """
        return {i.name: dims_of(i.type) for i in fed(self.proto) if i.type.WhichOneof("value") == "tensor_type"}

    @property
    def precision(self) -> str:
        """What the file computes in: `int8` where it is quantised, else the type of most of its float weights.

        Most by count: a half-precision file keeps a few sensitive weights, and often its inputs and outputs, in fp32,
        and a few fp16 scalars do not make an fp32 file imprecise. Without float weights its inputs and outputs decide.
        """
        if any(_QUANTISED.fullmatch(node.op_type) for node in _nodes(self.proto)):
            return "int8"
        counts = dict.fromkeys(_FLOATS.values(), 0)
        for tensor in tensors(self.proto):
            if tensor.data_type in _FLOATS:
                counts[_FLOATS[tensor.data_type]] += math.prod(tensor.dims)
        if not any(counts.values()):
            for value in (*fed(self.proto), *self.proto.graph.output):
                if value.type.tensor_type.elem_type in _FLOATS:
                    counts[_FLOATS[value.type.tensor_type.elem_type]] += 1
        return max(counts, key=lambda name: counts[name])

    @property
    def index_bounds(self) -> dict[str, int]:
        """For each input whose numbers are rows of a table in the file (token ids), the size of its smallest table."""
        sizes = {t.name: tuple(t.dims) for t in self.proto.graph.initializer}
        origin = {i.name: i.name for i in fed(self.proto)}
        found: dict[str, int] = {}
        for node in self.proto.graph.node:  # in topological order
            if node.op_type == "Constant":
                sizes[node.output[0]] = next((tuple(a.t.dims) for a in node.attribute if a.name == "value"), ())
            elif node.op_type in _HAND_ON and node.input and node.input[0] in origin:
                origin[node.output[0]] = origin[node.input[0]]
            elif (
                node.op_type == "Gather" and len(node.input) == 2 and node.input[0] in sizes and node.input[1] in origin
            ):
                axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
                name, shape = origin[node.input[1]], sizes[node.input[0]]
                if -len(shape) <= axis < len(shape):
                    found[name] = min(shape[axis], found.get(name, shape[axis]))
        return found


def read(path: Path) -> OnnxFile:
    """Parse and check a model file.

    Raises:
        UsageError: it is missing, empty, not ONNX, cut short, or its external data is missing or outside its folder.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not an ONNX file") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    proto = _parsed(data, path)
    external = _external_files(proto, path)
    digest = hashlib.sha256(data)
    for name in external:
        with (path.parent / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    return OnnxFile(path.parent, (path.name, *external), digest.hexdigest(), opset, proto)


def _parsed(data: bytes, path: Path) -> Any:
    hint = "check the file's size and origin"
    if not data:
        raise UsageError(f"{path} is empty", hint)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
        _check(proto)
    except (DecodeError, UnicodeDecodeError):
        raise UsageError(f"{path} is not an ONNX model, or it is cut short", hint) from None
    except _Malformed as error:
        raise UsageError(f"{path} is not an ONNX model, or it is cut short: {error}", hint) from None
    return proto


class _Malformed(Exception):
    """What the file lacks."""


def _check(proto: Any) -> None:
    """What a protobuf parser lets pass: a file that ends between two fields, or that is another protobuf altogether."""
    graph = proto.graph
    if not graph.node and not graph.output:
        raise _Malformed("it holds no graph")
    if proto.ir_version >= 3 and not proto.opset_import:
        raise _Malformed("it does not say which opset it is in")
    if not graph.output:
        raise _Malformed("its graph has no outputs")
    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in (*graph.input, *graph.initializer)} | {
        t.values.name for t in graph.sparse_initializer
    }
    for node in graph.node:
        if not node.op_type:
            raise _Malformed("one of its nodes has no operator")
        if lacking := [name for name in node.input if name and name not in made]:
            raise _Malformed(f"nothing makes {lacking[0]!r}, which a {node.op_type} takes")
    if lacking := [value.name for value in graph.output if value.name not in made]:
        raise _Malformed(f"nothing makes its output {lacking[0]!r}")
    for value in (*fed(proto), *graph.output):
        kind = value.type.tensor_type
        if value.type.WhichOneof("value") == "tensor_type" and kind.elem_type not in TensorProto.DataType.values():
            raise _Malformed(f"the type of {value.name!r} is unknown")


def _external_files(proto: Any, path: Path) -> tuple[str, ...]:
    """The files that hold tensors outside the model file. Only those inside its folder are accepted."""
    found: dict[str, None] = {}
    for tensor in tensors(proto):
        if tensor.data_location == TensorProto.EXTERNAL:
            found[external_file(tensor, path)] = None
    return tuple(sorted(found))


def external_file(tensor: Any, path: Path) -> str:
    """Where the model file at `path` keeps a tensor, relative to its folder; refused outside of it."""
    root = path.parent.resolve()
    facts = {entry.key: entry.value for entry in tensor.external_data}
    name = facts.get("location", "")
    try:
        offset, length = int(facts.get("offset") or 0), int(facts.get("length") or 0)
        target = (root / name).resolve()
        size = target.stat().st_size if target.is_file() else None
    except (ValueError, OSError, RuntimeError):  # no number; a null byte; too long a name; a loop of links
        raise UsageError(f"{path}: the external data of {tensor.name!r} cannot be read: {facts}") from None
    if not name or os.path.isabs(name) or ".." in Path(name).parts or not target.is_relative_to(root):
        raise UsageError(
            f"{path}: the weights of {tensor.name!r} lie outside the model's folder ({name!r})",
            "refused: a model may only read what lies beside it; copy them there, or save it again with relative names",
        )
    if size is None:
        raise UsageError(f"{path}: its external data {name!r} is missing", "copy it into the model's folder")
    if offset < 0 or length < 0 or size < offset + length:
        raise UsageError(f"{path}: its external data {name!r} is cut short", "copy it again")
    return str(os.path.normpath(name))


def graphs(proto: Any) -> Iterator[Any]:
    """The graph, the functions, and every graph inside their nodes."""
    waiting = [proto.graph, *proto.functions]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                waiting += attribute.graphs
                if attribute.HasField("g"):
                    waiting.append(attribute.g)


def _nodes(proto: Any) -> Iterator[Any]:
    for graph in graphs(proto):
        yield from graph.node


def tensors(proto: Any) -> Iterator[Any]:
    """Every tensor that the file holds or names: weights, and the attributes of nodes."""
    for graph in graphs(proto):
        if isinstance(graph, GraphProto):  # a function has no weights of its own
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
    for node in _nodes(proto):
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def fed(proto: Any) -> list[Any]:
    """What has to be fed: old files list their weights among the inputs too."""
    weights = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return [i for i in proto.graph.input if i.name not in weights]


def dims_of(kind: Any) -> Dims | None:
    """The shape that a type states; None where it states none."""
    if not kind.tensor_type.HasField("shape"):
        return None
    found: list[int | str | None] = []
    for dim in kind.tensor_type.shape.dim:
        which = dim.WhichOneof("value")
        found.append(dim.dim_value if which == "dim_value" else dim.dim_param or None if which == "dim_param" else None)
    return tuple(found)


def dtype_name(elem_type: int) -> str:
    """Numpy's name of an ONNX element type; ONNX's own in lower case where numpy has none."""
    if elem_type == TensorProto.STRING:
        return "string"
    name = str(TensorProto.DataType.Name(elem_type)).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def signature(proto: Any) -> Signature:
    """Inputs to feed and outputs, with the shapes that the file or shape inference gives."""
    inputs = tuple(value_spec(i) for i in fed(proto))
    outputs = tuple(value_spec(o) for o in proto.graph.output)
    return Signature(inputs, outputs)


def value_spec(info: Any) -> ValueSpec:
    """A named value as the interface has it."""
    which = info.type.WhichOneof("value")
    if which != "tensor_type":
        return ValueSpec(info.name, "", None, _KINDS.get(which, "optional"))  # type: ignore[arg-type]
    dims = dims_of(info.type)
    shape = None if dims is None else tuple(d if isinstance(d, int) else None for d in dims)
    return ValueSpec(info.name, dtype_name(info.type.tensor_type.elem_type), shape)


def infer_outputs(file: OnnxFile, found: Signature) -> Signature:
    """The signature with output shapes filled in by shape inference, where the file leaves them open."""
    if all(o.shape is not None and None not in o.shape for o in found.outputs if o.kind == "tensor"):
        return found
    try:
        inferred = onnx.shape_inference.infer_shapes(file.proto, data_prop=True)
    except Exception:  # noqa: BLE001 - inference is a help, not a need: a shape stays unknown and is not checked
        return found
    return signature(inferred)


def carry(file: OnnxFile, names: Iterable[str], folder: Path) -> None:
    """Put external data of the model beside a file that is made of it: a copy, for onnx 1.23 refuses links."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file.root / name, folder / name)
