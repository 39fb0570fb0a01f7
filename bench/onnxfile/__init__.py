"""Reads, binds and cuts ONNX files: with `bench.plausible`, all that knows protobuf. It runs on the host."""

from bench.onnxfile.binding import bind, bindings, describe
from bench.onnxfile.cut import cut
from bench.onnxfile.file import Dims, OnnxFile, dtype_name, graphs, infer_outputs, read, signature
from bench.onnxfile.graph import Node, nodes, types, weights
from bench.onnxfile.light import light
from bench.onnxfile.tensors import tensor
from bench.onnxfile.values import encoded, value

__all__ = [
    "Dims",
    "Node",
    "OnnxFile",
    "bind",
    "bindings",
    "cut",
    "describe",
    "dtype_name",
    "encoded",
    "graphs",
    "infer_outputs",
    "light",
    "nodes",
    "read",
    "signature",
    "tensor",
    "types",
    "value",
    "weights",
]
