"""ncnn: pnnx converts on the host (`convert`), ncnn runs what came out on the CPU (`session`) or a GPU (`vulkan`).

Source: ncnn 1.0.20261020 and pnnx 20261020, measured on x86-64, November 2026.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from backends.ncnn import vulkan
from backends.ncnn.convert import convert
from backends.ncnn.session import PRECISIONS, NcnnSession
from bench.errors import BackendUnavailable, UsageError
from bench.interface import Artifact, Backend, Model, Option, Options, Probe, Session, Target, Tool, Tools


class Ncnn(Backend):
    """ncnn on the CPU. Float32 in and out; integers only as indices into an embedding."""

    name = "ncnn"
    distributions = ("ncnn",)
    install = 'pip install "deploybench[ncnn]"'
    prepares = "host"
    alone = "backends.ncnn.alone"
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    options: ClassVar[tuple[Option, ...]] = (
        Option("winograd", "Winograd convolutions", True, kind="bool"),
        Option("sgemm", "convolutions as matrix products", True, kind="bool"),
        Option("packing_layout", "channels packed for SIMD", True, kind="bool"),
        Option("light_mode", "free each intermediate once it is used", True, kind="bool"),
        Option("openmp_blocktime", "milliseconds that idle threads spin", 20, kind="int"),
    )
    tools: ClassVar[tuple[Tool, ...]] = (
        Tool(
            name="pnnx",
            requirement="pnnx==20261020",
            binary="pnnx/pnnx",
            sha256=(
                "d50d921e5897293d616444191c1a2dc5366423c81bdb4bd22a985fe8071cf17c",  # manylinux_2_17 x86_64
                "13727adb291bf8061a4cc95c8b911ff2459b406144ad3c86e755b6e3f8953427",  # manylinux_2_17 aarch64
            ),
        ),
    )

    def probe(self) -> Probe:
        try:
            import ncnn
        except ImportError as error:
            return Probe(False, reason=f"ncnn cannot be imported: {error}", remedy=self.install)
        version = str(ncnn.__version__)
        return Probe(True, version, devices=("cpu",), precisions=self.precisions, runtimes={"ncnn": version})

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        return convert(model, workdir, tools)

    def load(self, artifact: Artifact, options: Options) -> Session:
        if options.precision not in self.precisions:
            known = ", ".join(self.precisions)
            raise UsageError(f"{self.name} has no precision {options.precision!r}; it knows {known}")
        return self.session(artifact, options, _runtime(self.install))

    def session(self, artifact: Artifact, options: Options, ncnn: Any) -> Session:
        """Where it runs."""
        return NcnnSession(artifact, options, ncnn, ncnn.Net())

    def runtime_wheels(self, target: Target) -> tuple[str, ...]:
        # The wheel also asks for requests, tqdm and portalocker; `import ncnn` needs none of them.
        return ("ncnn==1.0.20261020",)


class NcnnVulkan(Ncnn):
    """ncnn on a GPU, by Vulkan. A backend of its own, so that nobody who wants the CPU waits for a GPU's driver."""

    name = "ncnn-vulkan"
    alone = ""
    opt_in = True  # where Mesa is, there is a device, and it may be the CPU
    precisions = vulkan.PRECISIONS
    options: ClassVar[tuple[Option, ...]] = (
        *Ncnn.options,
        Option("gpu", "which GPU, as ncnn numbers them", 0, kind="int"),
        Option("cpu_nodes", "which layers may run on the CPU", "none", choices=("none", "any")),
    )

    def probe(self) -> Probe:
        found = super().probe()
        if not found.available:
            return found
        try:
            with vulkan.gpus(_runtime(self.install)) as there:
                devices = tuple(f"vulkan:{gpu.index}" for gpu in there)
                words = "; ".join(gpu.words for gpu in there)
        except BackendUnavailable as error:
            return Probe(False, found.version, reason=error.message, remedy=error.hint)
        return replace(found, devices=devices, runtimes={**found.runtimes, "gpu": words})

    def session(self, artifact: Artifact, options: Options, ncnn: Any) -> Session:
        return vulkan.VulkanSession(artifact, options, ncnn)


def _runtime(install: str) -> Any:
    try:
        import ncnn
    except ImportError as error:
        raise BackendUnavailable(f"ncnn cannot be imported: {error}", install) from error
    return ncnn
