"""`reference`: the evaluator that the onnx package itself carries. Slow, plain numpy, for tiny models.

It may judge other backends as a last resort. Where an old opset is concerned ONNX Runtime follows the specification
more closely (facts measured on the 1884 node cases), so it stands after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.errors import BackendUnavailable, BenchError, LoadError, RunError, UnsupportedModel, UsageError
from bench.interface import Artifact, Backend, Feeds, Options, Outputs, Packed, Placement, Probe, Session, Value


@contextmanager
def _mapped(what: str, otherwise: type[BenchError]) -> Iterator[None]:
    """The evaluator's exceptions as ours, in one place.

    It is plain Python without an exception type of its own, so anything may come out of an operator.
    """
    from onnx.reference.op_run import RuntimeContextError

    try:
        yield
    except BenchError:
        raise
    except (NotImplementedError, RuntimeContextError) as error:
        raise UnsupportedModel(f"onnx's evaluator cannot express {what}: {_brief(error)}", "try ort-cpu") from error
    except Exception as error:
        raise otherwise(
            f"onnx's evaluator failed on {what}: {type(error).__name__}: {_brief(error)}", "try ort-cpu"
        ) from error


def _brief(error: Exception) -> str:
    """Its first line, within reason: the evaluator adds a list of every operator, or the whole model."""
    return (str(error).splitlines() or [""])[0][:300]


def _lrn() -> Any:
    """LRN as the specification has it: the evaluator's own takes its windows along the batch.

    Source: ONNX's operator LRN-13; onnx 1.23.2, read and measured (it is off by 3e-3 of inception_v1's scale).
    """
    from onnx.reference.op_run import OpRun

    class LRN(OpRun):
        op_domain = ""

        def _run(self, x: Any, alpha: float, beta: float, bias: float, size: int) -> tuple[Any]:
            return (normalised(x, alpha, beta, bias, size),)

    return LRN


def normalised(x: Any, alpha: float, beta: float, bias: float, size: int) -> Any:
    """Each element over the power of a sum of squares, of so many channels around its own: `x` is [N, C, ...]."""
    squares, total, channels = x * x, np.zeros_like(x), x.shape[1]
    for shift in range(-((size - 1) // 2), size // 2 + 1):
        if abs(shift) < channels:
            here = slice(max(0, -shift), channels - max(0, shift))
            there = slice(max(0, shift), channels - max(0, -shift))
            total[:, here] += squares[:, there]
    return (x / (bias + alpha / size * total) ** beta).astype(x.dtype)


class ReferenceSession(Session):
    """A model in onnx's evaluator."""

    def __init__(self, evaluator: Any, name: str) -> None:
        self._evaluator = evaluator
        self._name = name

    def run(self, feeds: Feeds) -> Outputs:
        # Operators such as Identity hand the feed itself on, and some work in place: copies on both sides.
        with _mapped(f"a run of {self._name}", RunError), np.errstate(all="ignore"):
            values = self._evaluator.run(None, {name: value.copy() for name, value in feeds.items()})
            return {name: _owned(value) for name, value in zip(self._evaluator.output_names, values, strict=True)}

    def placement(self) -> Placement:
        return Placement("cpu", "model", {"onnx.reference": len(self._evaluator.rt_nodes_)})


def _owned(value: Any) -> Value:
    """A copy that shares nothing, as the interface words it. Maps do not occur: the evaluator has no ZipMap."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        return [_owned(item) for item in value]
    array = np.asarray(value)
    if array.dtype.kind in "UST":
        return array.astype(object)
    if array.dtype.isbuiltin != 2:  # ml_dtypes' types say 2; numpy's own say 1, or 0 where a byte order was spelt out
        return np.array(array, order="C")
    from onnx import TensorProto, helper

    tag = TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(array.dtype)).lower()
    return Packed(tag, np.array(array, order="C").view(f"u{array.dtype.itemsize}"))


class Reference(Backend):
    """onnx.reference.ReferenceEvaluator. Threads are numpy's affair and are ignored."""

    name = "reference"
    opt_in = True
    distributions = ("onnx",)
    install = "pip install onnx"
    concurrency = "processes"
    dynamic = True
    reference = {}  # noqa: RUF012 - declared as a read-only mapping
    local_only = True

    def probe(self) -> Probe:
        try:
            import onnx
        except ImportError as error:
            return Probe(False, reason=f"onnx does not import: {error}", remedy=self.install)
        return Probe(True, onnx.__version__, ("cpu",), runtimes={"onnx": onnx.__version__, "numpy": np.__version__})

    def load(self, artifact: Artifact, options: Options) -> Session:
        if options.precision != "model":
            raise UsageError(f"reference has no precision {options.precision!r}", "it computes what the file says")
        try:
            import onnx
            from onnx.reference import ReferenceEvaluator
        except ImportError as error:
            raise BackendUnavailable(f"onnx does not import: {error}", self.install) from error
        with _mapped(artifact.path.name, LoadError):
            # Loaded here, because the evaluator itself does not read external data.
            evaluator = ReferenceEvaluator(onnx.load(artifact.path), new_ops=[_lrn()])
        expected = [value.name for value in artifact.signature.outputs]
        if list(evaluator.output_names) != expected:
            # An empty file parses as an empty model.
            raise LoadError(f"{artifact.path.name} makes outputs {evaluator.output_names}, not {expected}")
        return ReferenceSession(evaluator, artifact.path.name)
