"""ONNX Runtime: its CPU execution provider, and what every provider of the same library shares.

`Ort` holds the session options, the errors and the values; a provider adds its name and its own options (`cuda`).
Source: onnxruntime 1.31.1 (its Python API, measured on x86-64, November 2026).
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.errors import BackendUnavailable, BenchError, LoadError, RunError, UnsupportedModel, UsageError
from bench.interface import (
    Artifact,
    Backend,
    Feeds,
    Option,
    Options,
    OptionValue,
    Outputs,
    Packed,
    Placement,
    Probe,
    Session,
    Signature,
    Target,
    Value,
)

# What each exception of onnxruntime.capi.onnxruntime_pybind11_state means; None: the error of the phase it came in.
MEANING: Mapping[str, type[BenchError] | None] = {
    "DeviceReset": None,
    "EPFail": None,
    "EngineError": None,
    "Fail": None,
    "InvalidArgument": None,
    "InvalidGraph": None,
    "InvalidProtobuf": None,
    "ModelLoadCanceled": None,
    "ModelLoaded": None,
    "ModelRequiresCompilation": UnsupportedModel,
    "NoModel": None,
    "NoSuchFile": None,
    "NotFound": None,
    "NotImplemented": UnsupportedModel,
    "RuntimeException": None,
}
# The kinds above are coarse: an unknown operator arrives as Fail or InvalidGraph, told only by its text.
_UNSUPPORTED = re.compile(
    r"not a registered function/op|No Op registered for|Could not find an implementation|"
    r"only \*guarantees\* support for models|Unsupported model IR version|No opset import for domain"
)
# What a user can do something about, by its text: the kind that it is in truth (None: as found), and the hint.
_OUT_OF_MEMORY = "use a smaller batch, or a device whose memory nobody else uses"
_HINTS: tuple[tuple[str, type[BenchError] | None, str], ...] = (
    ("not a registered function", None, "give the library that holds the operator as option custom_ops"),
    ("out of memory", None, _OUT_OF_MEMORY),
    ("Failed to allocate memory", None, _OUT_OF_MEMORY),
    ("cuDNN is not available", BackendUnavailable, 'pip install "onnxruntime-gpu[cuda,cudnn]"'),
    ("explicitly disabled by the user", None, "option cpu_nodes=shapes allows nodes that compute shapes on the CPU"),
)
_PREFIX = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ")
# Types that numpy lacks, by ORT's name, and the integers that hold their bits.
_PACKED: Mapping[str, Any] = {
    "tensor(bfloat16)": np.uint16,
    "tensor(float8e4m3fn)": np.uint8,
    "tensor(float8e4m3fnuz)": np.uint8,
    "tensor(float8e5m2)": np.uint8,
    "tensor(float8e5m2fnuz)": np.uint8,
}
_SUB_BYTE = re.compile(r"tensor\((u?int[24]|float4\w*|float8e8m0)\)")
_LEVELS = {
    "all": "ORT_ENABLE_ALL",
    "extended": "ORT_ENABLE_EXTENDED",
    "basic": "ORT_ENABLE_BASIC",
    "off": "ORT_DISABLE_ALL",
}


def kinds() -> tuple[type[Exception], ...]:
    """The exceptions to catch: ORT's own, and the built-in ones that its Python layer raises."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    own = [getattr(state, name) for name in MEANING if hasattr(state, name)]
    return (*own, RuntimeError, ValueError, TypeError)


def translate(error: Exception, phase: type[BenchError], what: str, root: Path | None = None) -> BenchError:
    """The one place where ORT's exceptions become ours. `what` was tried in `phase`; the path `root` is cut out."""
    text = _PREFIX.sub("", str(error)).replace(f"{root}/", "").strip()
    kind = MEANING.get(type(error).__name__) or phase
    if _UNSUPPORTED.search(text):
        kind = UnsupportedModel
    for part, instead, hint in _HINTS:
        if part in text:
            return (instead or kind)(f"onnxruntime could not {what}: {text[:2000]}", hint)
    return kind(f"onnxruntime could not {what}: {text[:2000]}")


