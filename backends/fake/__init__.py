"""`fake`: a null device, for trying and testing the harness without any runtime.

It really computes a small set of ONNX operators (numpy), takes as long as it is told, and fails in every way that a
runtime has been seen to fail: see `faults.py`. Latency and faults are options, so a device that lies costs no code.
"""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path

from bench.errors import BackendUnavailable, UsageError
from bench.interface import Artifact, Backend, Model, Option, Options, OptionValue, Probe, Session, Target, Tools

from .faults import FAULTS, PHASES, Settings, strike
from .program import FILES, FORMAT, interpreter, read, translate, write
from .session import FakeSession

PRECISIONS = ("model", "fp16")
_DEFAULTS = {field.name: field.default for field in fields(Settings)}


def _option(name: str, help: str, *choices: str, artefact: bool = False) -> Option:
    default = _DEFAULTS[name]
    kind = "str" if isinstance(default, str) else "float" if isinstance(default, float) else "int"
    return Option(name, help, default, kind, choices, artefact)  # type: ignore[arg-type]  # the words are Option's own


class Fake(Backend):
    """The null device."""

    name = "fake"
    opt_in = True
    prepares = "host"
    reference = None
    # A long latency is a sleep, which releases Python's lock; a short one is a spin, which does not.
    concurrency = "threads"
    dynamic = True
    options = (
        _option("latency_us", "a run lasts at least this many microseconds"),
        _option("jitter", "each run lasts up to this share longer (uniform, the same every time)"),
        _option("new_shape_us", "the first run of an input shape lasts this many microseconds longer"),
        _option("error", "shift every float output by this share of its largest magnitude"),
        _option("clock", "who takes the time: the harness, or the session's own measure", "host", "device"),
        # The two below decide whether prepare works at all: a cached artefact must not hide a fault.
        _option("fault", "what goes wrong (backends/README.md has the list)", *FAULTS, artefact=True),
        _option("fault_at", "the phase in which a fatal fault strikes", *PHASES, artefact=True),
        _option("fault_after", "good runs before a fault at `measure`, and before fault=drift"),
        _option("leak_mib", "MiB that fault=leak keeps at every run"),
        _option("slow_load_s", "seconds that fault=slow_load adds to load"),
    )

    def probe(self) -> Probe:
        return Probe(True, str(FORMAT), ("cpu",), PRECISIONS)

    def prepare_key(self, model: Model, options: Options, target: Target) -> dict[str, OptionValue]:
        return {"format": FORMAT}

    def prepare(self, model: Model, options: Options, workdir: Path, tools: Tools) -> Artifact:
        settings = _checked(options)
        strike(settings, "prepare")
        try:
            program = translate(model.path)
        except ModuleNotFoundError as error:
            raise BackendUnavailable("fake translates models with onnx: not installed", "pip install onnx") from error
        write(program, workdir, noise=os.urandom(8).hex() if settings.fault == "restless" else "")
        return Artifact(workdir, FILES, model.signature)

    def load(self, artifact: Artifact, options: Options) -> Session:
        settings = _checked(options)
        strike(settings, "import")  # where another backend would import its runtime
        program = read(artifact.root)
        run = interpreter(program, tuple(value.name for value in artifact.signature.inputs))
        strike(settings, "load")
        return FakeSession(run, settings, precision=options.precision, steps=len(program.steps))


def _checked(options: Options) -> Settings:
    if options.precision not in PRECISIONS:
        raise UsageError(f"fake has no precision {options.precision!r}", f"it has {', '.join(PRECISIONS)}")
    return Settings.of(options.extra)
