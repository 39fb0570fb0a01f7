"""The rules of `bench.interface`, each as a check that any backend can be put through.

Every `check_*` states one rule in its docstring and raises `Violation` where it is broken. The kit builds its own tiny
models and knows their answers from float64 numpy. Where it can, a check compares a session with itself, so that a
backend which breaks one rule fails one check. Long for a module, on purpose: it is the contract, to be read as a whole.

Run one check in a process of its own, so that a crash or a hang is a failed check and nothing more:
`python -m bench.conformance MODULE:CLASS CHECK --workdir DIR --tool NAME=PATH`. It never judges speed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import inspect
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from bench.errors import BackendUnavailable, BenchError, Crashed, Timeout, UnsupportedModel, UsageError
from bench.interface import (
    Array,
    Artifact,
    Backend,
    Clock,
    Finished,
    Model,
    Option,
    Options,
    OptionValue,
    Outputs,
    Placement,
    Plan,
    Probe,
    Samples,
    Scope,
    Session,
    Signature,
    Target,
    ValueSpec,
)

TOLERANCE = 1e-3  # of the output's largest magnitude: fp32 with room for another order of summation
OPSET = 13
TOOL_LIMIT_S = 120.0
OUTPUT_KEPT_BYTES = 64 << 10
HARNESS_OPTIONS = frozenset({"threads", "precision", "cpus"})
Status = Literal["passed", "failed", "skipped"]


class Violation(Exception):
    """A rule of the interface is broken. The message says which value of which model showed it."""


class Skip(Exception):
    """A check does not apply; the message names what is missing, and what would supply it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one check ended. `message` is empty where it passed."""

    name: str
    rule: str
    status: Status
    message: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """One rule and the function that tries it."""

    name: str
    rule: str
    run: Callable[[Subject], None]


# --- the kit's models: (inputs, outputs, weights, nodes) of a graph, and its answer in float64 -----------------------


Nodes = tuple[tuple[str, tuple[str, ...], tuple[str, ...], Mapping[str, Any]], ...]


@dataclass(frozen=True, slots=True)
class KitModel:
    """A tiny float32 model: its nodes as (operator, inputs, outputs, attributes), and its answer."""

    name: str
    inputs: tuple[ValueSpec, ...]
    outputs: tuple[ValueSpec, ...]
    nodes: Nodes
    answer: Callable[[Mapping[str, Array]], dict[str, Array]]
    weights: Mapping[str, Array] = field(default_factory=dict)
    domain: str = ""

    def feeds(self, seed: int) -> dict[str, Array]:
        """Fresh feeds, never constant, the same for the same seed."""
        rng = np.random.default_rng(seed)
        return {value.name: np.asarray(rng.standard_normal(_sizes(value)), np.float32) for value in self.inputs}

    def write(self, folder: Path) -> Model:
        """The model as a file in `folder`."""
        from onnx import TensorProto, helper, numpy_helper, save_model

        def infos(values: tuple[ValueSpec, ...]) -> list[Any]:
            return [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, value.shape) for value in values]

        nodes = [
            helper.make_node(operator, reads, writes, name=f"{operator.lower()}_{index}", domain=self.domain, **extra)
            for index, (operator, reads, writes, extra) in enumerate(self.nodes)
        ]
        weights = [numpy_helper.from_array(value, name) for name, value in self.weights.items()]
        graph = helper.make_graph(nodes, self.name, infos(self.inputs), infos(self.outputs), weights)
        opsets = [helper.make_opsetid("", OPSET), *([helper.make_opsetid(self.domain, 1)] if self.domain else [])]
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "model.onnx"
        save_model(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        return Model(self.name, folder, (path.name,), digest, OPSET, Signature(self.inputs, self.outputs))


def _sizes(value: ValueSpec) -> tuple[int, ...]:
    return tuple(size for size in value.shape or () if size is not None)


def _spec(name: str, *shape: int) -> ValueSpec:
    return ValueSpec(name, "float32", shape)


def _mlp(name: str, batch: int) -> KitModel:
    rng = np.random.default_rng(7)
    w1, b1, w2, b2 = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 8), (16,), (4, 16), (4,)))

    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        hidden = np.maximum(feeds["x"].astype(np.float64) @ w1.T.astype(np.float64) + b1, 0)
        return {"y": hidden @ w2.T.astype(np.float64) + b2}

    nodes: Nodes = (
        ("Gemm", ("x", "w1", "b1"), ("h",), {"transB": 1}),
        ("Relu", ("h",), ("r",), {}),
        ("Gemm", ("r", "w2", "b2"), ("y",), {"transB": 1}),
    )
    weights = {"w1": w1, "b1": b1, "w2": w2, "b2": b2}
    return KitModel(name, (_spec("x", batch, 8),), (_spec("y", batch, 4),), nodes, answer, weights)


def _two_inputs() -> KitModel:
    # Names against the alphabet, and answers that change when inputs or outputs are swapped.
    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        left, right = feeds["right"].astype(np.float64), feeds["left"].astype(np.float64)
        return {"minus": left - right, "blend": (left + right) * left}

    nodes: Nodes = (
        ("Sub", ("right", "left"), ("minus",), {}),
        ("Add", ("right", "left"), ("sum",), {}),
        ("Mul", ("sum", "right"), ("blend",), {}),
    )
    shape = (1, 6)
    inputs = (_spec("right", *shape), _spec("left", *shape))
    return KitModel("two_inputs", inputs, (_spec("minus", *shape), _spec("blend", *shape)), nodes, answer)


def _conv() -> KitModel:
    weight = np.random.default_rng(11).standard_normal((4, 3, 3, 3)).astype(np.float32)

    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        padded = np.pad(feeds["image"].astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
        return {"map": np.maximum(np.einsum("nchwij,ocij->nohw", windows, weight.astype(np.float64)), 0)}

    nodes: Nodes = (
        ("Conv", ("image", "w"), ("c",), {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}),
        ("Relu", ("c",), ("map",), {}),
    )
    # Height and width differ, so that a swap shows.
    return KitModel("conv", (_spec("image", 1, 3, 5, 7),), (_spec("map", 1, 4, 5, 7),), nodes, answer, {"w": weight})


def _flatten() -> KitModel:
    # The answer is the feed's own bytes: a runtime that saves the copy hands the feed back.
    def answer(feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"row": feeds["block"].reshape(1, 24).astype(np.float64)}

    nodes: Nodes = (("Flatten", ("block",), ("row",), {"axis": 1}),)
    return KitModel("flatten", (_spec("block", 1, 2, 3, 4),), (_spec("row", 1, 24),), nodes, answer)


def _unknown() -> KitModel:
    nodes: Nodes = (("Frobnicate", ("x",), ("y",), {}),)
    values = (_spec("x", 1, 4),), (_spec("y", 1, 4),)
    return KitModel("unknown", *values, nodes, lambda feeds: {}, domain="org.example.unknown")


MLP, TWO_INPUTS, BATCH, CONV, FLATTEN = _mlp("mlp", 1), _two_inputs(), _mlp("batch", 2), _conv(), _flatten()
UNKNOWN = _unknown()
KIT = (MLP, CONV, TWO_INPUTS, BATCH, FLATTEN)


# --- the subject: a backend under test, and what has been prepared for it --------------------------------------------


class BoundedTools:
    """The `Tools` that `prepare` gets here: a time limit, and a process group that dies as a whole."""

    def __init__(self, tool_path: Callable[[str], Path], limit_s: float = TOOL_LIMIT_S) -> None:
        self._tool_path = tool_path
        self._limit_s = limit_s

    def path(self, name: str) -> Path:
        """The binary of a declared tool."""
        return self._tool_path(name)

    def run(self, argv: Sequence[str], *, cwd: Path) -> Finished:
        """Run a tool to its end."""
        code, output, _ = _run_group(list(argv), self._limit_s, cwd=cwd, merged=True)
        if code is None:
            raise Timeout(f"{argv[0]} did not end within {self._limit_s:g} s")
        if code < 0:
            raise Crashed(f"{argv[0]} died by {_signal_name(code)}", signal=_signal_name(code))
        return Finished(code, output[-OUTPUT_KEPT_BYTES:].decode(errors="replace"))


def _no_tools(name: str) -> Path:
    raise Skip(f"the tool {name!r} was not given: --tool {name}=PATH")


class Subject:
    """A backend class under test, a private folder, and artefacts made once for all checks of this process."""

    def __init__(
        self,
        backend_class: type[Backend],
        workdir: Path,
        *,
        tool_path: Callable[[str], Path] = _no_tools,
        extra: Mapping[str, OptionValue] | None = None,
    ) -> None:
        self.backend_class = backend_class
        self.tools = BoundedTools(tool_path)
        self._workdir = workdir
        self._given = dict(extra or {})
        self._artifacts: dict[str, Artifact | UnsupportedModel] = {}
        self._working: KitModel | None = None

    def backend(self) -> Backend:
        """A fresh instance."""
        return self.backend_class()

    def folder(self, label: str) -> Path:
        """A new empty folder."""
        self._workdir.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=f"{label}-", dir=self._workdir)).resolve()

    def options(self, *, threads: int = 1, precision: str = "model") -> Options:
        """Options as the harness passes them: the backend's own, complete."""
        extra = {option.name: option.default for option in self.backend_class.options}
        return Options(threads, precision, (), {**extra, **self._given})

    def prepare(self, kit: KitModel, options: Options | None = None) -> Artifact:
        """A new artefact of `kit`, in a folder of its own."""
        self.require_runtime()
        return self._prepare(kit.write(self.folder(kit.name)), options or self.options())

    def _prepare(self, model: Model, options: Options) -> Artifact:
        for tool in self.backend_class.tools:
            self.tools.path(tool.name)
        return self.backend().prepare(model, options, self.folder("prepared"), self.tools)

    def artifact(self, kit: KitModel) -> Artifact:
        """The artefact of `kit`, made once; skips the check where the backend cannot express the model."""
        if kit.name not in self._artifacts:
            try:
                self._artifacts[kit.name] = self.prepare(kit)
            except UnsupportedModel as error:
                self._artifacts[kit.name] = error
        found = self._artifacts[kit.name]
        if isinstance(found, UnsupportedModel):
            raise Skip(f"the backend does not support the kit's model {kit.name!r}: {found}")
        return found

    @contextlib.contextmanager
    def session(self, kit: KitModel, artifact: Artifact | None = None, **asked: Any) -> Iterator[Session]:
        """A session on `kit`, closed at the end; skips the check where the backend cannot express the model."""
        artifact = artifact or self.artifact(kit)
        try:
            session = self.backend().load(artifact, self.options(**asked))
        except UnsupportedModel as error:
            self._artifacts[kit.name] = error
            raise Skip(f"the backend does not support the kit's model {kit.name!r}: {error}") from error
        with contextlib.closing(session):
            yield session

    def fresh(self, kit: KitModel, seed: int) -> Outputs:
        """What the first run of a new session gives: the backend's own baseline."""
        with self.session(kit) as session:
            return _copied(session.run(kit.feeds(seed)))

    def working(self) -> KitModel:
        """The first of the kit's models that the backend supports."""
        for kit in () if self._working else KIT:
            with contextlib.suppress(Skip), self.session(kit):
                self._working = kit
                break
        if self._working is None:
            self.require_runtime()
            for tool in self.backend_class.tools:
                self.tools.path(tool.name)
            raise Skip("the backend supports none of the kit's models")
        return self._working

    def require_runtime(self) -> None:
        """Skip the check where the runtime is not there."""
        probe = self.backend().probe()
        if not probe.available:
            raise Skip(f"{self.backend_class.name} is not available: {probe.reason}; {probe.remedy}")


