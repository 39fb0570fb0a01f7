"""The words that harness and backends speak: models, artefacts, options, sessions, samples.

A backend is one class: `probe` and `load` to write, `prepare` where the runtime reads its own format. It never times,
judges, caches or talks to a machine. Runs inside workers: standard library and numpy only, Python 3.10.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Union

import numpy.typing as npt

Array = npt.NDArray[Any]
OptionValue = Union[str, int, float, bool, None]
Clock = Literal["host", "device"]
Scope = Literal["end_to_end", "compute", "enqueue"]


@dataclass(frozen=True, slots=True)
class Packed:
    """A tensor of a type numpy lacks (bfloat16, float8*): its bits as unsigned integers, and the type's name."""

    dtype: str
    bits: Array


# What an ONNX value is here: a tensor, a sequence, a map, or an absent optional. Strings are object arrays of str.
Value = Union[Array, Packed, list[Any], dict[Any, Any], None]
Feeds = Mapping[str, Array]
Outputs = dict[str, Value]


@dataclass(frozen=True, slots=True)
class ValueSpec:
    """One input or output of the ONNX model.

    `dtype` is numpy's name of the element type (`float32`, `int64`, `bool`, `string`, `bfloat16`), or empty for a
    sequence or a map. A dimension is its size, or None where only running the model tells. `shape` is None where even
    the rank is unknown. After binding, every dimension of an input is a size.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None
    kind: Literal["tensor", "sequence", "map", "optional"] = "tensor"


@dataclass(frozen=True, slots=True)
class Signature:
    """The model's inputs to feed (initializers are not among them) and its outputs, in the model's order."""

    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]


@dataclass(frozen=True, slots=True)
class Model:
    """A resolved ONNX model: every input dimension is a number. `files` below `root`: the .onnx, then external data."""

    name: str
    root: Path
    files: tuple[str, ...]
    sha256: str
    opset: int
    signature: Signature

    @property
    def path(self) -> Path:
        """The .onnx file."""
        return self.root / self.files[0]

    @property
    def as_it_is(self) -> Artifact:
        """What a backend loads that prepares nothing."""
        return Artifact(self.root, self.files, self.signature)


@dataclass(frozen=True, slots=True)
class Artifact:
    """What a runtime loads: `files[0]` below `root` is the main one. `meta` is JSON that `prepare` left for `load`."""

    root: Path
    files: tuple[str, ...]
    signature: Signature
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The main file."""
        return self.root / self.files[0]


