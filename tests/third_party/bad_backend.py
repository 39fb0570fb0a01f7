"""Backends that each break one rule of the interface, and `BREAKS`: the checks of the kit that must notice, no others.

Most are the fake device with one method replaced; the rest are the fake with one of its own faults switched on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from backends.fake import Fake
from bench.errors import BenchError, LoadError
from bench.interface import Artifact, Option, Placement, Probe, Samples, Series, Session, Signature


class Wrapped(Session):
    """A session that passes everything on, for the bad ones to override."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner
        self.runs = 0

    def run(self, feeds):
        self.runs += 1
        return self.changed(self.inner.run(feeds), feeds)

    def changed(self, outputs, feeds):
        return outputs

    def placement(self):
        return self.inner.placement()


class Base(Fake):
    session: Any = Wrapped

    def load(self, artifact, options):
        return self.session(super().load(artifact, options))


def with_fault(fault: str, **extra: Any) -> Any:
    """The fake whose options say, by default, that this fault is on."""
    defaults = {"fault": fault, **extra}
    return tuple(replace(each, default=defaults.get(each.name, each.default)) for each in Fake.options)


# --- declarations


class BadName(Fake):
    name = "Fake_2"


class HeavyImport(Fake):
    def __init__(self) -> None:
        import onnx  # noqa: F401


class WantsArguments(Fake):
    """Constructed with an argument in its signature; it forgives its absence, so that the other checks can run."""

    def __init__(self, *arguments: Any) -> None: ...

    __init__.__signature__ = __import__("inspect").signature(lambda self, device: None)


class BadConcurrency(Fake):
    concurrency = "fibers"


class FlagOfText(Fake):
    opt_in = "yes"


class DistributionsInOneText(Fake):
    distributions = "numpy"  # the comma of a tuple forgotten


class DistributionOfNobody(Fake):
    distributions = ("no-such-distribution",)


class OptionWithoutHelp(Fake):
    options = (*Fake.options[:-1], replace(Fake.options[-1], help=""))


class OptionOfWrongKind(Fake):
    options = (*Fake.options[:-1], replace(Fake.options[-1], kind="bool"))


class OptionTwice(Fake):
    options = (*Fake.options, Fake.options[0])


class OptionOfTheHarness(Fake):
    options = (*Fake.options, Option("threads", "how many", 1, "int"))

    def load(self, artifact, options):
        return super().load(artifact, replace(options, extra=_without(options)))

    def prepare(self, model, options, workdir, tools):
        return super().prepare(model, replace(options, extra=_without(options)), workdir, tools)


def _without(options):
    return {name: value for name, value in options.extra.items() if name != "threads"}


class ProbeWithoutVersion(Fake):
    def probe(self):
        return replace(super().probe(), version="")


class Absent(Fake):
    """Says that it is not there, without a remedy, and loads all the same."""

    def probe(self):
        return Probe(False, reason="no such chip")


class KeyOfThreads(Fake):
    def prepare_key(self, model, options, target):
        return {"threads": options.threads}


class KeyNotJson(Fake):
    def prepare_key(self, model, options, target):
        return {"digest": b"abc"}


# --- prepare and artefacts


class WritesBeside(Fake):
    def prepare(self, model, options, workdir, tools):
        (model.root / "model.sim.onnx").write_bytes(b"left behind")
        return super().prepare(model, options, workdir, tools)


class WritesIntoCurrentFolder(Fake):
    def prepare(self, model, options, workdir, tools):
        if Path.cwd().name.startswith("current-"):  # elsewhere it would litter the repository
            Path("converter.log").write_text("left behind")
        return super().prepare(model, options, workdir, tools)


class NameOfTheDay(Fake):
    def prepare(self, model, options, workdir, tools):
        made = super().prepare(model, options, workdir, tools)
        extra = f"{os.urandom(4).hex()}.txt"
        (workdir / extra).write_text("{}")
        return replace(made, files=(*made.files, extra))


class BytesOfTheDay(Fake):
    options = with_fault("restless")


class MetaNotJson(Fake):
    def prepare(self, model, options, workdir, tools):
        return replace(super().prepare(model, options, workdir, tools), meta={"sizes": (1, 2)})


class OtherSignature(Fake):
    def prepare(self, model, options, workdir, tools):
        made = super().prepare(model, options, workdir, tools)
        outputs = tuple(replace(value, shape=None) for value in made.signature.outputs)
        return replace(made, signature=Signature(made.signature.inputs, outputs))