def _copied(outputs: Outputs) -> Outputs:
    return {name: value.copy() if isinstance(value, np.ndarray) else value for name, value in outputs.items()}


def _distance(got: Outputs, wanted: Mapping[str, Any]) -> tuple[float, str]:
    """The largest difference as a share of that output's scale, and the output's name; inf for NaN.

    Names, types and shapes have checks of their own: only what can be compared is.
    """
    worst, where, compared = 0.0, "", 0
    for name, want in wanted.items():
        value = got.get(name)
        if not isinstance(value, np.ndarray) or value.size != want.size:
            continue
        compared += 1
        exact, found = np.asarray(want, np.float64).ravel(), value.astype(np.float64).ravel()
        if not np.array_equal(np.isnan(found), np.isnan(exact)):
            return float("inf"), name
        share = float(np.nanmax(np.abs(found - exact), initial=0) / (np.nanmax(np.abs(exact), initial=0) or 1))
        if share >= worst:
            worst, where = share, name
    if not compared:
        raise Violation(f"none of the outputs {list(wanted)} came back with its number of elements: {list(got)}")
    return worst, where


def _require_same(got: Outputs, wanted: Mapping[str, Any], what: str) -> None:
    share, name = _distance(got, wanted)
    if share > TOLERANCE:
        raise Violation(f"{what}: output {name!r} is off by {share:.2g} of its scale (allowed {TOLERANCE:g})")


