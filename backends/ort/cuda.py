"""ONNX Runtime on NVIDIA GPUs: its CUDA execution provider, with inputs and outputs that stay on the device.

It answers a provider that does not work with the CPU, in four silent ways. Each is closed here or in `runtime`: the
provider's library does not load (the session's providers are looked at), the session is made again on another provider
(`enable_fallback=0`), or while it runs (`disable_fallback`), and nodes are placed on the CPU one by one (`nodes`).
Source: onnxruntime-gpu 1.31.1, its options as the library knows them, November 2026.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from time import perf_counter_ns
from typing import Any, ClassVar

import numpy as np

from backends.ort.nodes import Node, counts, judge, read
from backends.ort.runtime import Ort, OrtSession, read_bits, translate
from bench import cuda_driver
from bench.errors import BackendUnavailable, LoadError, RunError, UsageError
from bench.interface import Artifact, Feeds, Option, Options, Outputs, Placement, Plan, Probe, Series, Session

CUDA = "CUDAExecutionProvider"
# What can be given through the option `provider`: the names that the library knows, less those that are options here,
# and those that hand over pointers.
PROVIDER_OPTIONS = frozenset({
    "arena_extend_strategy", "cudnn_conv1d_pad_to_nc1d", "do_copy_in_default_stream", "enable_cudnn",
    "enable_skip_layer_norm_strict_mode", "fuse_conv_bias", "gpu_mem_limit", "sdpa_kernel", "tunable_op_enable",
    "tunable_op_max_tuning_duration_ms", "tunable_op_tuning_enable", "use_ep_level_unified_stream",
})  # fmt: skip
# cuDNN and cuBLAS read this once, when they start; cuDNN was seen to ignore the provider's own switch.
# Source: onnxruntime pull request 19470.
TF32_SWITCH = "NVIDIA_TF32_OVERRIDE"
# Copies of the inputs are kept and used in turn until together they exceed the largest caches (H200: 60 MiB).
ROTATE_BYTES = 128 << 20
MOST_COPIES = 32
GRAPH_RUNS_BEFORE = 3


class OrtCuda(Ort):
    """ONNX Runtime on an NVIDIA GPU."""

    name = "ort-cuda"
    distributions = ("onnxruntime-gpu",)
    install = 'pip uninstall onnxruntime && pip install "deploybench[cuda]"'
    provider = CUDA
    device = "cuda:0"
    wheel = "onnxruntime-gpu"
    precisions = ("model", "tf32")
    dynamic = True
    alone = ""
    memory: ClassVar[str] = "cuda"
    """Where inputs and outputs are kept, in ORT's words."""
    options: ClassVar[tuple[Option, ...]] = (
        *Ort.options,
        Option("gpu", "which GPU, as CUDA numbers them", 0, kind="int"),
        Option("io", "bound: through buffers kept on the GPU; plain: as session.run does it", "bound",
               choices=("bound", "plain")),
        Option("cuda_graph", "record the kernels once and launch them together", False, kind="bool"),
        Option("cpu_nodes", "which nodes may run on the CPU", "shapes", choices=("none", "shapes", "any")),
        Option("conv_search", "how cuDNN's algorithms are chosen", "EXHAUSTIVE",
               choices=("EXHAUSTIVE", "HEURISTIC", "DEFAULT")),
        Option("conv_workspace", "as much memory for convolutions as the fastest takes", True, kind="bool"),
        Option("nhwc", "channels last", False, kind="bool"),
        Option("provider", "further provider options, NAME=VALUE,NAME=VALUE", ""),
    )  # fmt: skip

    def probe(self) -> Probe:
        try:
            driver = cuda_driver.ask()
        except cuda_driver.NoGpu as why:
            return Probe(False, reason=why.reason, remedy=why.remedy)
        found = super().probe()
        if not found.available:
            return found
        facts = {"cuda driver": driver.cuda, "gpu": driver.gpus[0].words}
        facts |= {"nvidia driver": driver.version} if driver.version else {}
        devices = tuple(f"cuda:{gpu.index}" for gpu in driver.gpus)
        return replace(found, devices=devices, runtimes={**found.runtimes, **facts})

    def usable(self, ort: Any, found: Probe) -> Probe:
        made_for = str(getattr(ort, "cuda_version", "") or "")
        try:
            too_old = made_for and not cuda_driver.ask().at_least(int(made_for.split(".")[0]))
        except (cuda_driver.NoGpu, ValueError):
            too_old = False
        if too_old:
            reason = f"NVIDIA's driver is too old for this onnxruntime, which is made for CUDA {made_for}"
            return Probe(False, found.version, reason=reason, remedy="update the driver, or install an older release")
        if problem := _lacking(ort, made_for):
            remedy = f'pip install "onnxruntime-gpu[cuda,cudnn]=={found.version}"'
            return Probe(False, found.version, reason=problem, remedy=remedy)
        return found

    def load(self, artifact: Artifact, options: Options) -> Session:
        if options.precision in self.precisions:
            _switch_tf32(on=options.precision == "tf32")
        _given(options)
        try:
            cuda_driver.ask()
        except cuda_driver.NoGpu as why:
            raise BackendUnavailable(why.reason, why.remedy) from why
        _preload()
        return super().load(artifact, options)

    def provider_options(self, options: Options) -> dict[str, str]:
        extra = options.extra
        return {
            "device_id": str(extra["gpu"]),
            "use_tf32": "1" if options.precision == "tf32" else "0",
            "cudnn_conv_algo_search": str(extra["conv_search"]),
            "cudnn_conv_use_max_workspace": "1" if extra["conv_workspace"] else "0",
            "prefer_nhwc": "1" if extra["nhwc"] else "0",
            "enable_cuda_graph": "1" if extra["cuda_graph"] else "0",
            **_given(options),
        }

    def session_options(self, ort: Any, options: Options) -> Any:
        import tempfile  # not at the top, nor shutil: the CPU's sessions would wait for them, too

        made = super().session_options(ort, options)
        if options.extra["cpu_nodes"] == "none":
            made.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        made.enable_profiling = True  # of the first run, to see where its nodes ran; then it is ended for good
        made.profile_file_prefix = str(Path(tempfile.mkdtemp(prefix="deploybench-"), "profile"))
        return made

    def session(self, session: Any, artifact: Artifact, options: Options) -> Session:
        return CudaSession(session, artifact, options, where=(self.provider, self.memory))

    def _check_providers(self, got: list[str]) -> None:
        try:
            super()._check_providers(got)
        except LoadError as error:
            raise LoadError(error.message, _why_not_loaded() or "see the log's tail") from error


