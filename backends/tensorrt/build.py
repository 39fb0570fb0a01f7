"""From an ONNX file to a serialized engine: parse, choose shapes, configure, build.

Networks are strongly typed: the types of the file decide, so a precision is a property of the file (`precision`) and
TF32 is the one switch that is left. Every return value is checked, because the builder does not raise.
Source: tensorrt-rtx 1.7.1 on a machine without a GPU, November 2026; the same calls in TensorRT 10 and 11.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backends.tensorrt import profiles, runtime
from backends.tensorrt.profiles import Range
from bench.errors import BackendUnavailable, PrepareError, UnsupportedModel, UsageError
from bench.interface import OptionValue, Signature

LEVELS = range(6)
# The parser's codes that say "I do not know this", rather than "this file is broken".
UNSUPPORTED = frozenset({
    "INVALID_NODE", "UNSUPPORTED_NODE", "UNSUPPORTED_NODE_ATTR", "UNSUPPORTED_NODE_INPUT", "UNSUPPORTED_NODE_DATATYPE",
    "UNSUPPORTED_NODE_DYNAMIC", "UNSUPPORTED_NODE_SHAPE", "UNSUPPORTED_GRAPH",
})  # fmt: skip
_PLUGIN = re.compile(r"[Pp]lugin not found|getPluginCreator|No matching plugin|Unable to find plugin", re.DOTALL)
_NARROWED = re.compile(r"(clamp|out of range|outside the range|truncat|cast).{0,80}INT32|INT32.{0,80}(clamp|overflow)",
                       re.IGNORECASE | re.DOTALL)  # fmt: skip
_MEMORY = re.compile(r"out of memory|OutOfMemory|insufficient memory|cudaErrorMemoryAllocation", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, the timings that its builder took, and the shapes that it takes."""

    engine: bytes
    timing_cache: bytes
    ranges: Mapping[str, Range]


@runtime.releasing
def build(
    trt: Any, path: Path, signature: Signature, extra: Mapping[str, OptionValue], *, tf32: bool, monitor: Any = None
) -> Built:
    """The engine of an ONNX file.

    Raises:
        UnsupportedModel: an operator that TensorRT lacks, or an open dimension without a range.
        UsageError: a profile or an option that does not fit.
        BackendUnavailable: the builder needs a GPU that is not there.
        PrepareError: anything else.
    """
    log = runtime.log(trt)
    load_plugins(trt, log, extra.get("plugins"))
    builder = _builder(trt, log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        raise _parse_error(parser, path)
    found = _shapes(network, signature, str(extra.get("profile") or ""))
    config = _config(trt, builder, network, found, extra, tf32=tf32)
    if monitor is not None:
        config.progress_monitor = monitor
    if not runtime.is_rtx(trt):
        _use_timings(config, extra.get("timing_cache"))
    _refuse_narrowing(log.warnings())
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise build_error(log.errors())
    _refuse_narrowing(log.warnings())
    timings = b"" if runtime.is_rtx(trt) else bytes(config.get_timing_cache().serialize())
    return Built(bytes(plan), timings, found)


def load_plugins(trt: Any, log: Any, library: OptionValue) -> None:
    """TensorRT's own plugins, where it has any, and a library of others."""
    if hasattr(trt, "init_libnvinfer_plugins"):
        trt.init_libnvinfer_plugins(log, "")
    if not library:
        return
    try:
        handle = trt.get_plugin_registry().load_library(str(library))
    except Exception as error:  # its bindings name no exceptions of their own
        raise UsageError(f"the plugins in {Path(str(library)).name} cannot be loaded: {error}") from error
    if handle is None:
        raise UsageError(f"the plugins in {Path(str(library)).name} cannot be loaded: {log.errors()}")


def _builder(trt: Any, log: Any) -> Any:
    try:
        return trt.Builder(log)
    except TypeError as error:  # its factory gave nothing, and only the log says why
        raise BackendUnavailable(
            f"TensorRT's builder cannot start: {log.errors() or error}", "see nvidia-smi"
        ) from error


def _parse_error(parser: Any, path: Path) -> Exception:
    """The first node that the parser stumbled over, in its words."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    if not errors:
        return PrepareError(f"TensorRT could not read {path.name}, and does not say why")
    first = errors[0]
    code, operator = str(first.code()).rpartition(".")[2], first.node_operator()
    text = first.desc().replace(f"{path.parent}/", "").strip()
    where = f"node {first.node()} {first.node_name()!r} ({operator})" if operator else path.name
    more = f", and {len(errors) - 1} more" if len(errors) > 1 else ""
    if _PLUGIN.search(text):
        hint = "give the library that holds it as option plugins"
        return UnsupportedModel(f"TensorRT has no operator or plugin {operator}: {where}: {text}{more}", hint)
    if code in UNSUPPORTED:
        return UnsupportedModel(f"TensorRT could not take {where}: {text} ({code}){more}")
    return PrepareError(f"TensorRT could not read {where}: {text} ({code}){more}")


def _shapes(network: Any, signature: Signature, text: str) -> dict[str, Range]:
    """The ranges of the inputs; the network's own inputs are opened or closed to them."""
    tensors = {t.name: t for t in (network.get_input(index) for index in range(network.num_inputs))}
    symbols = {name: [tensor.get_dimension_name(axis) for axis in range(len(tensor.shape))]
               for name, tensor in tensors.items()}  # fmt: skip
    specs = [spec for spec in signature.inputs if spec.name in tensors]
    found = profiles.ranges(specs, symbols, profiles.parse(text))
    for name, range_ in found.items():
        if tuple(tensors[name].shape) != range_.open_shape():
            tensors[name].shape = range_.open_shape()
    return found


def _config(
    trt: Any, builder: Any, network: Any, found: Mapping[str, Range], extra: Mapping[str, OptionValue], *, tf32: bool
) -> Any:
    config = builder.create_builder_config()
    (config.set_flag if tf32 else config.clear_flag)(trt.BuilderFlag.TF32)
    level = int(extra.get("builder_level") or 0)
    if level not in LEVELS:
        raise UsageError(f"builder_level cannot be {level}", f"{LEVELS[0]} to {LEVELS[-1]}")
    config.builder_optimization_level = level
    if int(extra.get("workspace_mib") or 0) < 0:
        raise UsageError("workspace_mib cannot be negative", "0 is all there is")
    if extra.get("workspace_mib"):
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, int(extra["workspace_mib"] or 0) << 20)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    _aim(trt, config, str(extra.get("capability") or ""))
    if any(not range_.fixed for range_ in found.values()):
        _add_profile(builder, config, network, found)
    return config