# --- the rules: declarations -----------------------------------------------------------------------------------------


def check_name(subject: Subject) -> None:
    """The name is lower-case letters, digits and single dashes, and starts with a letter."""
    name = getattr(subject.backend_class, "name", None)
    if not isinstance(name, str) or not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise Violation(f"the name {name!r} is not of the form 'runtime' or 'runtime-device'")


_IMPORT_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
import numpy, numpy.random, bench.interface
before = set(sys.modules)
import importlib
found = importlib.import_module(sys.argv[2])
for part in sys.argv[3].split("."):
    found = getattr(found, part)
found()
added = {name.partition(".")[0] for name in set(sys.modules) - before}
allowed = {*sys.stdlib_module_names, "numpy", "bench", "backends", sys.argv[2].partition(".")[0]}
print("\\n" + json.dumps(sorted(name for name in added - allowed if not name.startswith("_sysconfigdata"))))
"""


def check_import_is_light(subject: Subject) -> None:
    """Importing the module and constructing the backend load the standard library, numpy and nothing heavier."""
    found = subject.backend_class
    arguments = [json.dumps(sys.path), found.__module__, found.__qualname__]
    code, output, errors = _run_group([sys.executable, "-I", "-c", _IMPORT_SCRIPT, *arguments], TOOL_LIMIT_S)
    if code != 0:
        ended = "did not end" if code is None else f"ended with code {code}"
        raise Violation(f"importing {found.__module__} in a fresh process {ended}: {_last_line(errors)}")
    loaded = json.loads(output.splitlines()[-1])
    if loaded:
        raise Violation(f"importing {found.__module__} loads {', '.join(loaded)}: import them inside functions")


def check_constructor(subject: Subject) -> None:
    """The backend is constructed without arguments."""
    parameters = inspect.signature(subject.backend_class).parameters.values()
    open_ended = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in parameters if each.default is each.empty and each.kind not in open_ended]
    if needed:
        raise Violation(f"{subject.backend_class.__name__} wants the arguments {', '.join(needed)}")
    subject.backend()


def check_declarations(subject: Subject) -> None:
    """`prepares`, `concurrency`, `tools` and `reference` hold values that the interface knows."""
    found = subject.backend_class
    if found.prepares not in ("nothing", "host", "device"):
        raise Violation(f"prepares is {found.prepares!r}, not nothing, host or device")
    if found.concurrency not in ("threads", "processes"):
        raise Violation(f"concurrency is {found.concurrency!r}, not threads or processes")
    for tool in found.tools:
        if not tool.sha256 or not all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in tool.sha256):
            raise Violation(f"tool {tool.name!r} is not pinned by the SHA-256 of its wheels")
    strangers = set(found.reference or {}) - {option.name for option in found.options} - HARNESS_OPTIONS
    if strangers:
        raise Violation(f"reference sets options that the backend has not: {', '.join(sorted(strangers))}")


_KINDS: Mapping[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (float, int),
    "bool": (bool,),
    "file": (str,),
}


def check_options(subject: Subject) -> None:
    """Options have unique plain names that are not the harness's, a help text, and a default of their kind."""
    names = [option.name for option in subject.backend_class.options]
    for option in subject.backend_class.options:
        if names.count(option.name) > 1:
            raise Violation(f"option {option.name!r} is declared twice")
        if not re.fullmatch(r"[a-z][a-z0-9_]*", option.name) or option.name in HARNESS_OPTIONS:
            raise Violation(f"option name {option.name!r} is not a plain word of the backend's own")
        if not option.help.strip():
            raise Violation(f"option {option.name!r} has no help text")
        _check_default(option)