def _given(options: Options) -> dict[str, str]:
    """The provider's options that were given by name."""
    text = str(options.extra["provider"] or "")
    found = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name.strip() not in PROVIDER_OPTIONS or not value:
            raise UsageError(f"{CUDA} takes no {part!r} here", f"NAME=VALUE, of {', '.join(sorted(PROVIDER_OPTIONS))}")
        found[name.strip()] = value.strip()
    return found


def _switch_tf32(*, on: bool) -> None:
    """Let the libraries round float32 to TF32, or forbid it: before the first of them starts."""
    if on:
        os.environ.pop(TF32_SWITCH, None)
    else:
        os.environ[TF32_SWITCH] = "0"


def _preload() -> None:
    """CUDA's libraries from wheels, if they came as such; others are found where the system has them."""
    try:
        import onnxruntime as ort
    except ImportError:
        return
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()


def _lacking(ort: Any, made_for: str) -> str:
    """Which library of CUDA is missing, in words; cuDNN is loaded late, so its lack would show at the first run."""
    major = made_for.split(".")[0]
    if not major:
        return ""
    _preload()
    for name in (f"libcudart.so.{major}", f"libcublasLt.so.{major}", f"libcublas.so.{major}", "libcudnn.so.9"):
        if problem := cuda_driver.library_loads(name):
            return f"{name.partition('.')[0].removeprefix('lib')} is missing: {problem}"
    return ""


def _why_not_loaded() -> str:
    """What the dynamic loader says of the provider's library."""
    import onnxruntime as ort

    folder = Path(str(ort.__file__)).parent / "capi"
    problem = cuda_driver.library_loads(str(folder / "libonnxruntime_providers_cuda.so"))
    return problem.replace(f"{folder}/", "")


