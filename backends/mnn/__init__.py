"""MNN, on the CPU: `converter` (a program) makes the .mnn file on the host, `session` runs it.

Source: MNN 3.6.1, measured on x86-64, November 2026.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from backends.mnn.convert import convert
from backends.mnn.session import MnnSession, precisions
from bench.errors import BackendUnavailable, UsageError
from bench.interface import Artifact, Backend, Model, Option, Options, OptionValue, Probe, Session, Target, Tools


class Mnn(Backend):
    """MNN on the CPU, through its session interface: the newer Module holds Python's lock while it computes."""

    name = "mnn"
    distributions = ("MNN",)
    install = 'pip install "deploybench[mnn]"'
    prepares = "host"
    alone = "backends.mnn.alone"
    options: ClassVar[tuple[Option, ...]] = (
        Option("memory", "trade memory against speed", "normal", choices=("low", "normal", "high")),
        Option(
            "power",
            "which cores the threads prefer, on machines with several kinds",
            "normal",
            choices=("low", "normal", "high"),
        ),
        Option(
            "winograd",
            "level of Winograd convolutions: 3, MNN's own, is fastest; 0 to 2 are a hundred times more exact",
            "3",
            choices=("0", "1", "2", "3"),
        ),
    )

    def probe(self) -> Probe:
        try:
            import MNN
        except ImportError as error:
            return Probe(False, reason=f"MNN cannot be imported: {error}", remedy=self.install)
        version = str(MNN.version())
        return Probe(True, version, devices=("cpu",), precisions=precisions(), runtimes={"MNN": version})

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        if not _version():
            raise BackendUnavailable("MNN, which carries the converter, is not installed", self.install)
        return convert(model, workdir, tools)

    def prepare_key(self, model: Model, options: Options, target: Target) -> Mapping[str, OptionValue]:
        return {"MNN": _version()}

    def load(self, artifact: Artifact, options: Options) -> Session:
        known = precisions()
        if options.precision not in known:
            hint = "on this CPU MNN computes in float32, whatever is asked" if "fp16" not in known else ""
            raise UsageError(f"mnn has no precision {options.precision!r} here; it knows {', '.join(known)}", hint)
        return MnnSession(artifact, options, _runtime(self.install))

    def runtime_wheels(self, target: Target) -> tuple[str, ...]:
        return ("MNN==3.6.1",)


def _version() -> str:
    """The installed MNN's, without importing it; empty where there is none."""
    from importlib import metadata  # 15 ms: a process that measures would wait for it, and asks MNN itself

    try:
        return metadata.version("MNN")
    except metadata.PackageNotFoundError:
        return ""


def _runtime(install: str) -> Any:
    try:
        import MNN
    except ImportError as error:
        raise BackendUnavailable(f"MNN cannot be imported: {error}", install) from error
    return MNN