@dataclass(frozen=True, slots=True)
class Option:
    """One option that a backend understands.

    `kind` file: the value is a path, and the file's hash stands for it in the case and in the cache key.
    `artefact`: it decides what `prepare` makes, so it is part of the cache key.
    """

    name: str
    help: str
    default: OptionValue = None
    kind: Literal["str", "int", "float", "bool", "file"] = "str"
    choices: tuple[str, ...] = ()
    artefact: bool = False


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked of a backend: the harness's own words, and the backend's `extra`, complete and validated.

    `precision` is `model` (what the file says) or a name from `Probe.precisions`. `cpus` is already applied to the
    process when a backend sees it.
    """

    threads: int = 1
    precision: str = "model"
    cpus: tuple[int, ...] = ()
    extra: Mapping[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Target:
    """The machine an artefact is for: `arch` (`x86_64`, `aarch64`), `libc` and Python tag, as wheels name them."""

    arch: str
    libc: str = ""
    python: str = ""


@dataclass(frozen=True, slots=True)
class Tool:
    """A program from a wheel that must not be installed beside the user's packages: fetched alone, pinned and checked.

    `binary` is its path inside the wheel; `sha256` lists the wheels accepted, one per platform.
    """

    name: str
    requirement: str
    binary: str
    sha256: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Finished:
    """How a tool ended: exit code and everything it printed (the last 64 KiB)."""

    code: int
    output: str


class Tools(Protocol):
    """The bounded runner that `prepare` is handed: it kills the tool and all it started when the phase's time is up."""

    def run(self, argv: Sequence[str], *, cwd: Path) -> Finished:
        """Run a program to its end. Raises `Timeout` when the time is up, `Crashed` when a signal ended it."""

    def path(self, name: str) -> Path:
        """The binary of a `Tool` that the backend declared; it has been fetched."""

    def say(self, message: str) -> None:
        """Tell the person who waits how far it is: now and then, where it takes long."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What a backend can do on this machine, or the `reason` why not and the `remedy` (a command or a sentence).

    `runtimes`: versions, and what else of the machine decides an artefact that is prepared on it. `builds`: `prepare`
    works here though nothing can be run.
    """

    available: bool
    version: str = ""
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("model",)
    reason: str = ""
    remedy: str = ""
    runtimes: Mapping[str, str] = field(default_factory=dict)
    builds: bool = False


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the work really ran. `nodes` counts nodes per provider or unit, None where the runtime does not tell.

    `elsewhere`: in words, each node that ran on another device and was allowed to. `facts`: what else the runtime tells
    of the device and of how it computes there. `emulated`: what imitates the device, where software does: then its
    times are nobody's, and tables say so.
    """

    device: str
    precision: str
    nodes: Mapping[str, int] | None = None
    elsewhere: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    emulated: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """When to stop: a loop ends once both minimums are met and its median is precise, and always at `max_s`.

    `target`: half of the 95 % interval of the median within the process, as a share of it; None: the minimums do.
    Warming up ends when durations are steady, not before its minimums, and always at `warmup_max_s`.
    """

    min_count: int = 11
    min_s: float = 0.5
    max_s: float = 10.0
    warmup_min_count: int = 3
    warmup_min_s: float = 0.2
    warmup_max_s: float = 5.0
    target: float | None = 0.01


@dataclass(frozen=True, slots=True)
class Series:
    """Durations of consecutive inferences, int64 nanoseconds, with what they span and whose clock took them."""

    scope: Scope
    clock: Clock
    samples_ns: Array


@dataclass(frozen=True, slots=True)
class Samples:
    """What a timed loop leaves: its series (the headline first), its last outputs, and which feed made them.

    `warmup_ended_by`: `steady` or `limit`; empty where nobody looked.
    """

    series: tuple[Series, ...]
    outputs: Outputs
    feed_index: int
    warmup_count: int = 0
    stopped_by: str = ""
    warmup_ended_by: str = ""


class Session(ABC):
    """A loaded artefact, used by one thread at a time and closed once.

    Feeds have exactly the model's names, types and shapes and are C-contiguous: the harness has checked.
    """

    @abstractmethod
    def run(self, feeds: Feeds) -> Outputs:
        """One inference; blocks until its outputs are complete.

        Feeds are left unchanged. Outputs carry the ONNX model's names, types and shapes, and belong to the caller: no
        later run may change them.

        Raises:
            RunError: the runtime reported a failure.
        """

    def measure(self, feeds: Sequence[Feeds], plan: Plan) -> Samples | None:
        """Samples taken by the runtime's own clock (GPU events), or None: then the harness times `run` itself."""
        return None

    def device_series(self, feeds: Sequence[Feeds], plan: Plan) -> tuple[Series, ...]:
        """Further scopes, taken once the harness has timed `run` itself: `compute` and `enqueue` of a GPU."""
        return ()

    def placement(self) -> Placement:
        """Where the inferences so far really ran."""
        return Placement(device="cpu", precision="model")

    def close(self) -> None:  # noqa: B027 - a session without resources need not write one
        """Release the runtime's resources. Calling it again does nothing."""

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Backend(ABC):
    """One runtime. Constructed without arguments; constructing and importing its module load no runtime."""

    name: ClassVar[str]
    install: ClassVar[str] = ""
    """The command that makes it available, for example `pip install "deploybench[ncnn]"`."""
    distributions: ClassVar[tuple[str, ...]] = ()
    """The distributions that hold the runtime: their versions are read without importing it."""
    options: ClassVar[tuple[Option, ...]] = ()
    tools: ClassVar[tuple[Tool, ...]] = ()
    prepares: ClassVar[Literal["nothing", "host", "device"]] = "nothing"
    """Where `prepare` runs; `nothing`: the runtime reads ONNX."""
    concurrency: ClassVar[Literal["threads", "processes"]] = "threads"
    """`threads` where the runtime releases Python's lock while it computes."""
    reference: ClassVar[Mapping[str, OptionValue] | None] = None
    """The options under which its outputs may judge others, None where they may not."""
    opt_in: ClassVar[bool] = False
    """It is used only when asked for by name, not when all available backends are."""
    dynamic: ClassVar[bool] = False
    """One session takes every shape that its model leaves open."""
    local_only: ClassVar[bool] = False
    """It runs only where the harness runs: its dependencies do not travel to devices."""
    alone: ClassVar[str] = ""
    """A module with `run(model, feeds, options)`, of numpy and the runtime alone: reproducers carry it."""

    @abstractmethod
    def probe(self) -> Probe:
        """What can be had here. Never raises, takes well under a second."""

    @abstractmethod
    def load(self, artifact: Artifact, options: Options) -> Session:
        """A session, ready to run.

        Raises:
            BackendUnavailable: the runtime is not installed.
            UnsupportedModel: it cannot express the model.
            LoadError: it refused the artefact for another reason.
        """

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        """What `load` needs, written below `workdir` (empty, private, on the machine that `prepares` names).

        Raises:
            UnsupportedModel: the converter cannot express the model; the message names the operator where it is known.
            PrepareError: it failed for another reason.
        """
        return model.as_it_is

    def prepare_key(self, model: Model, options: Options, target: Target) -> Mapping[str, OptionValue]:
        """Facts beyond model, precision, declared tools and `artefact` options that decide what `prepare` makes.

        A converter's version belongs here. The thread count does not. Reads no runtime.
        """
        return {}

    def runtime_wheels(self, target: Target) -> tuple[str, ...]:
        """Pinned requirements that a bare machine of that kind needs to load and run artefacts (numpy aside)."""
        return ()