class Rooted(Fake):
    """Remembers the absolute path that it was prepared in."""

    def prepare(self, model, options, workdir, tools):
        made = super().prepare(model, options, workdir, tools)
        return replace(made, meta={"root": str(workdir)})

    def load(self, artifact, options):
        # A copy that is damaged is noticed all the same, so only moving breaks.
        super().load(artifact, options)
        return super().load(Artifact(Path(artifact.meta["root"]), artifact.files, artifact.signature), options)


class SkipsUnknownOperators(Fake):
    """Says LoadError where it means UnsupportedModel."""

    def prepare(self, model, options, workdir, tools):
        try:
            return super().prepare(model, options, workdir, tools)
        except BenchError as error:
            if "unknown" in str(error):
                raise LoadError(str(error)) from error
            raise


class AnyPrecision(Fake):
    def prepare(self, model, options, workdir, tools):
        return super().prepare(model, replace(options, precision="model"), workdir, tools)

    def load(self, artifact, options):
        return super().load(artifact, replace(options, precision="model"))


class BareExceptions(Fake):
    def load(self, artifact, options):
        try:
            return super().load(artifact, options)
        except LoadError as error:
            raise json.JSONDecodeError("damaged", "", 0) from error


# --- sessions


class NotASession(Fake):
    def load(self, artifact, options):
        inner = super().load(artifact, options)
        members = ("run", "measure", "device_series", "placement", "close", "__enter__", "__exit__")
        return type("Duck", (), {name: _forward(inner, name) for name in members})()


def _forward(inner, name):
    if name == "__enter__":
        return lambda self: self
    if name == "__exit__":
        return lambda self, *exc: self.close()
    if name in ("measure", "device_series"):
        return getattr(Session, name)
    return lambda self, *arguments: getattr(inner, name)(*arguments)


class RunsNothing(Fake):
    options = with_fault("unsupported")


class Missing(Base):
    """Leaves out the second output of two."""

    class session(Wrapped):
        def changed(self, outputs, feeds):
            return dict(list(outputs.items())[:1])


class Reordered(Base):
    class session(Wrapped):
        def changed(self, outputs, feeds):
            return dict(reversed(outputs.items()))


class WrongDtype(Fake):
    options = with_fault("wrong_dtype")


class WrongShape(Fake):
    options = with_fault("wrong_shape")


class NotANumber(Fake):
    options = with_fault("nan")


class TenPercentOff(Fake):
    options = with_fault("none", error=0.1)


class SwappedInputs(Base):
    """Right where there is one input; with two, takes them for each other."""

    class session(Wrapped):
        def run(self, feeds):
            return self.inner.run(dict(zip(feeds, reversed(feeds.values()), strict=True)))


class SecondOfBatchLost(Base):
    class session(Wrapped):
        def changed(self, outputs, feeds):
            for value in outputs.values():
                value[1:] = value[:1]
            return outputs


class Mutates(Fake):
    options = with_fault("mutate_feeds")


class Shared(Fake):
    options = with_fault("shared_outputs")


class ReadOnly(Base):
    class session(Wrapped):
        def changed(self, outputs, feeds):
            for value in outputs.values():
                value.flags.writeable = False
            return outputs


class Memoizes(Base):
    class session(Wrapped):
        def run(self, feeds):
            key = b"".join(value.tobytes() for value in feeds.values())
            self.memory = getattr(self, "memory", {})
            return dict(self.memory.setdefault(key, self.inner.run(feeds)))


class HandsFeedsBack(Base):
    class session(Wrapped):
        def changed(self, outputs, feeds):
            alike = {value.tobytes(): value for value in feeds.values()}
            return {
                name: alike[value.tobytes()].reshape(value.shape) if value.tobytes() in alike else value
                for name, value in outputs.items()
            }


class Stale(Fake):
    options = with_fault("stale")


class Blind(Fake):
    options = with_fault("input_blind")


class Drifts(Fake):
    options = with_fault("drift", fault_after=3)


class SharedState(Base):
    """A second live session makes every answer wrong, as a global buffer would."""

    alive = 0

    class session(Wrapped):
        def __init__(self, inner):
            super().__init__(inner)
            SharedState.alive += 1

        def changed(self, outputs, feeds):
            if SharedState.alive > 1:
                return {name: value + 1 for name, value in outputs.items()}
            return outputs

        def close(self):
            if self.inner is not None:
                SharedState.alive -= 1
                self.inner = None


class RacesWithThreads(Base):
    def load(self, artifact, options):
        made = super().load(artifact, options)
        if options.threads > 1:
            made.changed = lambda outputs, feeds: {name: value * 2 for name, value in outputs.items()}
        return made