def _check_default(option: Option) -> None:
    if option.kind not in _KINDS:
        raise Violation(f"option {option.name!r} is of the unknown kind {option.kind!r}")
    right = isinstance(option.default, _KINDS[option.kind])
    if isinstance(option.default, bool) and option.kind != "bool":
        right = False
    if option.default is not None and not right:
        raise Violation(f"option {option.name!r} is of kind {option.kind}, but its default is {option.default!r}")
    if option.choices and option.default is not None and option.default not in option.choices:
        raise Violation(f"option {option.name!r} has a default {option.default!r} that is not among its choices")


def check_probe(subject: Subject) -> None:
    """`probe` never raises, and tells version, devices and precisions, or the reason why not and a remedy."""
    try:
        probe = subject.backend().probe()
    except Exception as error:
        raise Violation(f"probe raised {type(error).__name__}: {error}") from error
    if not isinstance(probe, Probe):
        raise Violation(f"probe returned a {type(probe).__name__}, not a Probe")
    if not probe.available:
        if not (probe.reason and probe.remedy):
            raise Violation("probe says unavailable without both a reason and a remedy")
    elif not (probe.version and probe.devices and "model" in probe.precisions):
        raise Violation(
            "probe says available, but lacks a version, a device or the precision 'model': "
            f"{probe.version!r}, {probe.devices}, {probe.precisions}"
        )


def check_unavailable(subject: Subject) -> None:
    """Where the probe says that the runtime is not there, `load` raises BackendUnavailable."""
    if subject.backend().probe().available:
        raise Skip("the runtime is available here")
    model = MLP.write(subject.folder("mlp"))
    artifact = Artifact(model.root, model.files, model.signature)
    try:
        subject.backend().load(artifact, subject.options()).close()
    except BackendUnavailable:
        return
    except Exception as error:
        raise Violation(f"load raised {type(error).__name__} ({error}) instead of BackendUnavailable") from error
    raise Violation("load succeeded although probe says that the runtime is unavailable")


def check_prepare_key(subject: Subject) -> None:
    """`prepare_key` is JSON of plain values, the same at every call, and independent of the thread count."""
    model = MLP.write(subject.folder("mlp"))
    target = Target(platform.machine(), "glibc", "cp311")

    def key(threads: int) -> Mapping[str, OptionValue]:
        return subject.backend().prepare_key(model, subject.options(threads=threads), target)

    first = key(1)
    _require_json(dict(first), "prepare_key")
    if dict(key(1)) != dict(first):
        raise Violation(f"prepare_key differs between two equal calls: {dict(first)}, then {dict(key(1))}")
    if dict(key(4)) != dict(first):
        raise Violation(f"prepare_key depends on the thread count: {dict(first)} with 1, {dict(key(4))} with 4")


def _require_json(value: Any, what: str) -> None:
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Violation(f"{what} is not JSON: {error}") from error
    if back != value:
        raise Violation(f"{what} does not survive JSON: {value!r} comes back as {back!r}")


# --- the rules: prepare and artefacts --------------------------------------------------------------------------------


def _listing(folder: Path) -> dict[str, str]:
    """Every file below `folder` by its relative path, with its hash."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_prepare_stays_in_workdir(subject: Subject) -> None:
    """`prepare` writes below its workdir only: not beside the model, not into the current folder."""
    kit = subject.working()
    around, current = subject.folder("around"), subject.folder("current")
    model, workdir = kit.write(around / "model"), around / "workdir"
    workdir.mkdir()
    before = _listing(around)
    with _inside(current):
        artifact = subject.backend().prepare(model, subject.options(), workdir, subject.tools)
    after = {name: digest for name, digest in _listing(around).items() if not name.startswith("workdir/")}
    changed = [name for name in sorted({*before, *after}) if before.get(name) != after.get(name)]
    changed += [f"(current folder)/{name}" for name in _listing(current)]
    if changed:
        raise Violation(f"prepare wrote outside its workdir, or changed the model: {', '.join(changed)}")
    home = model.root if artifact.root == model.root else workdir
    for name in artifact.files:
        path = (artifact.root / name).resolve()
        if not path.is_file() or home.resolve() not in path.parents:
            raise Violation(f"the artefact lists {name!r}, which is not a file below {home.name}/")


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    previous = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(previous)


def check_prepare_repeats(subject: Subject) -> None:
    """Preparing the same model again gives files of the same names, and an artefact with the same answers."""
    kit = subject.working()
    first, second = subject.artifact(kit), subject.prepare(kit)
    if first.files != second.files:
        raise Violation(f"the first prepare listed {first.files}, the second {second.files}")
    wanted = subject.fresh(kit, 1)
    with subject.session(kit, second) as session:
        _require_same(session.run(kit.feeds(1)), wanted, "the second artefact answers differently")


def check_meta(subject: Subject) -> None:
    """The artefact's `meta` is JSON and survives being written and read."""
    _require_json(dict(subject.artifact(subject.working()).meta), "the artefact's meta")