def _aim(trt: Any, config: Any, capability: str) -> None:
    """For which GPUs: TensorRT builds for the one at hand, TensorRT-RTX for a list of kinds."""
    if not capability:
        return
    if not runtime.is_rtx(trt):
        raise UsageError("option capability is for TensorRT-RTX: TensorRT builds for the GPU at hand")
    known = {name for name in dir(trt.ComputeCapability) if name.isupper() and name != "NONE"}
    wanted = capability.upper().split("+")
    if unknown := sorted(set(wanted) - known):
        raise UsageError(
            f"TensorRT-RTX builds for no {unknown[0]}", f"one or more of {', '.join(sorted(known))}, joined by +"
        )
    config.num_compute_capabilities = len(wanted)
    for index, name in enumerate(wanted):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)


def _add_profile(builder: Any, config: Any, network: Any, found: Mapping[str, Range]) -> None:
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if tensor.is_shape_tensor:
            raise UnsupportedModel(f"the values of input {tensor.name!r} decide shapes, which no profile here can say")
        range_ = found[tensor.name]
        profile.set_shape(tensor.name, range_.least, range_.usual, range_.most)
    if not profile or config.add_optimization_profile(profile) < 0:
        said = "; ".join(f"{n} {profiles.words(r.least)} to {profiles.words(r.most)}" for n, r in found.items())
        raise PrepareError(f"TensorRT refused the profile {said}", "its log says why")


def _use_timings(config: Any, path: OptionValue) -> None:
    """The timings of an earlier build, or an empty cache for those of this one."""
    try:
        old = Path(str(path)).read_bytes() if path else b""
    except OSError as error:
        raise UsageError(f"the timing cache cannot be read: {error.strerror}") from error
    cache = config.create_timing_cache(old)
    if cache is None or not config.set_timing_cache(cache, False):
        raise UsageError("TensorRT refused the timing cache", "it is of another version or another GPU; leave it out")


def _refuse_narrowing(warnings: Sequence[str]) -> None:
    """Whole numbers that no longer fit would be changed without an error."""
    for text in warnings:
        if _NARROWED.search(text):
            raise UnsupportedModel(f"TensorRT would change 64-bit integers of the model: {text[:500]}")


def build_error(said: str) -> Exception:
    """Why a build gave nothing, by what the builder logged."""
    if _MEMORY.search(said):
        hint = "lower workspace_mib or the profile's largest shape, or use a GPU that nobody else uses"
        return PrepareError(f"the GPU is out of memory while the engine is built: {said}", hint)
    if "insufficient for CUDA runtime" in said or "no CUDA-capable device" in said:
        return BackendUnavailable(
            f"this engine can only be built where a GPU is: {said}", "update the driver, see nvidia-smi"
        )
    if _PLUGIN.search(said):
        return UnsupportedModel(f"TensorRT lacks a plugin: {said}", "give the library that holds it as option plugins")
    if "Could not find any implementation for node" in said:
        return UnsupportedModel(
            f"TensorRT has no kernel for a node: {said}", "raise workspace_mib, or another precision"
        )
    return PrepareError(f"TensorRT could not build the engine: {said or 'it does not say why'}")
