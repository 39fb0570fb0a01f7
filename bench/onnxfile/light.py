"""A model whose weights lie in a file of their own: nobody holds them in memory, and its parts share the file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto

from bench.onnxfile.file import OnnxFile, carry

# Weights below this size stay inside: they may decide shapes.
_SMALL_BYTES = 1 << 10
# Runtimes map the file into memory. Source: onnx.proto, offsets "should be multiples of the page size".
_PAGE = 4096


def light(file: OnnxFile, folder: Path) -> OnnxFile:
    """The same model to be cut, its weights in a file below `folder`; what lay outside already is linked there."""
    folder.mkdir(parents=True, exist_ok=True)
    carry(file, file.files[1:], folder)
    name = f"{file.sha256[:16]}.weights"
    whole = file.proto
    proto = onnx.ModelProto(ir_version=whole.ir_version, producer_name=whole.producer_name)
    proto.opset_import.extend(whole.opset_import)
    proto.functions.extend(whole.functions)
    graph = proto.graph
    graph.name = whole.graph.name
    graph.node.extend(whole.graph.node)
    for field in ("input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(whole.graph, field))
    with (folder / name).open("wb") as weights:
        for tensor in whole.graph.initializer:
            if len(tensor.raw_data) > _SMALL_BYTES:
                graph.initializer.append(_outside(tensor, name, weights))
            else:
                graph.initializer.append(tensor)
    return OnnxFile(folder, (*file.files, name), file.sha256, file.opset, proto)


def _outside(tensor: Any, name: str, weights: Any) -> Any:
    """The tensor, its values written to the end of a file."""
    weights.seek(-(-weights.tell() // _PAGE) * _PAGE)
    found = TensorProto(
        name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL
    )
    facts = {"location": name, "offset": weights.tell(), "length": len(tensor.raw_data)}
    for key, value in facts.items():
        found.external_data.add(key=key, value=str(value))
    weights.write(tensor.raw_data)
    return found