class OrtSession(Session):
    """An InferenceSession whose providers were checked."""

    def __init__(self, session: Any, signature: Signature, device: str) -> None:
        self._session = session
        self._device = device
        self._kinds = kinds()
        self._names = [spec.name for spec in signature.outputs]
        self._input_names = [spec.name for spec in signature.inputs]
        types = {value.name: value.type for value in session.get_outputs()}
        missing = [name for name in self._names if name not in types]
        if missing:
            raise LoadError(f"onnxruntime knows no output {', '.join(missing)}; it has {', '.join(types)}")
        self._types = [types[name] for name in self._names]
        self._refuse_types()
        self._has_packed = any(kind in _PACKED for kind in self._types)

    def run(self, feeds: Feeds) -> Outputs:
        feed = feeds if type(feeds) is dict else dict(feeds)
        try:
            if self._has_packed:
                return self._run_packed(feed)
            return dict(zip(self._names, self._session.run(self._names, feed), strict=True))
        except self._kinds as error:
            raise translate(error, RunError, "run the model") from error

    def placement(self) -> Placement:
        nodes: dict[str, int] = {}
        for part in self._session.get_provider_graph_assignment_info() if self._told() else ():
            nodes[part.ep_name] = nodes.get(part.ep_name, 0) + len(part.get_nodes())
        return Placement(device=self._device, precision="model", nodes=nodes or None)

    def close(self) -> None:
        self._session = None

    def _told(self) -> bool:
        return hasattr(self._session, "get_provider_graph_assignment_info")

    def _refuse_types(self) -> None:
        """Refuse what numpy cannot carry in or out."""
        for value in self._session.get_inputs():
            if value.type in _PACKED or _SUB_BYTE.fullmatch(value.type):
                raise UnsupportedModel(f"input {value.name!r} is a {value.type}, which cannot be fed from numpy")
        for name, kind in zip(self._names, self._types, strict=True):
            if _SUB_BYTE.fullmatch(kind):
                raise UnsupportedModel(f"output {name!r} is a {kind}, which onnxruntime's Python API cannot read")
            if any(k in _PACKED for k in self._types) and not kind.startswith("tensor"):
                raise UnsupportedModel(f"output {name!r} is a {kind} beside outputs of types that numpy lacks")

    def _run_packed(self, feeds: dict[str, Any]) -> Outputs:
        """As `run`, where an output's type is unknown to numpy: read the bits where the runtime keeps them."""
        binding = self._session.io_binding()
        for name in self._input_names:
            binding.bind_cpu_input(name, feeds[name])
        for name in self._names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding)
        values = binding.get_outputs()
        return {
            name: read_bits(value, kind) for name, kind, value in zip(self._names, self._types, values, strict=True)
        }


def read_bits(value: Any, kind: str) -> Value:
    if kind not in _PACKED:
        return np.array(value.numpy())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    bits = np.frombuffer(raw, dtype=_PACKED[kind]).reshape(value.shape()).copy()
    return Packed(kind[len("tensor(") : -1], bits)


