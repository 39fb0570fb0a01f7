"""Rules about what a backend says of itself, before any model is in sight."""

from __future__ import annotations

import inspect
import json
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from bench.conformance.kit import Skip, Subject, Violation
from bench.conformance.models import MLP
from bench.conformance.processes import TOOL_LIMIT_S, last_line, run
from bench.errors import BackendUnavailable
from bench.interface import Option, OptionValue, Probe, Target

HARNESS_OPTIONS = frozenset({"threads", "precision", "cpus"})


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
    done = run([sys.executable, "-I", "-c", _IMPORT_SCRIPT, *arguments], TOOL_LIMIT_S)
    if done.code != 0:
        how = "did not end" if done.code is None else f"ended with code {done.code}"
        raise Violation(f"importing {found.__module__} in a fresh process {how}: {last_line(done.errors)}")
    loaded = json.loads(done.output.splitlines()[-1])
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


def check_flags(subject: Subject) -> None:
    """`opt_in`, `dynamic` and `local_only` are True or False."""
    for name in ("opt_in", "dynamic", "local_only"):
        value = getattr(subject.backend_class, name)
        if not isinstance(value, bool):
            raise Violation(f"{name} is {value!r}, not True or False")


def check_distributions(subject: Subject) -> None:
    """`distributions` is a tuple of names, and where the runtime is available, one of them at least is installed."""
    names = subject.backend_class.distributions
    if not isinstance(names, tuple) or not all(isinstance(name, str) and name for name in names):
        raise Violation(f"distributions is {names!r}, not a tuple of names: ('onnxruntime',), with its comma")
    if names and subject.backend().probe().available and not any(map(_is_installed, names)):
        raise Violation(f"the runtime is available, but none of the distributions {', '.join(names)} is installed")


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


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
        if option.kind not in _KINDS:
            raise Violation(f"option {option.name!r} is of the unknown kind {option.kind!r}")
        if option.default is not None:
            _require_default(option)


def _require_default(option: Option) -> None:
    # To Python a bool is an int.
    stray_bool = isinstance(option.default, bool) and option.kind != "bool"
    if stray_bool or not isinstance(option.default, _KINDS[option.kind]):
        raise Violation(f"option {option.name!r} is of kind {option.kind}, but its default is {option.default!r}")
    if option.choices and option.default not in option.choices:
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
    artifact = model.as_it_is
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

    def key(threads: int) -> dict[str, OptionValue]:
        return dict(subject.backend().prepare_key(model, subject.options(threads=threads), target))

    first = key(1)
    require_json(first, "prepare_key")
    if (again := key(1)) != first:
        raise Violation(f"prepare_key differs between two equal calls: {first}, then {again}")
    if (with_four := key(4)) != first:
        raise Violation(f"prepare_key depends on the thread count: {first} with 1, {with_four} with 4")


def require_json(value: Any, what: str) -> None:
    """A value that JSON gives back as it was.

    Raises:
        Violation: it does not; `what` begins its message.
    """
    try:
        back = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise Violation(f"{what} is not JSON: {error}") from error
    if back != value:
        raise Violation(f"{what} does not survive JSON: {value!r} comes back as {back!r}")
