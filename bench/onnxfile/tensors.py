"""Single tensors in ONNX's format: the data sets that come beside a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import TensorProto, numpy_helper

from bench.errors import UsageError
from bench.interface import Array, Packed
from bench.onnxfile.file import dtype_name


def tensor(path: Path) -> tuple[str, Array | Packed]:
    """The name and the values of a TensorProto file.

    Raises:
        UsageError: it is not one.
    """
    proto = TensorProto()
    try:
        proto.ParseFromString(path.read_bytes())
        return proto.name, array(proto)
    except (DecodeError, OSError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is not a tensor in ONNX's format: {error}") from error


def array(proto: Any) -> Array | Packed:
    """The values of a TensorProto.

    Raises:
        ValueError: they are elsewhere, or do not fit its shape.
    """
    if proto.data_location == TensorProto.EXTERNAL:
        raise ValueError("its values are in another file")
    if proto.data_type == TensorProto.STRING:
        flat = np.empty(len(proto.string_data), dtype=object)
        flat[:] = [text.decode("utf-8", "surrogatepass") for text in proto.string_data]
        return flat.reshape(tuple(proto.dims))
    array = numpy_helper.to_array(proto)
    if array.dtype.isbuiltin == 1:
        return array
    bits = np.asarray(array).view(f"u{array.dtype.itemsize}")  # a type that numpy lacks
    return Packed(dtype_name(proto.data_type), bits)
