"""Reads ONNX files: what they take and give, what belongs to them, and binds their open dimensions.

The only module that knows protobuf. It runs on the host.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError
from onnx import TensorProto, helper, numpy_helper

from bench.errors import UsageError
from bench.interface import Array, Signature, ValueSpec

Dims = tuple[int | str | None, ...]
_KINDS = {"tensor_type": "tensor", "sequence_type": "sequence", "map_type": "map", "optional_type": "optional"}
_LOW_PRECISION_OPS = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """A parsed model without its external data: `files[0]` below `root`, then the external files it names."""

    root: Path
    files: tuple[str, ...]
    sha256: str
    opset: int
    proto: Any

    @property
    def open_dims(self) -> dict[str, Dims]:
        """The shape of each input to feed, as the file has it: symbols are names, unknown dimensions are None."""
        return {i.name: _dims(i.type) for i in _inputs(self.proto) if i.type.WhichOneof("value") == "tensor_type"}

    @property
    def precision(self) -> str:
        """What the file computes in: `int8` where it is quantised, else the widest type among its float weights."""
        nodes = {node.op_type for node in self.proto.graph.node}
        if nodes & _LOW_PRECISION_OPS:
            return "int8"
        kinds = {t.data_type for t in self.proto.graph.initializer}
        kinds |= {i.type.tensor_type.elem_type for i in _inputs(self.proto)}
        if kinds & {TensorProto.FLOAT, TensorProto.DOUBLE}:
            return "fp32"
        return "fp16" if TensorProto.FLOAT16 in kinds else "bf16" if TensorProto.BFLOAT16 in kinds else "fp32"


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
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError:
        raise UsageError(f"{path} is not an ONNX model, or it is cut short", "check the file's size and origin") from None
    if not proto.graph.node and not proto.graph.output:
        raise UsageError(f"{path} is not an ONNX model: it holds no graph", "check the file's size and origin")
    external = _external_files(proto, path)
    digest = hashlib.sha256(data)
    for name in external:
        with (path.parent / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    opset = next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)
    return OnnxFile(path.parent, (path.name, *external), digest.hexdigest(), opset, proto)


def _external_files(proto: Any, path: Path) -> tuple[str, ...]:
    """The files that hold tensors outside the model file. Only those inside its folder are accepted."""
    root = path.parent.resolve()
    found: dict[str, None] = {}
    for tensor in _tensors(proto.graph):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        facts = {entry.key: entry.value for entry in tensor.external_data}
        name = facts.get("location", "")
        target = (root / name).resolve()
        if not name or os.path.isabs(name) or not target.is_relative_to(root):
            raise UsageError(
                f"{path}: the weights of {tensor.name!r} lie outside the model's folder ({name!r})",
                "refused: a model may only read what lies beside it; save it again with relative external data",
            )
        if not target.is_file():
            raise UsageError(f"{path}: its external data {name!r} is missing", "copy it into the model's folder")
        if target.stat().st_size < int(facts.get("offset", 0)) + int(facts.get("length", 0)):
            raise UsageError(f"{path}: its external data {name!r} is cut short", "copy it again")
        found[name] = None
    return tuple(sorted(found))


def _tensors(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])):
                yield from _tensors(inner)


def _inputs(proto: Any) -> list[Any]:
    """What has to be fed: old files list their weights among the inputs too."""
    weights = {t.name for t in proto.graph.initializer} | {t.values.name for t in proto.graph.sparse_initializer}
    return [i for i in proto.graph.input if i.name not in weights]


def _dims(kind: Any) -> Dims:
    found: list[int | str | None] = []
    for dim in kind.tensor_type.shape.dim:
        which = dim.WhichOneof("value")
        found.append(dim.dim_value if which == "dim_value" else dim.dim_param or None if which == "dim_param" else None)
    return tuple(found)


def dtype_name(elem_type: int) -> str:
    """Numpy's name of an ONNX element type; ONNX's own in lower case where numpy has none."""
    if elem_type == TensorProto.STRING:
        return "string"
    name = TensorProto.DataType.Name(elem_type).lower()
    return {"float": "float32", "double": "float64"}.get(name, name)


def signature(proto: Any) -> Signature:
    """Inputs to feed and outputs, with the shapes that the file or shape inference gives."""
    inputs = tuple(_spec(i) for i in _inputs(proto))
    outputs = tuple(_spec(o) for o in proto.graph.output)
    return Signature(inputs, outputs)


def _spec(info: Any) -> ValueSpec:
    which = info.type.WhichOneof("value")
    if which != "tensor_type":
        return ValueSpec(info.name, "", None, _KINDS.get(which, "optional"))  # type: ignore[arg-type]
    known = info.type.tensor_type.HasField("shape")
    shape = tuple(d if isinstance(d, int) else None for d in _dims(info.type)) if known else None
    return ValueSpec(info.name, dtype_name(info.type.tensor_type.elem_type), shape)


def bindings(file: OnnxFile, shapes: Mapping[str, tuple[int, ...]], batch: int | None) -> dict[str, tuple[int, ...]]:
    """The shape of every input once the options are applied. Nothing is guessed.

    Raises:
        UsageError: an unknown input, a shape that contradicts the file, or a dimension left open.
    """
    declared = file.open_dims
    for name in shapes:
        if name not in declared:
            raise UsageError(f"the model has no input {name!r}", f"its inputs: {describe(declared)}")
    symbols: dict[str, int] = {}
    bound: dict[str, list[int | str | None]] = {}
    for name, dims in declared.items():
        wanted = list(shapes.get(name, dims))
        if name in shapes and len(wanted) != len(dims) and dims:
            raise UsageError(f"input {name!r} has {len(dims)} dimensions, {len(wanted)} were given", describe({name: dims}))
        if batch is not None and wanted and name not in shapes:
            wanted[0] = _batched(name, dims[0], batch)
        for want, dim in zip(wanted, dims, strict=False):
            if isinstance(dim, int) and dim > 0 and want != dim:
                message = f"input {name!r} is fixed to {list(dims)} in the file, {wanted} was asked for"
                raise UsageError(message, "export the model again with that shape, or with a symbolic dimension")
            if isinstance(dim, str) and isinstance(want, int) and symbols.setdefault(dim, want) != want:
                raise UsageError(f"the symbol {dim!r} cannot be both {symbols[dim]} and {want}", describe(declared))
        bound[name] = wanted
    for name, dims_now in bound.items():
        bound[name] = [symbols.get(d, d) if isinstance(d, str) else d for d in dims_now]
    still_open = {n: tuple(d) for n, d in bound.items() if not all(isinstance(x, int) and x > 0 for x in d)}
    if still_open:
        example = " ".join(
            f"--shape {n}={','.join(str(x) if isinstance(x, int) else '1' for x in d)}" for n, d in still_open.items()
        )
        hint = f"give their sizes, for example: {example}"
        raise UsageError(f"the model leaves dimensions open: {describe(still_open)}", hint)
    return {name: tuple(int(x) for x in dims if isinstance(x, int)) for name, dims in bound.items()}


def _batched(name: str, dim: int | str | None, batch: int) -> int:
    if isinstance(dim, int) and dim > 0 and dim != batch:
        message = f"the batch of input {name!r} is fixed to {dim} in the file, {batch} was asked for"
        raise UsageError(message, "export the model again with a symbolic batch dimension")
    return batch


def describe(shapes: Mapping[str, Dims]) -> str:
    """Shapes in words: `input[N,3,224,224]`; an unknown dimension is `?`."""
    return ", ".join(f"{name}[{','.join('?' if d is None else str(d) for d in dims)}]" for name, dims in shapes.items())


def bind(file: OnnxFile, shapes: Mapping[str, tuple[int, ...]], folder: Path) -> None:
    """Write the model with these input shapes into a folder, its external data beside it."""
    proto = onnx.ModelProto()
    proto.CopyFrom(file.proto)
    symbols = {
        dim: size
        for name, dims in file.open_dims.items()
        for dim, size in zip(dims, shapes[name], strict=False)
        if isinstance(dim, str)
    }
    for info in _inputs(proto):
        if info.name in shapes:
            elem = info.type.tensor_type.elem_type
            info.type.CopyFrom(helper.make_tensor_type_proto(elem, shapes[info.name]))
    for info in (*proto.graph.output, *proto.graph.value_info):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param in symbols:
                dim.dim_value = symbols[dim.dim_param]
    onnx.save(proto, folder / file.files[0])
    for name in file.files[1:]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link((file.root / name).resolve(), folder / name)
        except OSError:
            shutil.copyfile(file.root / name, folder / name)


def infer_outputs(file: OnnxFile, found: Signature) -> Signature:
    """The signature with output shapes filled in by shape inference, where the file leaves them open and inference can."""
    if all(o.shape is not None and None not in o.shape for o in found.outputs if o.kind == "tensor"):
        return found
    try:
        inferred = onnx.shape_inference.infer_shapes(file.proto, data_prop=True)
    except Exception:  # noqa: BLE001 - inference is a help, not a need: a shape stays unknown and is not checked
        return found
    return signature(inferred)


def tensor(path: Path) -> tuple[str, Array]:
    """The name and array of a TensorProto file.

    Raises:
        UsageError: it is not one.
    """
    proto = TensorProto()
    try:
        proto.ParseFromString(path.read_bytes())
        array = numpy_helper.to_array(proto)
    except (DecodeError, OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a tensor in ONNX's format: {error}") from error
    if proto.data_type == TensorProto.STRING:
        flat = [t.decode("utf-8", "surrogatepass") if isinstance(t, bytes) else str(t) for t in array.ravel().tolist()]
        text = array.astype(object)
        text.ravel()[:] = flat
        array = text
    return proto.name, array


def save_tensor(path: Path, name: str, array: Array) -> None:
    """Write an array as a TensorProto file."""
    path.write_bytes(numpy_helper.from_array(array, name).SerializeToString())
