"""ONNX to ncnn through pnnx, believing nothing that pnnx does not prove.

pnnx ends with code 0 although operators were left unconverted, weights could not be read or an output was lost.
So its log, its .param file and its own shapes are compared with the model before anything is handed on.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.ncnn.param import Layer, consumers, read, unknown
from bench.errors import Crashed, PrepareError, UnsupportedModel
from bench.interface import Artifact, Model, Signature, Tools, ValueSpec

PARAM, BIN = "model.ncnn.param", "model.ncnn.bin"
_INTEGERS = ("int32", "int64")
# What pnnx says about an operator that it passed through untranslated.
_LEFT = re.compile(r"^(?:todo|ignore|unexpected op_type|no such function with name) (\S+)", re.MULTILINE)
_MESSAGES = re.compile(r"^.*(?:not supported|unsupported|fallback to|assume ).*$", re.MULTILINE)
_INSIDE = re.compile(r"^ort (?:CreateSession|Run) failed (.+)$", re.MULTILINE)
WORDS_LENGTH = 500
_MAT = re.compile(r'"(in\d+)", ncnn\.Mat\(\w+\.numpy\(\), batch_index=(\d+)\)')
_NUMPY = re.compile(r"(out\d+)\.numpy\(batch_index=(\d+)\)")
_SHAPE = re.compile(r"^#[^=]*=\(([\d,?]*)\)")


@dataclass(frozen=True, slots=True)
class Node:
    """An operator of the ONNX graph."""

    kind: str
    domain: str
    name: str


def convert(model: Model, workdir: Path, tools: Tools) -> Artifact:
    """The model as .param and .bin below `workdir`, with the mapping of blobs to ONNX names in `meta`."""
    _refuse_types(model)
    nodes = _write_plain(model, workdir / "model.onnx")
    log = _run(model, nodes, workdir, tools)
    layers = _layers(workdir / PARAM)
    _refuse_unknown(layers, log, nodes)
    _check_shapes(workdir / "model.pnnx.param", model.signature)
    meta = {
        "inputs": _inputs(model.signature, layers, (workdir / "model_ncnn.py").read_text(encoding="utf-8")),
        "outputs": _outputs(model.signature, layers, (workdir / "model_ncnn.py").read_text(encoding="utf-8")),
        "said": _MESSAGES.findall(log)[:20],
    }
    _try_load(workdir, layers, nodes)
    for path in workdir.iterdir():
        if path.is_file() and path.name not in (PARAM, BIN):
            path.unlink()
    return Artifact(workdir, (PARAM, BIN), model.signature, meta)


def _refuse_types(model: Model) -> None:
    signature = model.signature
    for spec in signature.inputs:
        if spec.kind != "tensor" or spec.dtype not in ("float32", *_INTEGERS):
            raise UnsupportedModel(f"ncnn computes in float32; input {spec.name!r} is {spec.dtype or spec.kind}")
        if spec.shape is not None and (len(spec.shape) > 4 or 0 in spec.shape):
            raise UnsupportedModel(f"ncnn holds 1 to 4 dimensions; input {spec.name!r} is {spec.shape}")
    for spec in signature.outputs:
        if spec.kind != "tensor" or spec.dtype != "float32":
            what = f"{spec.dtype or spec.kind}{_maker(model, spec.name)}"
            raise UnsupportedModel(f"ncnn computes in float32; output {spec.name!r} is {what}")


def _maker(model: Model, output: str) -> str:
    """The operator that makes an output, in words."""
    import onnx

    graph = onnx.load(str(model.path), load_external_data=False).graph
    return next((f", made by {node.op_type}" for node in graph.node if output in node.output), "")


def _write_plain(model: Model, path: Path) -> tuple[Node, ...]:
    """Write the model as pnnx can read it: one file, fixed inputs, and initializers that are not inputs as well.

    pnnx takes an initializer that is also an input for something to feed, cannot read external data (it says so and
    ends with code 0), and misreads a scalar among the shapes on its command line.
    """
    import onnx

    proto = onnx.load(str(model.path))
    shapes = {spec.name: spec.shape for spec in model.signature.inputs}
    inputs = [value for value in proto.graph.input if value.name in shapes]
    for value in inputs:
        dims = value.type.tensor_type.shape.dim
        del dims[:]
        for size in shapes[value.name] or ():
            dims.add().dim_value = size or 0
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    # From IR 4 on an initializer need not be an input, and the runtime inside pnnx refuses any above 13; names and
    # meaning are otherwise the same.
    proto.ir_version = min(max(proto.ir_version, 4), 13)
    try:
        onnx.save(proto, str(path))
    except ValueError as error:
        raise PrepareError(f"{model.name} does not fit into one file, which pnnx needs: {error}") from error
    local = {(function.domain, function.name) for function in proto.functions}
    return tuple(
        Node(node.op_type, node.domain, node.name or (node.output[0] if node.output else ""))
        for node in proto.graph.node
        if (node.domain, node.op_type) not in local
    )


def _run(model: Model, nodes: Sequence[Node], workdir: Path, tools: Tools) -> str:
    """What pnnx printed, after it wrote its files."""
    try:
        # fp16=1 is the default and would halve the weights, whatever precision was asked for.
        finished = tools.run([str(tools.path("pnnx")), "model.onnx", "fp16=0"], cwd=workdir)
    except Crashed as error:
        # It dies on operators that it does not know: where there are such, say so; else it stays a crash.
        _refuse_foreign(nodes, error)
        raise Crashed(error.message, _last_words(error.output), error.signal) from error
    log = re.sub(r"\x1b\[[\d;]*m", "", finished.output)
    if finished.code or not (workdir / PARAM).is_file() or not (workdir / BIN).is_file():
        _refuse_foreign(nodes, None)
        raise PrepareError(f"pnnx could not convert {model.name} (exit code {finished.code}):\n{log[-2000:]}")
    if "FATAL ERROR" in log:
        raise PrepareError(f"pnnx lost a part of {model.name}:\n{log[-2000:]}")
    return log


def _last_words(output: str) -> str:
    """What the ONNX Runtime inside pnnx, which tells it shapes and constants, could not do: pnnx dies of that."""
    found = _INSIDE.findall(output)
    words = found[-1].rpartition(") ")[2].removeprefix("Non-zero status code returned while ") if found else ""
    return f"the runtime inside pnnx had failed: {words[:WORDS_LENGTH]}" if words else ""


def _refuse_foreign(nodes: Sequence[Node], cause: Exception | None) -> None:
    """Name the operators of other domains, once the conversion has failed."""
    foreign = [node for node in nodes if node.domain not in ("", "ai.onnx")]
    if foreign:
        what = ", ".join(sorted({f"{node.domain}:{node.kind} (node {node.name!r})" for node in foreign})[:5])
        raise UnsupportedModel(f"pnnx knows only ONNX's own operators, not {what}") from cause


def _layers(path: Path) -> tuple[Layer, ...]:
    try:
        return read(path)
    except (ValueError, UnicodeDecodeError) as error:
        raise PrepareError(f"pnnx wrote an unreadable file: {error}") from error


def _refuse_unknown(layers: Sequence[Layer], log: str, nodes: Sequence[Node]) -> None:
    """Refuse operators left as they were, by pnnx's own words and because no ncnn layer has a dot in its name."""
    said = set(_LEFT.findall(log))
    left = [layer for layer in layers if layer.kind in said or "." in layer.kind]
    if left:
        raise UnsupportedModel(f"pnnx has no ncnn layer for {_named(left, nodes)}")


