"""A loaded ncnn network.

A new extractor for every run: a used one returns its first result for ever. Every return code is checked, because
extracting after a failed input reads memory that is not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from backends.ncnn.param import read, unknown
from bench.errors import LoadError, RunError, UnsupportedModel
from bench.interface import Array, Artifact, Feeds, Options, Outputs, Placement, Session

PRECISIONS = ("model", "fp16", "bf16")
_NO_BATCH = 233
"""ncnn's own word for "no dimension is the batch"."""
_FLOAT32 = np.dtype(np.float32)  # made once: comparing with the type makes one each time


class NcnnSession(Session):
    """One network with its inputs and outputs by ONNX name."""

    def __init__(self, artifact: Artifact, options: Options, ncnn: Any, net: Any) -> None:
        """`net`: new, and set to where it shall compute."""
        self._mat = ncnn.Mat
        self._precision = options.precision
        self._net = net
        _load(net, artifact, options, ncnn)
        shapes = {spec.name: spec.shape for spec in artifact.signature.outputs}
        self._inputs = tuple((i["name"], i["blob"], i["batch_index"], i["rows"]) for i in artifact.meta["inputs"])
        self._outputs = tuple(
            (o["name"], o["blob"], o["batch_index"], shapes[o["name"]]) for o in artifact.meta["outputs"]
        )

    def run(self, feeds: Feeds) -> Outputs:
        extractor = self._net.create_extractor()
        try:
            return self._extract(extractor, feeds)
        except BaseException:
            extractor.clear()  # the error keeps it alive, perhaps for longer than the network that it works for
            raise

    def _extract(self, extractor: Any, feeds: Feeds) -> Outputs:
        for name, blob, axis, rows in self._inputs:
            array = feeds[name] if rows is None else _indices(name, feeds[name], rows)
            # 0-d arrays make no Mat. Without a batch a Mat is a view of the feed, on which layers work in place.
            mat = self._mat(array if array.ndim else array.reshape(1), batch_index=axis)
            rc = extractor.input(blob, mat.clone() if axis == _NO_BATCH else mat)
            if rc != 0:
                raise RunError(f"ncnn refused input {name!r} (code {rc})")
        outputs: Outputs = {}
        for name, blob, axis, shape in self._outputs:
            rc, mat = extractor.extract(blob)
            if rc != 0:
                raise RunError(f"ncnn could not compute output {name!r} (code {rc})", "its log names the layer")
            view = mat.numpy(batch_index=axis)
            # With a batch axis ncnn has copied already.
            array = view if view.flags.owndata else np.array(view, order="C")
            outputs[name] = array if array.shape == shape and array.dtype == _FLOAT32 else _fit(name, array, shape)
        return outputs

    def placement(self) -> Placement:
        """The CPU, in the precision asked for: ncnn does not tell which layers really used it."""
        return Placement(device="cpu", precision=self._precision)

    def close(self) -> None:
        if self._net is not None:
            self._net.clear()
            self._net = None


def _load(net: Any, artifact: Artifact, options: Options, ncnn: Any) -> None:
    net.opt.num_threads = options.threads
    fp16 = options.precision == "fp16"
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = fp16
    net.opt.use_bf16_storage = options.precision == "bf16"
    net.opt.use_winograd_convolution = options.extra["winograd"]
    net.opt.use_sgemm_convolution = options.extra["sgemm"]
    net.opt.use_packing_layout = options.extra["packing_layout"]
    net.opt.lightmode = options.extra["light_mode"]
    net.opt.openmp_blocktime = options.extra["openmp_blocktime"]
    param, weights = (artifact.root / name for name in artifact.files)
    if net.load_param(str(param)) != 0:
        _refuse(param, ncnn)
    if net.load_model(str(weights)) != 0:
        raise LoadError(f"ncnn could not read the weights in {weights.name}", "its log names the layer")


def _refuse(param: Path, ncnn: Any) -> None:
    """Say why a .param file did not load."""
    try:
        missing = unknown(read(param), ncnn)
    except (OSError, ValueError) as error:
        raise LoadError(f"ncnn could not read {param.name}: {error}") from error
    if missing:
        raise UnsupportedModel(f"this ncnn has no layer {', '.join(sorted({layer.kind for layer in missing}))}")
    raise LoadError(f"ncnn could not read {param.name}", "its log names the layer")


def _indices(name: str, array: Array, rows: int) -> Array:
    """Indices as ncnn takes them; beyond its embedding ncnn would take the nearest row without a word."""
    if array.size and (array.min() < 0 or array.max() >= rows):
        raise RunError(f"input {name!r} holds {array.min()} to {array.max()}; ncnn takes indices from 0 to {rows - 1}")
    return array.astype(np.int32)


def _fit(name: str, array: Array, shape: tuple[int | None, ...] | None) -> Array:
    """The array, where its shape is one that the model allows; the slow path of `run`."""
    if array.dtype != _FLOAT32:
        raise RunError(f"ncnn returned {array.dtype} for output {name!r}, the model says float32")
    if shape == () and array.shape == (1,):
        return array.reshape(())  # ncnn has no scalars
    if shape is None:
        return array
    if len(shape) != array.ndim or any(size not in (None, got) for size, got in zip(shape, array.shape, strict=True)):
        raise RunError(f"ncnn returned {array.shape} for output {name!r}, the model says {shape}")
    return array
