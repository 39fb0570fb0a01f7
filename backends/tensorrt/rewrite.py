"""Changes to an ONNX file that decide the engine: lower precision, and dimensions opened for a profile.

TensorRT 11 has no precision switches: a network computes in the types of its file. So float32 becomes float16 or
bfloat16 here, node by node, with casts where the two meet. Inputs and outputs of the model keep their types.
Needs the package onnx, where the engine is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BackendUnavailable, PrepareError, UnsupportedModel

# Sums and powers leave float16's range, or lose what they sum up, long before their results do.
KEEP = frozenset({
    "CumSum", "Exp", "GroupNormalization", "InstanceNormalization", "LayerNormalization", "Log", "LpNormalization",
    "Pow",
    "RMSNormalization", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMean", "ReduceSum",
    "ReduceSumSquare", "Softplus",
})  # fmt: skip
# They stay beside what they work on alone: the root of a variance, which may be larger than float16 can be.
_FOLLOW = frozenset({"Abs", "Add", "Clip", "Identity", "Max", "Mul", "Neg", "Reciprocal", "Sqrt", "Sub"})
# Inputs that are float32 in every opset, by operator and position; and operators that are float32 or nothing.
_ALWAYS_FLOAT = {"Resize": (1, 2), "Upsample": (1,)}
_FLOAT_ONLY = frozenset({"NonMaxSuppression", "ImageDecoder", "TfIdfVectorizer", "StringNormalizer"})
_QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"})
_FLOAT, LOWER = 1, {"fp16": 10, "bf16": 16}  # TensorProto.FLOAT, FLOAT16, BFLOAT16
_HALF_MOST = 65504.0
_EXTERNAL_FROM_BYTES = 1 << 30
_SMALL_BYTES = 4096


def write(path: Path, folder: Path, precision: str, opened: Mapping[str, tuple[int, ...]]) -> Path:
    """The file with these changes, in `folder`. `opened`: inputs by name with -1 where a dimension shall vary.

    Raises:
        BackendUnavailable: the package onnx is not installed.
        UnsupportedModel: the model is quantized already.
    """
    try:
        import onnx
    except ImportError as error:
        message = f"another precision or an open profile takes the package onnx: {error}"
        raise BackendUnavailable(message, "pip install onnx") from error
    try:
        proto = onnx.load(str(path))
        if opened:
            open_inputs(proto, opened)
        if precision in LOWER:
            proto = lower(proto, precision)
        made = folder / "rewritten.onnx"
        large = proto.ByteSize() > _EXTERNAL_FROM_BYTES
        where: dict[str, Any] = {"save_as_external_data": True, "location": "rewritten.data"} if large else {}
        onnx.save(proto, str(made), **where)
    except (ValueError, TypeError, OSError) as error:
        raise PrepareError(f"{path.name} could not be rewritten: {error}") from error
    return made


def open_inputs(proto: Any, opened: Mapping[str, tuple[int, ...]]) -> None:
    """Let dimensions of inputs vary. What was inferred from the sizes they had is forgotten."""
    for value in proto.graph.input:
        for axis, size in enumerate(opened.get(value.name, ())):
            if size == -1:
                value.type.tensor_type.shape.dim[axis].dim_param = f"{value.name}_{axis}"
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            dim.dim_param = f"{value.name}_{axis}"


def lower(proto: Any, precision: str) -> Any:
    """The model with float32 lowered to `fp16` or `bf16`, except in the operators of `KEEP`."""
    import onnx.inliner
    import onnx.shape_inference

    proto = onnx.inliner.inline_local_functions(proto)
    if found := sorted({node.op_type for node in _nodes(proto.graph)} & _QUANTIZED):
        raise UnsupportedModel(
            f"the model is quantized already ({', '.join(found)})", "measure it with precision model"
        )
    proto.ir_version = max(proto.ir_version, 4)  # before, every weight was an input too
    _Lowering(proto, precision).apply()
    return proto


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


class _Lowering:
    """One pass over the nodes, in their order. Every value has one type that it is made in, and casts on demand."""

    def __init__(self, proto: Any, precision: str) -> None:
        import onnx

        self._onnx, self._graph = onnx, proto.graph
        self._code = LOWER[precision]
        self._elements = _element_types(onnx, proto)
        self._weights = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._lowered: set[str] = set()  # made in the lower precision
        self._raised: set[str] = set()  # made by a node that stays in float32
        self._casts: dict[tuple[str, int], str] = {}
        self._taken = set(self._elements)
        self._made: list[Any] = []

    def apply(self) -> None:
        outputs = {value.name for value in self._graph.output}
        for node in self._graph.node:
            keeps = self._keeps(node)
            always = _ALWAYS_FLOAT.get(node.op_type, ())
            for index, name in enumerate(node.input):
                if self._is_float(name):
                    node.input[index] = self._as(name, _FLOAT if keeps or index in always else self._code)
            if keeps:
                self._raise_captured(node)
                self._raised.update(node.output)
                self._made.append(node)
                continue
            self._lower_attributes(node)
            made = [name for name in node.output if self._is_float(name)]
            self._made.append(node)
            for name in made:
                self._lowered.add(name)
                if name in outputs:
                    self._give_back(node, name)
        del self._graph.node[:]
        self._graph.node.extend(self._made)
        del self._graph.value_info[:]
        self._drop_unused()

    def _keeps(self, node: Any) -> bool:
        """Whether a node stays in float32: it must, or it is of a kind that nothing here knows."""
        if node.op_type in KEEP | _FLOAT_ONLY or node.domain not in ("", "ai.onnx"):
            return True
        floats = [name for name in node.input if self._is_float(name) and name not in self._weights]
        if node.op_type in _FOLLOW and floats and self._raised.issuperset(floats):
            return True
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            return True
        return any(self._elements.get(name, 0) < 0 for name in (*node.input, *node.output))

    def _is_float(self, name: str) -> bool:
        return self._elements.get(name) == _FLOAT

    def _as(self, name: str, code: int) -> str:
        """The name under which the value has this type; made where there is none yet."""
        if name in self._weights:
            return name if code == _FLOAT else self._lower_weight(name)
        if code == (self._code if name in self._lowered else _FLOAT):
            return name
        if (name, code) not in self._casts:
            cast = self._new(f"{name}_as_{code}")
            self._made.append(self._onnx.helper.make_node("Cast", [name], [cast], name=cast, to=code))
            self._casts[name, code] = cast
        return self._casts[name, code]

    def _lower_weight(self, name: str) -> str:
        key = (name, self._code)
        if key not in self._casts:
            array = self._onnx.numpy_helper.to_array(self._weights[name])
            tensor = self._tensor(array, self._new(f"{name}_as_{self._code}"))
            self._graph.initializer.append(tensor)
            self._casts[key] = tensor.name
        return self._casts[key]

    def _tensor(self, array: Any, name: str) -> Any:
        """Rounded to the nearest; what is finite stays so."""
        array = np.asarray(array, np.float32)
        if self._code == LOWER["fp16"]:
            clipped = np.where(np.isfinite(array), np.clip(array, -_HALF_MOST, _HALF_MOST), array)
            raw = clipped.astype(np.float16).tobytes()
        else:
            raw = _bfloat16(array).tobytes()
        return self._onnx.helper.make_tensor(name, self._code, array.shape, raw, raw=True)

    def _lower_attributes(self, node: Any) -> None:
        """What a node says of float32 in its attributes."""
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype", "output_dtype") and attribute.i == _FLOAT:
                attribute.i = self._code
            elif attribute.HasField("t") and attribute.t.data_type == _FLOAT:
                attribute.t.CopyFrom(self._tensor(self._onnx.numpy_helper.to_array(attribute.t), attribute.t.name))
            elif node.op_type == "Constant" and attribute.name in ("value_float", "value_floats"):
                held = attribute.f if attribute.name == "value_float" else list(attribute.floats)
                tensor = self._tensor(held, "")
                attribute.Clear()
                attribute.CopyFrom(self._onnx.helper.make_attribute("value", tensor))
        lacking = {"RandomNormal", "RandomUniform", "EyeLike", "ConstantOfShape"}
        if node.op_type in lacking and not any(a.name in ("dtype", "value") for a in node.attribute):
            if node.op_type == "ConstantOfShape":
                node.attribute.append(self._onnx.helper.make_attribute("value", self._tensor([0.0], "")))
            elif node.op_type != "EyeLike":
                node.attribute.append(self._onnx.helper.make_attribute("dtype", self._code))

    def _give_back(self, node: Any, name: str) -> None:
        """An output of the model keeps its name and type: the node makes another value, and a cast the output."""
        inner = self._new(f"{name}_lowered")
        node.output[list(node.output).index(name)] = inner
        self._made.append(self._onnx.helper.make_node("Cast", [inner], [name], name=f"{inner}_cast", to=_FLOAT))
        self._lowered.discard(name)
        self._casts[name, self._code] = inner

    def _raise_captured(self, node: Any) -> None:
        """Subgraphs stay in float32: what they take from outside is given to them as such."""
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                for inner in _nodes(graph):
                    for index, name in enumerate(inner.input):
                        if name in self._lowered:
                            inner.input[index] = self._as(name, _FLOAT)
                for value in graph.output:
                    if value.name in self._lowered:
                        value.name = self._as(value.name, _FLOAT)

    def _new(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name

    def _drop_unused(self) -> None:
        """Weights whose float32 form nobody reads any more."""
        used = {name for node in _nodes(self._graph) for name in node.input}
        used |= {value.name for value in self._graph.output}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        fed = {tensor.name for tensor in self._graph.initializer} - {tensor.name for tensor in kept}
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)
        inputs = [value for value in self._graph.input if value.name not in fed]
        del self._graph.input[:]
        self._graph.input.extend(inputs)


def _element_types(onnx: Any, proto: Any) -> dict[str, int]:
    """The element type of every value of the main graph; -1 for what is no tensor."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    for tensor in bare.graph.initializer:  # inference needs their types alone, and small ones' values for shapes
        if len(tensor.raw_data) > _SMALL_BYTES:
            tensor.ClearField("raw_data")
    inferred = onnx.shape_inference.infer_shapes(bare).graph
    found = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        is_tensor = value.type.WhichOneof("value") in ("tensor_type", None)
        found[value.name] = value.type.tensor_type.elem_type if is_tensor else -1
    return found


def _bfloat16(array: Any) -> Any:
    """The upper halves, rounded to the nearest, ties to even; infinities and NaN stay what they are."""
    bits = np.ascontiguousarray(array).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isfinite(array), rounded, (bits >> 16) | (np.isnan(array) << 6)).astype(np.uint16)