def _named(layers: Sequence[Layer], nodes: Sequence[Node]) -> str:
    """The kinds of some layers, each with the ONNX nodes of that kind (names are lost where pnnx renamed it)."""
    words = []
    for kind in sorted({layer.kind for layer in layers}):
        origin = [repr(node.name) for node in nodes if node.kind == kind]
        words.append(f"{kind} (ONNX node {', '.join(origin[:3])})" if origin else kind)
    return ", ".join(words)


def _check_shapes(path: Path, signature: Signature) -> None:
    """Compare inputs and outputs, in order, with the shapes that pnnx inferred for its own."""
    layers = _layers(path)
    for kind, specs in (("pnnx.Input", signature.inputs), ("pnnx.Output", signature.outputs)):
        found = [layer for layer in layers if layer.kind == kind]
        if len(found) != len(specs):
            raise UnsupportedModel(f"pnnx kept {len(found)} of {len(specs)} {kind[5:].lower()}s of the model")
        for spec, layer in zip(specs, found, strict=True):
            shape = next((_sizes(m[1]) for m in map(_SHAPE.match, layer.parameters) if m), None)
            if shape is not None and not _may_be(spec, shape):
                raise PrepareError(f"pnnx takes {spec.name!r} for {shape}, the model says {spec.shape}")


