"""A loaded MNN interpreter.

Inputs and outputs pass through host tensors in NCHW, made once: the session's own may lie in MNN's
channel-packed layout. Every return code is checked: a failed resize says True and shows only in the session's status.
"""

from __future__ import annotations

import platform
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.mnn.convert import matches
from bench.errors import LoadError, RunError, UnsupportedModel
from bench.interface import Array, Artifact, Feeds, Options, Outputs, Placement, Session, ValueSpec

_MODES = {"model": "high", "fp16": "low"}
"""MNN's words: high computes in float32, low in float16 where the CPU has it; what it does not know is ignored."""
_HOST_DTYPES = {"float32": "float32", "int32": "int32", "int64": "int32", "bool": "int32", "uint8": "uint8"}
_WINOGRAD = 3
"""Key of setSessionHint: WINOGRAD_MEMORY_LEVEL. A 3x3 convolution of 64 channels is off by 1.3e-3 of its scale at MNN's
own level 3, and by 9e-7 at level 0. Source: MNN 3.6.1, measured on x86-64, November 2026."""
_STATUS, _THREADS = 3, 4
"""Keys of getSessionInfo. Source: `Interpreter::SessionInfoCode` in MNN 3.6.1."""


def precisions() -> tuple[str, ...]:
    """What MNN can be asked for here. Without float16 arithmetic low and high are the same, bit for bit."""
    return ("model", "fp16") if _has_fp16() else ("model",)


def _has_fp16() -> bool:
    try:
        return platform.machine() == "aarch64" and "asimdhp" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


@dataclass(frozen=True, slots=True)
class _Port:
    """One input or output: what ONNX says, the session's tensor, the host's, and the view into the host's memory."""

    spec: ValueSpec
    name: str
    dtype: str
    tensor: Any
    host: Any
    view: Array
    fits: bool
    fixed: bool
    """The model states the whole shape, so it is checked once."""


class MnnSession(Session):
    """One session of one interpreter, with its tensors by ONNX name."""

    def __init__(self, artifact: Artifact, options: Options, mnn: Any) -> None:
        self._mnn = mnn
        self._precision = options.precision
        self._interpreter, self._session = _create(artifact, options, mnn)
        self._resize(artifact)
        self._check_status(options)
        self._inputs = tuple(self._port(spec, tensor) for spec, tensor in self._named_inputs(artifact))
        tensors = self._interpreter.getSessionOutputAll(self._session)
        for spec in artifact.signature.outputs:
            if spec.name not in tensors:
                raise LoadError(f"MNN knows no output {spec.name!r}; it has {', '.join(tensors)}")
        self._outputs = [self._port(spec, tensors[spec.name]) for spec in artifact.signature.outputs]

    def run(self, feeds: Feeds) -> Outputs:
        for port in self._inputs:
            feed = feeds[port.name]
            if port.dtype == "int64":
                _check_range(port.name, feed)
            port.view[...] = feed
            if not port.tensor.copyFrom(port.host):
                raise RunError(f"MNN refused input {port.name!r}")
        code = self._interpreter.runSession(self._session)
        if code != 0:
            raise RunError(f"MNN could not run the model (code {code})", "its log names the operator")
        outputs: Outputs = {}
        for index, port in enumerate(self._outputs):
            if not port.fixed and port.tensor.getShape() != port.view.shape:
                self._outputs[index] = port = self._port(port.spec, port.tensor)
            if not port.tensor.copyToHostTensor(port.host):
                raise RunError(f"MNN could not hand out output {port.name!r}")
            if not port.fits:
                raise RunError(f"MNN computed {port.view.shape} for {port.name!r}, the model says {port.spec.shape}")
            outputs[port.name] = port.view.astype(port.dtype)
        return outputs

    def placement(self) -> Placement:
        """The CPU, in the precision asked for, which `precisions` offers only where MNN has it."""
        return Placement(device="cpu", precision=self._precision)

    def close(self) -> None:
        self._inputs, self._outputs = (), []
        self._session = self._interpreter = None

    def _named_inputs(self, artifact: Artifact) -> list[tuple[ValueSpec, Any]]:
        """The inputs that MNN kept; one that no output depends on is gone, which `prepare` has seen."""
        tensors = self._interpreter.getSessionInputAll(self._session)
        kept = set(artifact.meta["inputs"])
        if set(tensors) != kept:
            raise LoadError(f"MNN has the inputs {', '.join(tensors)}; at conversion it had {', '.join(kept)}")
        return [(spec, tensors[spec.name]) for spec in artifact.signature.inputs if spec.name in kept]

    def _resize(self, artifact: Artifact) -> None:
        changed = False
        for spec, tensor in self._named_inputs(artifact):
            if tuple(tensor.getShape()) != spec.shape:
                self._interpreter.resizeTensor(tensor, spec.shape)
                changed = True
        if changed:
            self._interpreter.resizeSession(self._session)

    def _check_status(self, options: Options) -> None:
        status = _integer(self._interpreter.getSessionInfo(self._session, _STATUS))
        if status != 0:
            raise LoadError(f"MNN could not prepare the model for its input shapes (status {status})", "see its log")
        threads = _integer(self._interpreter.getSessionInfo(self._session, _THREADS))
        if threads not in (0, options.threads):  # 0: not told
            raise LoadError(f"asked MNN for {options.threads} threads, got {threads}", "it never takes more than cores")

    def _port(self, spec: ValueSpec, tensor: Any) -> _Port:
        dtype = _HOST_DTYPES[spec.dtype]
        kinds = {"float32": "Halide_Type_Float", "int32": "Halide_Type_Int", "uint8": "Halide_Type_Uint8"}
        kind = getattr(self._mnn, kinds[dtype])
        if tensor.getDataType() != kind:
            raise UnsupportedModel(f"MNN keeps {spec.name!r} in another type than {dtype}; the model says {spec.dtype}")
        empty = np.zeros(tensor.getShape(), dtype)
        host = self._mnn.Tensor(empty.shape, kind, empty, self._mnn.Tensor_DimensionType_Caffe)
        fits = matches(spec, empty.shape)
        fixed = fits and all(isinstance(size, int) for size in spec.shape or (None,))
        return _Port(spec, spec.name, spec.dtype, tensor, host, host.getNumpyData(), fits, fixed)


def _create(artifact: Artifact, options: Options, mnn: Any) -> tuple[Any, Any]:
    config = {
        "backend": "CPU",
        "numThread": options.threads,
        "precision": _MODES[options.precision],
        "memory": options.extra["memory"],
        "power": options.extra["power"],
    }
    try:
        interpreter = mnn.Interpreter(str(artifact.path))
        interpreter.setSessionHint(_WINOGRAD, int(str(options.extra["winograd"])))
        session = interpreter.createSession(config)
    except Exception as error:  # MNN raises the bare class
        raise LoadError(f"MNN could not load {artifact.files[0]}: {error}") from error
    if session is None:
        raise LoadError(f"MNN made no session of {artifact.files[0]}")
    return interpreter, session


def _check_range(name: str, array: Array) -> None:
    """MNN keeps 64-bit integers in 32 bits; beyond them it would wrap without a word."""
    if array.size and (array.min() < -(2**31) or array.max() >= 2**31):
        raise RunError(f"input {name!r} holds {array.min()} to {array.max()}; MNN takes 32-bit integers")


def _integer(value: float) -> int:
    """An integer that getSessionInfo hands out as the bits of a float; as a float, should that be mended."""
    return int(value) if value >= 1 else int(struct.unpack("i", struct.pack("f", value))[0])