class CudaSession(OrtSession):
    """A session whose inputs and outputs stay on the GPU; `run` copies to and fro, as its caller has arrays here."""

    def __init__(self, session: Any, artifact: Artifact, options: Options, *, where: tuple[str, str]) -> None:
        import onnxruntime as ort

        super().__init__(session, artifact.signature, f"cuda:{options.extra['gpu']}")
        self._ort, self._gpu = ort, int(options.extra["gpu"] or 0)
        self._provider, self._memory = where
        self._precision = options.precision
        values = (*session.get_inputs(), *session.get_outputs())
        tensors = all(v.type.startswith("tensor") and v.type != "tensor(string)" for v in values)
        self._bound, self._graph = options.extra["io"] == "bound" and tensors, bool(options.extra["cuda_graph"])
        if self._graph and not self._bound:
            raise UsageError("a CUDA graph reads and writes fixed addresses", "leave io=bound")
        self._open_outputs = not all(isinstance(d, int) for v in session.get_outputs() for d in v.shape or ())
        self._may = options.extra["cpu_nodes"] == "any"
        self._nodes: list[Node] | None = None
        self._elsewhere: tuple[str, ...] = ()
        self._values: dict[str, Any] = {}
        self._binding = session.io_binding()
        self._fixed = False

    def run(self, feeds: Feeds) -> Outputs:
        try:
            outputs = self._through(feeds) if self._bound else super().run(feeds)
        except self._kinds as error:
            raise translate(error, RunError, "run the model") from error
        if self._nodes is None:
            self._look()
        return outputs

    def device_series(self, feeds: Sequence[Feeds], plan: Plan) -> tuple[Series, ...]:
        """Inferences whose inputs lie on the GPU already and whose outputs stay there, each waited for."""
        if not self._bound:
            return ()
        try:
            samples = self._resident(feeds, plan)
        except self._kinds as error:
            raise translate(error, RunError, "run the model") from error
        return (Series("compute", "host", np.array(samples, np.int64)),)

    def placement(self) -> Placement:
        nodes = counts(self._nodes) if self._nodes else None
        return Placement(self._device, self._precision, nodes, self._elsewhere)

    def close(self) -> None:
        self._binding, self._values = None, {}
        super().close()

    def _through(self, feeds: Feeds) -> Outputs:
        """Copy in, run, copy out; every copy is done when this returns."""
        self._copy_in(feeds)
        if self._graph and not self._fixed:
            self._fix()
        self._session.run_with_iobinding(self._binding)
        values = self._binding.get_outputs()
        return {name: self._host(n, k, v) for n, (name, k, v) in enumerate(self._named(values))}

    def _named(self, values: Sequence[Any]) -> list[tuple[str, str, Any]]:
        return list(zip(self._names, self._types, values, strict=True))

    def _copy_in(self, feeds: Feeds) -> None:
        """Into the buffers of the last run, where the shapes are the same."""
        # A binding keeps an output's memory for the next run, whose shape the data may make another.
        changed = not self._values or (self._open_outputs and not self._fixed)
        for name in self._input_names:
            held, array = self._values.get(name), feeds[name]
            if held is not None and tuple(held.shape()) == array.shape:
                held.update_inplace(array)
                continue
            if self._fixed:
                raise RunError("the inputs have another shape than the CUDA graph was recorded with")
            self._values[name], changed = self._resident_copy(array), True
        if changed:
            self._bind(self._binding, self._values)

    def _resident_copy(self, array: Any) -> Any:
        return self._ort.OrtValue.ortvalue_from_numpy(array, self._memory, self._gpu)

    def _bind(self, binding: Any, values: dict[str, Any]) -> None:
        binding.clear_binding_inputs()
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
        if not self._fixed:
            binding.clear_binding_outputs()
            for name in self._names:  # types that numpy lacks are read where the CPU has them
                binding.bind_output(name, *(("cpu", 0) if self._has_packed else (self._memory, self._gpu)))

    def _host(self, index: int, kind: str, value: Any) -> Any:
        """A copy of an output here; it has come from where it was to be computed."""
        if not self._has_packed and value.device_name() != self._memory:
            got = value.device_name()
            raise RunError(f"output {self._names[index]!r} was asked for in {self._memory}'s memory and is in {got}'s")
        if self._has_packed:
            return read_bits(value, kind)
        array = value.numpy()  # of memory here it is a view, of the GPU's a copy
        return np.array(array) if value.device_name() == "cpu" else array

    def _fix(self) -> None:
        """Give the outputs fixed addresses, and let the graph be recorded on them."""
        once = self._ort.RunOptions()
        once.add_run_config_entry("gpu_graph_id", "-1")  # not recorded: only to learn the outputs' shapes
        self._session.run_with_iobinding(self._binding, once)
        for name, kind, value in self._named(self._binding.get_outputs()):
            if self._has_packed:
                raise UsageError(f"a CUDA graph cannot write output {name!r}, a {kind}, here", "leave out cuda_graph")
            self._binding.bind_ortvalue_output(name, value)
        self._fixed = True
        for _ in range(GRAPH_RUNS_BEFORE):
            self._session.run_with_iobinding(self._binding)

    def _resident(self, feeds: Sequence[Feeds], plan: Plan) -> list[int]:
        """Durations in nanoseconds of runs between buffers on the GPU, rotating through copies of the feeds."""
        bindings = [self._binding] if self._graph else [self._bound_to(feed) for feed in _rotated(feeds)]
        samples: list[int] = []
        begin = perf_counter_ns()
        for index in count():
            if self._graph:  # its addresses are fixed: the next input is copied to them, outside the timed span
                self._copy_in(feeds[index % len(feeds)])
            binding = bindings[index % len(bindings)]
            binding.synchronize_inputs()
            start = perf_counter_ns()
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()
            now = perf_counter_ns()
            samples.append(now - start)
            passed_s = (now - begin) / 1e9
            if (len(samples) >= plan.min_count and passed_s >= plan.min_s) or passed_s >= plan.max_s:
                break
        return samples

    def _bound_to(self, feed: Feeds) -> Any:
        binding = self._session.io_binding()
        self._bind(binding, {name: self._resident_copy(feed[name]) for name in self._input_names})
        return binding

    def _look(self) -> None:
        """Read where the nodes of the first run ran, and judge it. Profiling ends here: nothing timed pays for it."""
        import shutil

        profile = Path(self._session.end_profiling())
        try:
            self._nodes = read(profile)
        finally:
            shutil.rmtree(profile.parent, ignore_errors=True)
        self._elsewhere = judge(self._nodes, self._provider, allow=self._may)


def _rotated(feeds: Sequence[Feeds]) -> list[Feeds]:
    """The feeds, over and over, until the GPU's cache cannot hold them all."""
    size = sum(array.nbytes for feed in feeds for array in feed.values())
    times = max(1, min(MOST_COPIES // max(1, len(feeds)), ROTATE_BYTES // max(1, size) + 1))
    return list(feeds) * times