def check_signature(subject: Subject) -> None:
    """The artefact carries the ONNX model's signature: the same names, types and shapes in the same order."""
    kit = subject.working()
    found = subject.artifact(kit).signature
    if found != Signature(kit.inputs, kit.outputs):
        raise Violation(f"the artefact's signature is not the model's: {found}")


def check_artifact_moves(subject: Subject) -> None:
    """An artefact is its listed files and its meta: copied to another folder, it loads and answers the same."""
    kit = subject.working()
    wanted = subject.fresh(kit, 1)
    made = subject.prepare(kit)
    moved = _moved(made, subject.folder("moved"))
    shutil.rmtree(made.root)
    try:
        with subject.session(kit, moved) as session:
            outputs = session.run(kit.feeds(1))
    except (BenchError, OSError, Skip) as error:
        raise Violation(f"the artefact does not work once it was moved: {error}") from error
    _require_same(outputs, wanted, "the moved artefact answers differently")


def _moved(artifact: Artifact, folder: Path) -> Artifact:
    for name in artifact.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(artifact.root / name, folder / name)
    return Artifact(folder, artifact.files, artifact.signature, artifact.meta)


def check_unsupported_operator(subject: Subject) -> None:
    """An operator that the backend does not know raises UnsupportedModel, in prepare or in load."""
    try:
        artifact = subject.prepare(UNKNOWN)
        subject.backend().load(artifact, subject.options()).close()
    except UnsupportedModel:
        return
    except BenchError as error:
        raise Violation(f"an unknown operator raised {type(error).__name__} ({error}), not UnsupportedModel") from error
    raise Violation("a model with an operator of the unknown domain org.example.unknown was prepared and loaded")


def check_unknown_precision(subject: Subject) -> None:
    """A precision that the backend does not have is refused with a BenchError, never ignored."""
    kit = subject.working()
    options = subject.options(precision="no-such-precision")
    try:
        artifact = subject.prepare(kit, options)
        subject.backend().load(artifact, options).close()
    except BenchError:
        return
    raise Violation("the precision 'no-such-precision' was accepted without a word")


