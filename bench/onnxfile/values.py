"""Values of every kind in ONNX's format: the TensorProto, SequenceProto, MapProto and OptionalProto of data sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import MapProto, OptionalProto, SequenceProto, TensorProto, helper, numpy_helper

from bench.errors import UsageError
from bench.interface import Packed, Value
from bench.onnxfile.tensors import array

_PROTOS: Mapping[str, Any] = {
    "tensor": TensorProto,
    "sequence": SequenceProto,
    "map": MapProto,
    "optional": OptionalProto,
}


def value(path: Path, kind: str = "tensor") -> tuple[str, Value]:
    """The name inside the file and its value. The kind is not in the file: the model says it.

    Raises:
        UsageError: the file is missing, or is not a value of that kind.
    """
    proto = _PROTOS[kind]()
    try:
        proto.ParseFromString(path.read_bytes())
        return str(proto.name), _READERS[kind](proto)
    except (DecodeError, OSError, TypeError, ValueError, KeyError) as error:
        raise UsageError(f"{path} is not a {kind} in ONNX's format: {error}") from error


def _sequence(proto: Any) -> Value:
    fields = {
        SequenceProto.TENSOR: (proto.tensor_values, array),
        SequenceProto.SEQUENCE: (proto.sequence_values, _sequence),
        SequenceProto.MAP: (proto.map_values, _map),
        SequenceProto.OPTIONAL: (proto.optional_values, _optional),
    }
    items, reader = fields[proto.elem_type]
    return [reader(item) for item in items]


def _map(proto: Any) -> Value:
    """Values of rank 0 become Python's own numbers and texts, which is what runtimes put into maps."""
    keys = [key.decode() for key in proto.string_keys] if proto.key_type == TensorProto.STRING else list(proto.keys)
    values = _sequence(proto.values)
    assert isinstance(values, list)
    return dict(zip(keys, (_bare(value) for value in values), strict=True))


def _bare(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.shape == () else value


def _optional(proto: Any) -> Value:
    if proto.elem_type == OptionalProto.UNDEFINED:
        return None
    fields = {
        OptionalProto.TENSOR: (proto.tensor_value, array),
        OptionalProto.SEQUENCE: (proto.sequence_value, _sequence),
        OptionalProto.MAP: (proto.map_value, _map),
    }
    inside, reader = fields[proto.elem_type]
    return reader(inside)


_READERS: Mapping[str, Callable[[Any], Value]] = {
    "tensor": array,
    "sequence": _sequence,
    "map": _map,
    "optional": _optional,
}


def encoded(content: Value, name: str, kind: str = "tensor") -> bytes:
    """The bytes of a value's file; `value` is the inverse.

    Raises:
        TypeError: ONNX's format has no such value: an absent one outside an optional, or an empty map, which cannot
            say of which type its keys are.
    """
    proto = _optional_proto(content) if kind == "optional" else _proto(content)
    proto.name = name
    return bytes(proto.SerializeToString(deterministic=True))


def _proto(value: Any) -> Any:
    if isinstance(value, list):
        return _sequence_proto(value)
    if isinstance(value, dict):
        return _map_proto(value)
    if value is None:
        raise TypeError("an absent value has no file format of its own")
    return _tensor_proto(value)


def _tensor_proto(value: Any) -> Any:
    if isinstance(value, Packed):
        kind = getattr(TensorProto, value.dtype.upper())
        return helper.make_tensor("", kind, value.bits.shape, value.bits.tobytes(), raw=True)
    made = np.asarray(value)
    if made.dtype.kind in "OUST":
        texts = [item if isinstance(item, bytes) else item.encode("utf-8", "surrogatepass") for item in made.flat]
        return TensorProto(data_type=TensorProto.STRING, dims=made.shape, string_data=texts)
    return numpy_helper.from_array(np.ascontiguousarray(made).reshape(made.shape))


def _bare_numbers(values: list[Any]) -> list[Any]:
    """What maps hold, all of one type: ONNX's maps hold float32 unless that loses digits."""
    if all(isinstance(value, float) for value in values):
        narrow = all(float(np.float32(value)) == value or value != value for value in values)
        return [np.asarray(value, np.float32 if narrow else np.float64) for value in values]
    return [np.asarray(value, object) if isinstance(value, str) else value for value in values]


def _sequence_proto(items: list[Any]) -> Any:
    proto = SequenceProto(elem_type=SequenceProto.TENSOR)
    for item in items:
        made = _proto(item)
        if isinstance(made, SequenceProto):
            proto.elem_type = SequenceProto.SEQUENCE
            proto.sequence_values.append(made)
        elif isinstance(made, MapProto):
            proto.elem_type = SequenceProto.MAP
            proto.map_values.append(made)
        else:
            proto.tensor_values.append(made)
    return proto


def _map_proto(value: dict[Any, Any]) -> Any:
    if not value:
        raise TypeError("an empty map has no type of keys")
    texts = all(isinstance(key, str) for key in value)
    proto = MapProto(key_type=TensorProto.STRING if texts else TensorProto.INT64)
    if texts:
        proto.string_keys.extend(key.encode() for key in value)
    else:
        proto.keys.extend(int(key) for key in value)
    proto.values.CopyFrom(_sequence_proto(_bare_numbers(list(value.values()))))
    return proto


def _optional_proto(value: Value) -> Any:
    if value is None:
        return OptionalProto(elem_type=OptionalProto.UNDEFINED)
    inside = _proto(value)
    if isinstance(inside, SequenceProto):
        return OptionalProto(elem_type=OptionalProto.SEQUENCE, sequence_value=inside)
    if isinstance(inside, MapProto):
        return OptionalProto(elem_type=OptionalProto.MAP, map_value=inside)
    return OptionalProto(elem_type=OptionalProto.TENSOR, tensor_value=inside)
