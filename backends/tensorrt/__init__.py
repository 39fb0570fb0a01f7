"""TensorRT 10 and 11, and TensorRT-RTX: engines are built where they run (`build`), cached, and run (`session`).

What decides an engine is in its cache key: the model, the options marked so, TensorRT, the driver, and the GPU. An
engine remembers what it was made for, and is refused elsewhere.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

from backends.tensorrt import build, device, profiles, progress, rewrite, runtime
from backends.tensorrt.session import EngineSession
from bench import cuda_driver
from bench.errors import BackendUnavailable, LoadError, UsageError
from bench.interface import Artifact, Backend, Model, Option, Options, Probe, Session, Tools

ENGINE, TIMINGS = "model.engine", "timing.cache"
PRECISIONS = ("model", "tf32", "fp16", "bf16")


class TensorRt(Backend):
    """TensorRT on an NVIDIA GPU."""

    name = "tensorrt"
    distributions = tuple(name for names in runtime.PACKAGES.values() for name in names)
    install = runtime.INSTALL
    prepares = "device"
    dynamic = True
    options: ClassVar[tuple[Option, ...]] = (
        Option("profile", "shapes that it takes: INPUT or SYMBOL=LEAST:USUAL:MOST, joined by ;", "", artefact=True),
        Option("builder_level", "0 to 5: how long the builder looks for fast kernels", 3, kind="int", artefact=True),
        Option("workspace_mib", "memory that a kernel may take while it runs; 0: all there is", 0, kind="int",
               artefact=True),
        Option("timing_cache", "timings of an earlier build (timing.cache of an exported engine)", None, kind="file",
               artefact=True),
        Option("plugins", "a library of plugins", None, kind="file", artefact=True),
        Option("capability", "TensorRT-RTX only: GPUs to build for, as SM80+SM89 or CURRENT", "", artefact=True),
        Option("build", "which of several builds of the same engine: builders choose by timing", 0, kind="int",
               artefact=True),
        Option("gpu", "which GPU, as CUDA numbers them", 0, kind="int", artefact=True),
        Option("cuda_graph", "record the kernels once and launch them together", False, kind="bool"),
        Option("memory", "the package for memory and streams", "auto", choices=("auto", "cuda-python", "pycuda")),
    )  # fmt: skip

    def probe(self) -> Probe:
        """Asks the driver first: TensorRT itself crashes, or says nothing of use, where there is none."""
        package = runtime.installed()
        if not package:
            reason = "neither tensorrt nor tensorrt_rtx is installed"
            try:
                cuda_driver.ask()
            except cuda_driver.NoGpu as why:
                reason = f"{why.reason}, and {reason}"
            return Probe(False, reason=reason, remedy=self.install)
        version = runtime.version(package)
        facts = {package.replace("_", "-"): version}
        try:
            driver = cuda_driver.ask()
        except cuda_driver.NoGpu as why:
            # TensorRT-RTX builds engines for kinds of GPUs, and needs none to do it.
            builds = package == "tensorrt_rtx"
            return Probe(False, version, (), PRECISIONS, why.reason, why.remedy, facts, builds=builds)
        facts |= {"cuda driver": driver.cuda, "gpu": "; ".join(dict.fromkeys(gpu.words for gpu in driver.gpus))}
        facts |= {"nvidia driver": driver.version} if driver.version else {}
        if not device.found():
            reason = "neither cuda-python nor pycuda is installed"
            return Probe(False, version, (), PRECISIONS, reason, device.INSTALL, facts, builds=True)
        try:
            runtime.require()
        except BackendUnavailable as error:
            return Probe(False, version, (), PRECISIONS, error.message, error.hint, facts)
        return Probe(True, version, tuple(f"cuda:{gpu.index}" for gpu in driver.gpus), PRECISIONS, runtimes=facts)

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        _known(options.precision)
        trt, extra = runtime.require(), options.extra
        begin = time.perf_counter()
        path = _source(model, options, workdir)
        monitor = progress.monitor(trt, progress.Progress(tools.say))
        with _at_hand(trt, options):
            built = build.build(trt, path, model.signature, extra, tf32=options.precision == "tf32", monitor=monitor)
        (workdir / ENGINE).write_bytes(built.engine)
        files: tuple[str, ...] = (ENGINE,)
        if built.timing_cache:
            (workdir / TIMINGS).write_bytes(built.timing_cache)
            files += (TIMINGS,)
        meta = {
            "made_for": made_for(trt, int(extra["gpu"] or 0)),
            "build_s": round(time.perf_counter() - begin, 3),
            "profile": {name: asdict(range_) for name, range_ in built.ranges.items()},
        }
        return Artifact(workdir, files, model.signature, meta)

    @runtime.releasing
    def load(self, artifact: Artifact, options: Options) -> Session:
        _known(options.precision)
        try:
            cuda_driver.ask()
        except cuda_driver.NoGpu as why:
            raise BackendUnavailable(why.reason, why.remedy) from why
        trt = runtime.require()
        index = int(options.extra["gpu"] or 0)
        _refuse_foreign(artifact.meta.get("made_for", {}), made_for(trt, index))
        memory = device.open_device(index, str(options.extra["memory"]))
        try:
            engine, kept = _engine(trt, artifact, options)
            place = f"cuda:{index}", options.precision
            graph = bool(options.extra["cuda_graph"])
            return EngineSession(trt, engine, memory, artifact.signature, place=place, graph=graph, kept=kept)
        except BaseException:
            memory.close()
            raise


@contextmanager
def _at_hand(trt: Any, options: Options) -> Iterator[None]:
    """The GPU that was asked for, as the one that TensorRT builds for. TensorRT-RTX asks none."""
    if runtime.is_rtx(trt):
        yield
        return
    memory = device.open_device(int(options.extra["gpu"] or 0), str(options.extra["memory"]))
    try:
        yield
    finally:
        memory.close()


def _known(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"tensorrt has no precision {precision!r}; it knows {', '.join(PRECISIONS)}")


def _source(model: Model, options: Options, workdir: Path) -> Path:
    """The ONNX file to build from: the model's own, or one with another precision or with dimensions opened."""
    given = profiles.parse(str(options.extra.get("profile") or ""))
    fixed = {spec.name: spec.shape for spec in model.signature.inputs if spec.shape and None not in spec.shape}
    opened = {n: given[n].open_shape() for n in fixed if n in given and len(fixed[n]) == len(given[n].least)}
    opened = {name: shape for name, shape in opened.items() if -1 in shape}
    if options.precision not in rewrite.LOWER and not opened:
        return model.path
    return rewrite.write(model.path, workdir, options.precision, opened)