class ClosesOnce(Base):
    class session(Wrapped):
        closed = False

        def close(self):
            if self.closed:
                raise ValueError("already closed")
            self.closed = True


class LeavesOpen(Base):
    class session(Wrapped):
        def __exit__(self, *exc):
            return None


class ElsewherePlaced(Fake):
    options = with_fault("fallback")


class CountsNothing(Base):
    class session(Wrapped):
        def placement(self):
            return Placement("cpu", "model", {"fake": 1.5})


class Implausible(Fake):
    options = with_fault("implausible", clock="device")


class FloatSamples(Base):
    class session(Wrapped):
        def measure(self, feeds, plan):
            outputs = self.inner.run(feeds[0])
            return Samples((Series("compute", "device", np.full(5, 0.5)),), outputs, 0)


class OtherFeed(Base):
    class session(Wrapped):
        def measure(self, feeds, plan):
            outputs = self.inner.run(feeds[1])
            return Samples((Series("compute", "device", np.ones(5, np.int64)),), outputs, 0)


class ImplausibleInside(Base):
    class session(Wrapped):
        def device_series(self, feeds, plan):
            return (Series("compute", "device", np.full(5, 10**12)),)


class FloatsInside(Base):
    class session(Wrapped):
        def device_series(self, feeds, plan):
            return (Series("compute", "device", np.full(5, 0.5)),)


# --- those that only a process of their own survives


class Crashes(Fake):
    options = with_fault("crash")


class Hangs(Fake):
    options = with_fault("hang")


class Exits(Fake):
    options = with_fault("exit")


class CrashesAtClose(Base):
    class session(Wrapped):
        def close(self):
            os.kill(os.getpid(), signal.SIGABRT)


class HangsInProbe(Fake):
    def probe(self):
        while True:
            time.sleep(60)


class PrintsInProbe(Fake):
    def probe(self):
        os.write(1, b'{"name": "not an outcome"\n')
        sys.stdout.write("noise\n")
        return super().probe()


BREAKS: dict[type, set[str]] = {
    BadName: {"name"},
    HeavyImport: {"import_is_light"},
    WantsArguments: {"constructor"},
    BadConcurrency: {"declarations"},
    FlagOfText: {"flags"},
    DistributionsInOneText: {"distributions"},
    DistributionOfNobody: {"distributions"},
    OptionWithoutHelp: {"options"},
    OptionOfWrongKind: {"options"},
    OptionTwice: {"options"},
    OptionOfTheHarness: {"options"},
    ProbeWithoutVersion: {"probe"},
    Absent: {"probe", "unavailable"},
    KeyOfThreads: {"prepare_key"},
    KeyNotJson: {"prepare_key"},
    WritesBeside: {"prepare_stays_in_workdir"},
    WritesIntoCurrentFolder: {"prepare_stays_in_workdir"},
    NameOfTheDay: {"prepare_repeats"},
    BytesOfTheDay: {"prepare_repeats"},
    MetaNotJson: {"meta"},
    OtherSignature: {"signature"},
    Rooted: {"artifact_moves"},
    SkipsUnknownOperators: {"unsupported_operator"},
    AnyPrecision: {"unknown_precision"},
    BareExceptions: {"damaged_artifact"},
    NotASession: {"load"},
    RunsNothing: {"runs_a_model"},
    Missing: {"output_names"},
    Reordered: {"output_names"},
    WrongDtype: {"output_types"},
    WrongShape: {"output_shapes"},
    NotANumber: {"values_mlp", "values_two_inputs", "values_batch", "values_flatten"},
    TenPercentOff: {"values_mlp", "values_two_inputs", "values_batch", "values_flatten"},
    SwappedInputs: {"values_two_inputs"},
    SecondOfBatchLost: {"values_batch"},
    Mutates: {"feeds_unchanged"},
    Shared: {"outputs_survive"},
    ReadOnly: {"outputs_writable"},
    Memoizes: {"outputs_writable"},
    HandsFeedsBack: {"outputs_are_not_feeds"},
    Stale: {"second_input"},
    Blind: {"values_mlp", "values_two_inputs", "values_batch", "values_flatten", "second_input"},
    Drifts: {"repeatable"},
    SharedState: {"two_sessions"},
    RacesWithThreads: {"two_threads"},
    ClosesOnce: {"close_twice"},
    LeavesOpen: {"context_manager"},
    ElsewherePlaced: {"placement"},
    CountsNothing: {"placement"},
    Implausible: {"measure_fits"},
    FloatSamples: {"measure_samples"},
    OtherFeed: {"measure_outputs"},
    ImplausibleInside: {"device_series"},
    FloatsInside: {"device_series"},
}