class Ort(Backend):
    """What all providers share; a provider names itself and says on which device it runs."""

    options: ClassVar[tuple[Option, ...]] = (
        Option("optimization", "graph optimisations", "all", choices=tuple(_LEVELS)),
        Option("execution", "run independent branches one after another or at once", "sequential",
               choices=("sequential", "parallel")),
        Option("inter_op", "threads over branches, with execution=parallel", 1, kind="int"),
        Option("spinning", "threads spin between operators and runs: faster, and busy while idle", True, kind="bool"),
        Option("arena", "keep freed memory for the next run", True, kind="bool"),
        Option("custom_ops", "a library of custom operators", None, kind="file"),
    )  # fmt: skip
    alone = "backends.ort_alone"
    provider: ClassVar[str]
    device: ClassVar[str]
    wheel: ClassVar[str]
    precisions: ClassVar[tuple[str, ...]] = ("model",)

    def probe(self) -> Probe:
        try:
            import onnxruntime as ort
        except ImportError as error:
            return Probe(False, reason=f"onnxruntime cannot be imported: {error}", remedy=self.install)
        version = str(ort.__version__)
        if self.provider not in ort.get_available_providers():
            return Probe(False, version, reason=f"this onnxruntime has no {self.provider}", remedy=self.install)
        return self.usable(
            ort, Probe(True, version, (self.device,), self.precisions, runtimes={distribution(ort): version})
        )

    def usable(self, ort: Any, found: Probe) -> Probe:
        """What the provider adds to a probe, or why it cannot be used though it was compiled in."""
        return found

    def load(self, artifact: Artifact, options: Options) -> Session:
        if options.precision not in self.precisions:
            known = ", ".join(self.precisions)
            raise UsageError(f"{self.name} has no precision {options.precision!r}; it knows {known}")
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise BackendUnavailable(f"onnxruntime cannot be imported: {error}", self.install) from error
        try:
            session = ort.InferenceSession(
                str(artifact.path),
                self.session_options(ort, options),
                providers=[self.provider],
                provider_options=[self.provider_options(options)],
                # Its Python layer would otherwise answer a failing provider by a session on another one: when it is
                # made, and (below) when it runs.
                enable_fallback=0,
            )
        except kinds() as error:
            raise translate(error, LoadError, f"load {artifact.files[0]}", artifact.root) from error
        session.disable_fallback()
        self._check_providers(session.get_providers())
        return self.session(session, artifact, options)

    def session_options(self, ort: Any, options: Options) -> Any:
        """How the session is made."""
        return _session_options(ort, options)

    def session(self, session: Any, artifact: Artifact, options: Options) -> Session:
        """Ours, around ORT's."""
        return OrtSession(session, artifact.signature, self.device)

    def provider_options(self, options: Options) -> dict[str, str]:
        """The options of this provider, as strings, the way ORT takes them."""
        return {}

    def runtime_wheels(self, target: Target) -> tuple[str, ...]:
        # The last release with wheels for Python 3.10 is 1.23.2. Its other dependencies are not needed to run.
        return (f"{self.wheel}==1.23.2" if target.python == "cp310" else f"{self.wheel}==1.31.1",)

    def _check_providers(self, got: list[str]) -> None:
        # CPU always stands last, as the place for what another provider cannot take; first, it is a fallback.
        if not got or got[0] != self.provider or set(got) - {self.provider, "CPUExecutionProvider"}:
            raise LoadError(f"asked onnxruntime for {self.provider}, got {', '.join(got) or 'none'}")


class OrtCpu(Ort):
    """ONNX Runtime on the CPU."""

    name = "ort-cpu"
    distributions = ("onnxruntime",)
    install = 'pip install "deploybench[cpu]"'
    provider = "CPUExecutionProvider"
    device = "cpu"
    wheel = "onnxruntime"
    dynamic = True
    reference: ClassVar[Mapping[str, OptionValue] | None] = {"optimization": "off"}


def _session_options(ort: Any, options: Options) -> Any:
    extra = options.extra
    made = ort.SessionOptions()
    made.intra_op_num_threads = options.threads
    made.inter_op_num_threads = extra["inter_op"]
    parallel = extra["execution"] == "parallel"
    made.execution_mode = ort.ExecutionMode.ORT_PARALLEL if parallel else ort.ExecutionMode.ORT_SEQUENTIAL
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[str(extra["optimization"])])
    made.enable_cpu_mem_arena = bool(extra["arena"])
    made.log_severity_level = 3  # errors; a warning per node would fill the log
    spinning = "1" if extra["spinning"] else "0"
    made.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    made.add_session_config_entry("session.inter_op.allow_spinning", spinning)
    # Unknown keys are ignored by releases that cannot tell.
    made.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if extra["custom_ops"]:
        made.register_custom_ops_library(str(extra["custom_ops"]))
    return made


def distribution(ort: Any) -> str:
    """Which of the distributions that own the package `onnxruntime` this one is of.

    By what lies beside it: every process that measures would wait 15 ms for `importlib.metadata` to be imported.
    """
    installed = Path(ort.__file__).parents[1]
    return "onnxruntime-gpu" if any(installed.glob("onnxruntime_gpu-*.dist-info")) else "onnxruntime"