def check_damaged_artifact(subject: Subject) -> None:
    """An artefact whose files are cut short, overwritten or gone raises a BenchError at load."""
    kit = subject.working()
    made = subject.artifact(kit)
    damages: dict[str, Callable[[Path], None]] = {
        "gone": lambda path: path.unlink(),
        "cut in half": lambda path: os.truncate(path, path.stat().st_size // 2),
        "overwritten": lambda path: _scribble(path),
    }
    for how, damage in damages.items():
        damaged = _moved(made, subject.folder("damaged"))
        for name in damaged.files:
            damage(damaged.root / name)
        try:
            subject.backend().load(damaged, subject.options()).close()
        except BenchError:
            continue
        except Exception as error:
            raise Violation(f"with its files {how}, load raised a bare {type(error).__name__}: {error}") from error
        raise Violation(f"with its files {how}, the artefact still loaded")


def _scribble(path: Path) -> None:
    path.write_bytes(np.random.default_rng(3).bytes(path.stat().st_size))


# --- the rules: sessions ---------------------------------------------------------------------------------------------


def check_load(subject: Subject) -> None:
    """`load` returns a Session."""
    with subject.session(subject.working()) as session:
        if not isinstance(session, Session):
            raise Violation(f"load returned a {type(session).__name__}, which is not a Session")


def check_runs_a_model(subject: Subject) -> None:
    """At least one of the kit's models runs."""
    try:
        subject.fresh(subject.working(), 1)
    except Skip as error:
        if "none of the kit's models" in str(error):
            raise Violation(str(error)) from error
        raise


def check_output_names(subject: Subject) -> None:
    """`run` returns the ONNX model's outputs: every name, no other, in its order."""
    kit = subject.working()
    _require_names(subject, kit)
    if kit is not TWO_INPUTS:
        with contextlib.suppress(Skip):
            _require_names(subject, TWO_INPUTS)


def _require_names(subject: Subject, kit: KitModel) -> None:
    names, wanted = list(subject.fresh(kit, 1)), [value.name for value in kit.outputs]
    if names != wanted:
        raise Violation(f"model {kit.name!r}: run returned the outputs {names}, not {wanted}")


def _each_output(subject: Subject) -> Iterator[tuple[str, ValueSpec, Any]]:
    kit = subject.working()
    outputs = subject.fresh(kit, 1)
    for spec in kit.outputs:
        if spec.name in outputs:
            yield f"model {kit.name!r}: output {spec.name!r}", spec, outputs[spec.name]


def check_output_types(subject: Subject) -> None:
    """Outputs are numpy arrays of the ONNX model's element types."""
    for what, spec, value in _each_output(subject):
        if not isinstance(value, np.ndarray):
            raise Violation(f"{what} is a {type(value).__name__}, not a numpy array")
        if value.dtype != spec.dtype:
            raise Violation(f"{what} is {value.dtype}, not {spec.dtype}")


def check_output_shapes(subject: Subject) -> None:
    """Outputs have the ONNX model's shapes, the batch axis included."""
    for what, spec, value in _each_output(subject):
        if np.shape(value) != spec.shape:
            raise Violation(f"{what} has shape {np.shape(value)}, not {spec.shape}")


def _check_values(subject: Subject, kit: KitModel) -> None:
    for seed in (1, 2):
        outputs = subject.fresh(kit, seed)
        share, name = _distance(outputs, kit.answer(kit.feeds(seed)))
        if share > TOLERANCE:
            raise Violation(
                f"model {kit.name!r}, seed {seed}: output {name!r} is off by {share:.2g} of its scale "
                f"(allowed {TOLERANCE:g})"
            )


def check_values_mlp(subject: Subject) -> None:
    """The answers of a small dense network are right within 1e-3 of their scale."""
    _check_values(subject, MLP)


def check_values_conv(subject: Subject) -> None:
    """The answers of a padded convolution are right within 1e-3 of their scale."""
    _check_values(subject, CONV)


def check_values_two_inputs(subject: Subject) -> None:
    """Two inputs and two outputs are matched by name: their answers are right, and would change if swapped."""
    _check_values(subject, TWO_INPUTS)
    with subject.session(TWO_INPUTS) as session:
        feeds = TWO_INPUTS.feeds(1)
        backwards = {name: feeds[name] for name in reversed(feeds)}
        outputs = session.run(backwards)
    _require_same(outputs, subject.fresh(TWO_INPUTS, 1), "the order of the feeds' names changes the answer")


def check_values_batch(subject: Subject) -> None:
    """A batch of two gives both answers, each right within 1e-3 of their scale."""
    _check_values(subject, BATCH)


def check_values_flatten(subject: Subject) -> None:
    """A model that only changes the shape gives its input back, element by element."""
    _check_values(subject, FLATTEN)


def check_feeds_unchanged(subject: Subject) -> None:
    """`run` leaves its feeds as they were."""
    kit = subject.working()
    feeds = kit.feeds(1)
    with subject.session(kit) as session:
        session.run(feeds)
    for name, value in kit.feeds(1).items():
        if not np.array_equal(feeds[name], value):
            raise Violation(f"run changed its feed {name!r}")


def check_outputs_survive(subject: Subject) -> None:
    """Outputs belong to the caller: the next run and closing the session do not change them."""
    kit = subject.working()
    with subject.session(kit) as session:
        outputs = session.run(kit.feeds(1))
        kept = _copied(outputs)
        session.run(kit.feeds(2))
        _require_equal(outputs, kept, "the next run changed it")
    _require_equal(outputs, kept, "closing the session changed it")


def _require_equal(outputs: Outputs, kept: Outputs, what: str) -> None:
    for name, value in kept.items():
        if isinstance(value, np.ndarray) and not np.array_equal(np.asarray(outputs[name]), value, equal_nan=True):
            raise Violation(f"output {name!r} is not the caller's own: {what}")


def check_outputs_writable(subject: Subject) -> None:
    """Outputs belong to the caller: writing into them is allowed and changes no later result."""
    kit = subject.working()
    with subject.session(kit) as session:
        outputs = session.run(kit.feeds(1))
        kept = _copied(outputs)
        for name, value in outputs.items():
            if isinstance(value, np.ndarray):
                if not value.flags.writeable:
                    raise Violation(f"output {name!r} is read-only")
                value.fill(-77)
        _require_same(session.run(kit.feeds(1)), kept, "writing into outputs changed a later result")


def check_outputs_are_not_feeds(subject: Subject) -> None:
    """Outputs share no memory with the feeds, even where the model only passes them on."""
    feeds = FLATTEN.feeds(1)
    with subject.session(FLATTEN) as session:
        outputs = session.run(feeds)
        for name, value in outputs.items():
            if isinstance(value, np.ndarray) and any(np.may_share_memory(value, feed) for feed in feeds.values()):
                raise Violation(f"output {name!r} is the feed's own memory")


def check_second_input(subject: Subject) -> None:
    """A second, different input gives its own answer: nothing of the first is left."""
    kit = subject.working()
    with subject.session(kit) as session:
        first = _copied(session.run(kit.feeds(1)))
        second = _copied(session.run(kit.feeds(2)))
    if _distance(second, {name: value for name, value in first.items() if value is not None})[0] <= TOLERANCE:
        raise Violation(f"model {kit.name!r}: two different inputs gave the same outputs")
    _require_same(second, subject.fresh(kit, 2), "the second input of a session gets another answer than in a new one")


def check_repeatable(subject: Subject) -> None:
    """The same input gives the same answer, whatever ran in between."""
    kit = subject.working()
    with subject.session(kit) as session:
        first = _copied(session.run(kit.feeds(1)))
        for seed in (2, 3, 2):
            session.run(kit.feeds(seed))
        _require_same(session.run(kit.feeds(1)), first, "the same input gives another answer after four runs")


def check_two_sessions(subject: Subject) -> None:
    """Two sessions alive at once do not disturb each other, nor does closing one."""
    kit = subject.working()
    alone = subject.fresh(kit, 2)
    with subject.session(kit) as one:
        first = _copied(one.run(kit.feeds(1)))
        with subject.session(kit) as other:
            _require_same(other.run(kit.feeds(2)), alone, "a second session answers differently from one alone")
        _require_same(one.run(kit.feeds(1)), first, "a second session changed the answers of the first")


def check_two_threads(subject: Subject) -> None:
    """`threads=2` gives the same answers as one thread, from the same artefact."""
    kit = subject.working()
    with subject.session(kit, threads=2) as session:
        outputs = session.run(kit.feeds(1))
    _require_same(outputs, subject.fresh(kit, 1), "threads=2 answers differently")


def check_close_twice(subject: Subject) -> None:
    """Closing a session again does nothing."""
    with subject.session(subject.working()) as session:
        session.close()
        try:
            session.close()
        except Exception as error:
            raise Violation(f"the second close raised {type(error).__name__}: {error}") from error


def check_context_manager(subject: Subject) -> None:
    """A session is a context manager that gives itself and closes at the end."""
    kit = subject.working()
    session = subject.backend().load(subject.artifact(kit), subject.options())
    kind, closed = type(session), []
    own = kind.close

    def counted(self: Session) -> None:
        closed.append(self)
        own(self)

    inherited = "close" not in vars(kind)
    kind.close = counted  # type: ignore[method-assign]
    try:
        with session as entered:
            if entered is not session:
                raise Violation(f"entering the session gave {type(entered).__name__}, not the session itself")
    finally:
        if inherited:
            del kind.close
        else:
            kind.close = own  # type: ignore[method-assign]
        if session not in closed:
            session.close()
    if session not in closed:
        raise Violation("leaving the session's with-block did not close it")


def check_placement(subject: Subject) -> None:
    """After a run, `placement` names a device that the probe lists, a precision, and nodes as counts or None."""
    kit = subject.working()
    with subject.session(kit) as session:
        session.run(kit.feeds(1))
        placement = session.placement()
    devices = subject.backend().probe().devices
    if not isinstance(placement, Placement) or not placement.precision:
        raise Violation(f"placement is incomplete: {placement!r}")
    if placement.device not in devices:
        raise Violation(f"placement names the device {placement.device!r}; the probe lists {', '.join(devices)}")
    if placement.nodes is not None and not all(type(count) is int and count >= 0 for count in placement.nodes.values()):
        raise Violation(f"placement's node counts are not counts: {dict(placement.nodes)}")


def _measured(subject: Subject) -> tuple[KitModel, Samples, float]:
    """What the session's own `measure` gives, and the nanoseconds it took by this process's clock."""
    kit = subject.working()
    plan = Plan(min_count=5, min_s=0.0, max_s=10.0, warmup_min_count=1, warmup_min_s=0.0, warmup_max_s=1.0)
    with subject.session(kit) as session:
        if type(session).measure is Session.measure:
            raise Skip("the session leaves timing to the harness")
        start_ns = time.perf_counter_ns()
        samples = session.measure([kit.feeds(1), kit.feeds(2)], plan)
        wall_ns = time.perf_counter_ns() - start_ns
    if samples is None:
        raise Skip("the session leaves timing to the harness")
    return kit, samples, wall_ns


def check_measure_samples(subject: Subject) -> None:
    """The samples of an own `measure` are positive integer nanoseconds, as many as planned, with scope and clock."""
    _, samples, _ = _measured(subject)
    if not samples.series:
        raise Violation("measure returned no series")
    for series in samples.series:
        if series.scope not in get_args(Scope) or series.clock not in get_args(Clock):
            raise Violation(f"measure names the scope {series.scope!r} and the clock {series.clock!r}")
        values = np.asarray(series.samples_ns)
        if values.ndim != 1 or not np.issubdtype(values.dtype, np.integer):
            raise Violation(f"{series.scope} samples are {values.dtype} of shape {values.shape}, not a row of integers")
        if len(values) < 5 or values.min() <= 0:
            raise Violation(f"{series.scope} samples: {len(values)} of them for a plan of 5, or one is not positive")


def check_measure_fits(subject: Subject) -> None:
    """The samples of an own `measure` fit into the time that it took."""
    _, samples, wall_ns = _measured(subject)
    for series in samples.series:
        total_ns = int(np.sum(series.samples_ns))
        if total_ns > wall_ns:
            raise Violation(
                f"{series.scope} samples add up to {total_ns} ns, but measure returned after {wall_ns:.0f} ns"
            )


def check_measure_outputs(subject: Subject) -> None:
    """An own `measure` leaves the outputs of its last inference, and the index of the feed that made them."""
    kit, samples, _ = _measured(subject)
    if samples.feed_index not in (0, 1):
        raise Violation(f"measure names the feed {samples.feed_index!r} of two")
    wanted = subject.fresh(kit, samples.feed_index + 1)
    _require_same(samples.outputs, wanted, f"measure's outputs are not those of feed {samples.feed_index}")


# --- running them ----------------------------------------------------------------------------------------------------


def checks() -> tuple[Check, ...]:
    """Every check, in the order of this file."""
    found = {name[len("check_") :]: value for name, value in globals().items() if name.startswith("check_")}
    del found["backend"]
    return tuple(Check(name, (inspect.getdoc(value) or "").strip(), value) for name, value in found.items())


def _named(name: str) -> Check:
    for check in checks():
        if check.name == name:
            return check
    raise UsageError(f"there is no check {name!r}", f"there are {', '.join(check.name for check in checks())}")


def run_check(subject: Subject, name: str) -> Outcome:
    """The outcome of one check, in this process.

    Raises:
        UsageError: there is no such check.
    """
    check = _named(name)
    try:
        check.run(subject)
    except Skip as reason:
        return Outcome(check.name, check.rule, "skipped", str(reason))
    except Violation as violation:
        return Outcome(check.name, check.rule, "failed", str(violation))
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a backend does wrong is an outcome
        where = traceback.extract_tb(error.__traceback__)[-1]
        message = f"raised {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return Outcome(check.name, check.rule, "failed", message)
    return Outcome(check.name, check.rule, "passed")


def check_backend(
    backend_class: type[Backend],
    workdir: Path,
    *,
    tool_path: Callable[[str], Path] = _no_tools,
    extra: Mapping[str, OptionValue] | None = None,
) -> tuple[Outcome, ...]:
    """The outcomes of all checks, in this process: a crash of the runtime ends it. See `isolated_checks`."""
    subject = Subject(backend_class, workdir, tool_path=tool_path, extra=extra)
    return tuple(run_check(subject, check.name) for check in checks())


def isolated(
    spec: str,
    check: str,
    *,
    workdir: Path,
    tools: Mapping[str, Path] | None = None,
    limit_s: float = 120.0,
    extra: Mapping[str, OptionValue] | None = None,
) -> Outcome:
    """The outcome of one check on the backend `MODULE:CLASS`, in a process of its own; dying or hanging is failing."""
    return next(isolated_checks(spec, [check], workdir=workdir, tools=tools, limit_s=limit_s, extra=extra))


def isolated_checks(
    spec: str,
    names: Sequence[str],
    *,
    workdir: Path,
    tools: Mapping[str, Path] | None = None,
    limit_s: float = 120.0,
    extra: Mapping[str, OptionValue] | None = None,
) -> Iterator[Outcome]:
    """The outcomes of several checks in as few processes as they survive: after a death the next check gets a new one.

    `limit_s` is for each check, and a process gets it once more to start.
    """
    left = [_named(name) for name in names]
    arguments = ["--workdir", str(workdir), "--option", json.dumps(dict(extra or {}))]
    for name, path in (tools or {}).items():
        arguments += ["--tool", f"{name}={path}"]
    while left:
        argv = [sys.executable, "-I", "-c", _CHILD_SCRIPT, json.dumps(sys.path), spec]
        code, output, errors = _run_group(
            [*argv, *(check.name for check in left), *arguments], limit_s, restart_limit_on_line=True
        )
        done = [Outcome(**json.loads(line)) for line in output.splitlines() if line.startswith(b"{")]
        yield from done
        left = left[len(done) :]
        if left:
            check = left.pop(0)
            yield Outcome(check.name, check.rule, "failed", _death(code, errors, limit_s))


_CHILD_SCRIPT = """
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from bench.conformance import main
raise SystemExit(main())
"""


def _death(code: int | None, errors: bytes, limit_s: float) -> str:
    if code is None:
        return f"did not end within {limit_s:g} s"
    if code < 0:
        return f"died by {_signal_name(code)}"
    return f"the process ended by itself with code {code}: {_last_line(errors)}"


def _signal_name(code: int) -> str:
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _last_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[-1].strip() if lines else "(it printed nothing)"


def _run_group(
    argv: list[str],
    limit_s: float,
    *,
    cwd: Path | None = None,
    merged: bool = False,
    restart_limit_on_line: bool = False,
) -> tuple[int | None, bytes, bytes]:
    """Run a program in a group of its own: exit code (None: out of time), standard output and standard error.

    Both go to files, so that neither a full pipe nor a grandchild that keeps it open can stall the end.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if merged else errors,
            cwd=cwd,
            start_new_session=True,
        )
        size, until = 0, time.monotonic() + limit_s
        try:
            while process.poll() is None and time.monotonic() < until:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0.02)
                grown = os.fstat(output.fileno()).st_size
                if restart_limit_on_line and grown > size:
                    size, until = grown, time.monotonic() + limit_s
            code = process.poll()
        finally:
            # The whole group, ended or not: what a tool left behind must not outlive it.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        errors.seek(0)
        return code, output.read(), errors.read()


def resolve(spec: str) -> type[Backend]:
    """The class that `MODULE:CLASS` names.

    Raises:
        UsageError: there is none, or it is not a Backend.
    """
    module, _, name = spec.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{spec!r} names no class: {error}", "write it as MODULE:CLASS") from error
    if not (isinstance(found, type) and issubclass(found, Backend)):
        raise UsageError(f"{spec} is not a subclass of bench.interface.Backend")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Print the outcome of each check named, one JSON object per line."""
    parser = argparse.ArgumentParser(prog="python -m bench.conformance", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("spec", metavar="MODULE:CLASS", help="the backend")
    parser.add_argument("check", nargs="+", help="names of checks")
    parser.add_argument("--workdir", type=Path, required=True, help="a folder to write into")
    parser.add_argument("--tool", action="append", default=[], metavar="NAME=PATH", help="where a declared tool is")
    parser.add_argument("--option", type=json.loads, default={}, metavar="JSON", help="the backend's options to set")
    given = parser.parse_args(argv)
    tools = dict(entry.partition("=")[::2] for entry in given.tool)

    def tool_path(name: str) -> Path:
        return Path(tools[name]) if name in tools else _no_tools(name)

    # Runtimes print to file descriptor 1: it goes to standard error, and the outcomes to where it pointed before.
    with os.fdopen(os.dup(1), "w") as report:
        os.dup2(2, 1)
        try:
            subject = Subject(resolve(given.spec), given.workdir, tool_path=tool_path, extra=given.option)
            for name in given.check:
                print(json.dumps(asdict(run_check(subject, name))), file=report, flush=True)
        except BenchError as error:
            parser.exit(2, f"{error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