def _sizes(text: str) -> tuple[int | None, ...]:
    return tuple(int(size) if size.isdigit() else None for size in text.split(",") if size)


def _may_be(spec: ValueSpec, shape: tuple[int | None, ...]) -> bool:
    if spec.shape is None:
        return True
    pairs = zip(spec.shape, shape, strict=True)
    return len(spec.shape) == len(shape) and all(a is None or b is None or a == b for a, b in pairs)


def _inputs(signature: Signature, layers: Sequence[Layer], script: str) -> list[dict[str, Any]]:
    axes = {blob: int(axis) for blob, axis in _MAT.findall(script)}
    blobs = [layer.outputs[0] for layer in layers if layer.kind == "Input"]
    found = []
    for index, spec in enumerate(signature.inputs):
        blob = f"in{index}"
        if blob not in blobs or blob not in axes:
            raise UnsupportedModel(f"pnnx lost input {spec.name!r}")
        rows = _rows(spec, layers, blob) if spec.dtype in _INTEGERS else None
        found.append({"name": spec.name, "blob": blob, "batch_index": axes[blob], "rows": rows})
    return found


def _rows(spec: ValueSpec, layers: Sequence[Layer], blob: str) -> int:
    """How many rows the embedding has that an integer input indexes; every other layer reads integers as floats."""
    readers = list(consumers(layers, blob))
    other = sorted({layer.kind for layer in readers if layer.kind != "Embed"})
    sizes = [int(size) for layer in readers if (size := layer.parameter(1))]
    if other or not sizes:
        where = f"{spec.name!r} feeds {', '.join(other) or 'nothing'}"
        raise UnsupportedModel(f"ncnn takes integers only as indices of an embedding; {where}")
    return min(sizes)


def _outputs(signature: Signature, layers: Sequence[Layer], script: str) -> list[dict[str, Any]]:
    axes = {blob: int(axis) for blob, axis in _NUMPY.findall(script)}
    blobs = {blob for layer in layers for blob in layer.outputs}
    found = []
    for index, spec in enumerate(signature.outputs):
        blob = f"out{index}"
        if blob not in blobs or blob not in axes:
            raise UnsupportedModel(f"pnnx lost output {spec.name!r}")
        found.append({"name": spec.name, "blob": blob, "batch_index": axes[blob]})
    return found


def _try_load(workdir: Path, layers: Sequence[Layer], nodes: Sequence[Node]) -> None:
    """Load the result, where this host has ncnn; elsewhere the device will say it."""
    try:
        import ncnn
    except ImportError:
        return
    missing = unknown(layers, ncnn)
    if missing:
        raise UnsupportedModel(f"ncnn has no layer {_named(missing, nodes)}")
    net = ncnn.Net()
    if net.load_param(str(workdir / PARAM)) != 0:
        raise UnsupportedModel("ncnn refuses the layers that pnnx wrote; its log names the one")
    if net.load_model(str(workdir / BIN)) != 0:
        raise PrepareError("ncnn refuses the weights that pnnx wrote; its log names the layer")
    net.clear()