def made_for(trt: Any, index: int) -> dict[str, str]:
    """What an engine built here is good for. TensorRT-RTX's are for kinds of GPUs, TensorRT's for this very one."""
    found = {"package": str(trt.__name__), "version": str(trt.__version__)}
    if runtime.is_rtx(trt):
        return found
    gpus = cuda_driver.ask().gpus
    if index not in range(len(gpus)):
        raise UsageError(f"there is no GPU {index}", f"there are {len(gpus)}, counted from 0")
    return {**found, "gpu": gpus[index].words}


def _refuse_foreign(made: Mapping[str, str], here: Mapping[str, str]) -> None:
    for what, value in here.items():
        if made.get(what) != value:
            message = f"the engine was built for {what} {made.get(what, 'unknown')!r}, and here is {value!r}"
            raise LoadError(message, "an engine is good where it was built: prepare it here")


def _engine(trt: Any, artifact: Artifact, options: Options) -> tuple[Any, Any]:
    """The engine, and what must live as long as it does."""
    log = runtime.log(trt)
    build.load_plugins(trt, log, options.extra.get("plugins"))
    try:
        made = trt.Runtime(log)
    except TypeError as error:  # its factory gave nothing, and only the log says why
        raise BackendUnavailable(
            f"TensorRT's runtime cannot start: {log.errors() or error}", "see nvidia-smi"
        ) from error
    try:
        data = artifact.path.read_bytes()
    except OSError as error:
        raise LoadError(f"the engine {artifact.files[0]} cannot be read: {error.strerror}") from error
    engine = made.deserialize_cuda_engine(data)
    if engine is None:
        raise LoadError(f"TensorRT refused the engine: {log.errors() or 'it does not say why'}", "prepare it again")
    return engine, (made, log)
