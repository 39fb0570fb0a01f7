"""The host's side of a conversion: run `converter.py`, read what it said, and believe only what it proved."""

from __future__ import annotations

import json
import mmap
import re
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

from bench.errors import Crashed, PrepareError, UnsupportedModel
from bench.interface import Artifact, Model, Signature, Tools, ValueSpec

OUTPUT = "model.mnn"
# The types that MNN's tensors hold exactly, as the session feeds them: the others become float32 or lose their sign.
DTYPES = ("float32", "int32", "int64", "uint8", "bool")
_CONVERTED = "Converted Success!"
_UUID = re.compile(rb"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_OPERATORS = re.compile(r"These Op Not Support: (.+)")


def convert(model: Model, workdir: Path, tools: Tools) -> Artifact:
    """The model as `model.mnn` below `workdir`; it has run once, on ones."""
    _refuse_types(model)
    shapes = {spec.name: spec.shape for spec in model.signature.inputs}
    report = workdir / "report.json"
    program = Path(__file__).with_name("converter.py")
    argv = [sys.executable, "-I", str(program), str(model.path), str(workdir / OUTPUT), str(report), json.dumps(shapes)]
    try:
        finished = tools.run(argv, cwd=workdir)
    except Crashed as error:
        what = (
            f"MNN converted {model.name} and, running it, died"
            if _CONVERTED in error.output
            else "MNN's converter died"
        )
        raise Crashed(f"{what} of {error.signal}", error.hint, error.signal) from error
    log = finished.output.replace(f"{workdir}/", "").replace(f"{model.root}/", "")
    if finished.code or not report.is_file():
        raise _failure(model, finished.code, log)
    proven = json.loads(report.read_text(encoding="utf-8"))
    report.unlink()
    if problem := proven["problem"]:
        raise UnsupportedModel(
            f"MNN converted {model.name} and cannot run it ({problem}):\n{log[-2000:]}", _why_not(log)
        )
    _check_outputs(model.signature, proven["outputs"])
    _name(workdir / OUTPUT, model)
    return Artifact(workdir, (OUTPUT,), model.signature, {"inputs": proven["inputs"]})


def _name(path: Path, model: Model) -> None:
    """Replace the random name that MNN gives a file, and nothing that computes reads, by one of the model's content."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        if found := _UUID.search(data):
            data[found.start() : found.end()] = str(UUID(model.sha256[:32])).encode()


def _refuse_types(model: Model) -> None:
    signature = model.signature
    for what, specs in (("input", signature.inputs), ("output", signature.outputs)):
        for spec in specs:
            if spec.kind != "tensor" or spec.dtype not in DTYPES:
                known = ", ".join(DTYPES)
                found = f"{spec.dtype or spec.kind}{_maker(model, spec.name)}"
                raise UnsupportedModel(f"MNN takes {known}; {what} {spec.name!r} is {found}")


def _maker(model: Model, output: str) -> str:
    """The operator that makes an output, in words."""
    import onnx

    graph = onnx.load(str(model.path), load_external_data=False).graph
    return next((f", made by {node.op_type}" for node in graph.node if output in node.output), "")


def _failure(model: Model, code: int, log: str) -> PrepareError | UnsupportedModel:
    found = _OPERATORS.search(log)
    if found:
        return UnsupportedModel(f"MNN's converter has no {', '.join(found[1].split())}")
    if code == 3:
        return PrepareError(f"MNN's converter made nothing of {model.name}:\n{log[-2000:]}")
    return PrepareError(f"converting {model.name} for MNN failed (exit code {code}):\n{log[-2000:]}")


def _why_not(log: str) -> str:
    """Why a converted model may not run here, by the converter's own words."""
    if "has subgraphs" in log:
        return "its loops and branches need MNN's Module, which cannot be timed fairly"
    if "shape compute need input content" in log:
        return "the shape of a result depends on what an input holds (axes, sizes): make that input a constant"
    return ""


def _check_outputs(signature: Signature, got: dict[str, Any]) -> None:
    for spec in signature.outputs:
        if spec.name not in got:
            raise PrepareError(f"MNN's converter lost output {spec.name!r}; it kept {', '.join(got)}")
        if not matches(spec, tuple(got[spec.name])):
            raise UnsupportedModel(f"MNN computes {got[spec.name]} for {spec.name!r}, the model says {spec.shape}")


def matches(spec: ValueSpec, shape: tuple[int, ...]) -> bool:
    """Whether an output may have that shape."""
    if spec.shape is None:
        return True
    return len(spec.shape) == len(shape) and all(
        size in (None, got) for size, got in zip(spec.shape, shape, strict=True)
    )
