"""The child: the only process that loads a runtime. It answers one request at a time and touches nothing else.

Standard library, numpy, one backend and its runtime; Python 3.10.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import BenchError, RunError, UsageError
from bench.evidence import environment
from bench.evidence import load as machine_load
from bench.evidence.yardstick import Alone, Yardstick
from bench.interface import Artifact, Backend, Feeds, Options, Outputs, Packed, Plan, Session, Signature
from bench.measure import loop, soak
from bench.worker import wire
from bench.worker.libc import dying_with_parent, flush, trim
from bench.worker.protocol import Body, Frame, Intake, Pieces, Unpacker, pack, parts

Reply = tuple[dict[str, Any], list[Any]]


class Child:
    """The state of one trial on the runtime's side: a backend, its session, and the feeds it was given."""

    def __init__(self, say: Callable[[str], None] = lambda message: None) -> None:
        self._say = say
        self._backend: Backend | None = None
        self._session: Session | None = None
        self._signature: Signature | None = None
        self._feeds: list[Feeds] = []
        self._spec = ""
        self._loaded: tuple[Artifact, Options] | None = None

    def answer(self, frame: Frame) -> Reply:
        """The result of one request and its buffers. Raises what the verb raises."""
        verbs: dict[str, Callable[[Mapping[str, Any], Body], Reply]] = {
            "start": self._start,
            "probe": self._probe,
            "prepare": self._prepare,
            "load": self._load,
            "unload": self._unload,
            "run": self._run,
            "measure": self._measure,
            "peaks": self._peaks,
            "close": self._close,
        }
        verb = frame.header["verb"]
        if verb not in verbs:
            raise UsageError(f"the worker knows no verb {verb!r}", "client and worker are of different versions")
        return verbs[verb](frame.header["args"], frame.body)

    def _start(self, args: Mapping[str, Any], body: Body) -> Reply:
        if args["cpus"]:
            _bind(args["cpus"])
        self._spec = args["backend"]
        module, _, name = self._spec.partition(":")
        self._backend = getattr(importlib.import_module(module), name)()
        return {"numpy": np.__version__}, []

    def _probe(self, args: Mapping[str, Any], body: Body) -> Reply:
        facts = asdict(environment.collect(args.get("machine", "/")))
        return {"probe": wire.plain(self._require_backend().probe()), "environment": facts}, []

    def _prepare(self, args: Mapping[str, Any], body: Body) -> Reply:
        from bench.worker.tools import BoundedTools  # not at the top: every start would wait for it, and few need it

        tools = BoundedTools({name: Path(path) for name, path in args["tools"].items()}, self._say)
        model, options = wire.model(args["model"]), wire.options(args["options"])
        artifact = self._require_backend().prepare(model, options, Path(args["workdir"]), tools)
        return {"artifact": wire.plain(artifact)}, []

    def _load(self, args: Mapping[str, Any], body: Body) -> Reply:
        artifact: Artifact = wire.artifact(args["artifact"])
        options: Options = wire.options(args["options"])
        if self._session is not None:  # the memory may not do for two
            self._unload({}, b"")
        begin = time.perf_counter()
        self._session = self._require_backend().load(artifact, options)
        seconds = time.perf_counter() - begin
        self._signature = artifact.signature
        self._loaded = artifact, options
        return {"load_s": seconds, "loaded_rss_bytes": machine_load.memory_bytes()[0]}, []

    def _unload(self, args: Mapping[str, Any], body: Body) -> Reply:
        """Forget the session and what it was fed, and stay."""
        if self._session is not None:
            self._session.close()
        self._session, self._signature, self._feeds = None, None, []
        trim()
        return {}, []

    def _run(self, args: Mapping[str, Any], body: Body) -> Reply:
        session, signature = self._require_session()
        if args.get("feeds_at"):  # they lie here already
            body = bytearray(Path(args["feeds_at"]).read_bytes())
        reader = Unpacker(body)
        feeds = {name: reader.value(tree) for name, tree in args["feeds"].items()}
        check_feeds(signature, feeds)
        if args.get("keep", True):
            self._feeds.append(feeds)
        begin = time.perf_counter()
        outputs = session.run(feeds)
        seconds = time.perf_counter() - begin
        buffers: list[Any] = []
        return {"run_s": seconds, "outputs": _trees(outputs, buffers)}, buffers

    def _measure(self, args: Mapping[str, Any], body: Body) -> Reply:
        session, _ = self._require_session()
        if not self._feeds:
            raise UsageError("nothing to measure with: `run` brings the feeds, and none was asked for")
        if args.get("scenario"):
            return self._measure_streams(session, args)
        if args.get("soak"):
            return self._measure_stretch(session, args)
        yardstick = self._yardstick(args)
        yardstick.begin()
        peak_before = machine_load.memory_bytes()[1]
        before = machine_load.snapshot()
        between = yardstick.between if args.get("look", True) else loop.undisturbed  # to measure what looking costs
        samples, bracket_ns = loop.measure(session, self._feeds, Plan(**args["plan"]), between)
        after = machine_load.without(machine_load.snapshot(), yardstick.pauses)
        yardstick.read()
        rss, peak = machine_load.memory_bytes()
        buffers: list[Any] = []
        result = {
            "core": _core(yardstick),
            "series": [
                {"scope": s.scope, "clock": s.clock, "samples": pack(np.asarray(s.samples_ns, np.int64), buffers)}
                for s in samples.series
            ],
            "outputs": _trees(samples.outputs, buffers),
            "feed_index": samples.feed_index,
            "warmup_count": samples.warmup_count,
            "stopped_by": samples.stopped_by,
            "warmup_ended_by": samples.warmup_ended_by,
            "bracket_ns": bracket_ns,
            "fits": loop.fits(samples, bracket_ns),
            "load": asdict(machine_load.between(before, after)),
            "peak_rss_bytes": machine_load.peak_without(
                peak_before, peak, len(samples.series[0].samples_ns) * machine_load.BYTES_PER_SAMPLE
            ),
            "rss_bytes": rss,
            "placement": wire.plain(session.placement()),
            "affinity": sorted(os.sched_getaffinity(0)),
        }
        return result, buffers

    def _measure_stretch(self, session: Session, args: Mapping[str, Any]) -> Reply:
        """A stretch of a soak; before the first one, the warm-up."""
        first, seconds = bool(args["soak"]["first"]), float(args["soak"]["seconds"])
        warm = soak.warm_up(session, self._feeds, Plan(**args["plan"])) if first else None
        yardstick = self._yardstick(args)  # which waits for nobody: a pause would cool the processor down
        yardstick.read()
        before = machine_load.snapshot()
        found = soak.stretch(session, self._feeds, seconds, yardstick.between)
        after = machine_load.snapshot()
        rss, peak = machine_load.memory_bytes()
        keys, counts = found.histogram.bins()
        buffers: list[Any] = []
        return {
            "core": _core(yardstick),
            "scope": found.scope,
            "clock": found.clock,
            "bins": {"keys": keys, "counts": counts},
            "max_ns": found.histogram.max_ns,
            "bracket_ns": found.bracket_ns,
            "fits": found.fits,
            "outputs": _trees(found.outputs, buffers),
            "feed_index": found.feed_index,
            "warmup_count": warm.count if warm else 0,
            "warmup_ended_by": warm.ended_by if warm else "",
            "load": asdict(machine_load.between(before, after)),
            "peak_rss_bytes": peak,
            "rss_bytes": rss,
            "placement": wire.plain(session.placement()),
            "affinity": sorted(os.sched_getaffinity(0)),
        }, buffers

    def _measure_streams(self, session: Session, args: Mapping[str, Any]) -> Reply:
        from bench.measure.scenarios import Scenario  # not at the top, for the same reason
        from bench.measure.streams import Pool
        from bench.worker import loaded

        assert self._loaded is not None
        threads = self._loaded[1].threads
        yardstick = self._yardstick(args)
        yardstick.begin()
        make = loaded.maker(self._require_backend(), self._spec, *self._loaded, session, self._feeds)
        buffers: list[Any] = []
        with Pool(make) as pool:
            plan, scenario = Plan(**args["plan"]), Scenario(**args["scenario"])
            found = loaded.under_load(pool, scenario, plan, threads, args["seed"])
            taken = found.loaded.latencies_ns
            series = [{"scope": "end_to_end", "clock": "host", "samples": pack(taken, buffers)}] if taken.size else []
            result = {
                **loaded.facts(found, args["seed"]),
                "series": series,
                "streams": [{"outputs": _trees(made, buffers), "feed_index": feed} for made, feed in found.made],
                "peak_rss_bytes": found.peak_rss_bytes,
                "placement": wire.plain(session.placement()),
                "affinity": sorted(os.sched_getaffinity(0)),
            }
        yardstick.read()  # the streams are gone: their threads would look like a neighbour's
        return {**result, "core": _core(yardstick)}, buffers

    def _yardstick(self, args: Mapping[str, Any]) -> Yardstick:
        assert self._loaded is not None
        several = args.get("scenario") is not None  # streams, as many as that will find out
        alone = Alone(**args["alone"]) if args.get("alone") else None
        return Yardstick(2 if several else self._loaded[1].threads, alone)

    def _peaks(self, args: Mapping[str, Any], body: Body) -> Reply:
        from bench.evidence import peaks  # a child that measures a runtime need not carry it

        return asdict(peaks.measure(args["threads"], args["features"])), []

    def _close(self, args: Mapping[str, Any], body: Body) -> Reply:
        if self._session is not None:
            self._session.close()
        return {}, []

    def _require_backend(self) -> Backend:
        if self._backend is None:
            raise UsageError("no backend has been started")
        return self._backend

    def _require_session(self) -> tuple[Session, Signature]:
        if self._session is None or self._signature is None:
            raise UsageError("no artefact has been loaded")
        return self._session, self._signature


def check_feeds(signature: Signature, feeds: Mapping[str, Any]) -> None:
    """Refuse feeds that are not exactly what the model takes.

    Raises:
        UsageError: a wrong, missing or superfluous name, another element type, another shape.
    """
    wanted = {spec.name: spec for spec in signature.inputs}
    if set(feeds) != set(wanted):
        raise UsageError(f"the model takes the inputs {sorted(wanted)}, it was fed {sorted(feeds)}")
    for name, value in feeds.items():
        spec = wanted[name]
        if spec.kind != "tensor" and not isinstance(value, (np.ndarray, Packed)):
            continue  # a sequence or a map: its type is the runtime's to judge
        if not isinstance(value, (np.ndarray, Packed)):
            raise UsageError(f"input {name!r} takes a tensor, it was fed {type(value).__name__}")
        dtype = value.dtype if isinstance(value, Packed) else "string" if value.dtype == object else value.dtype.name
        shape = value.bits.shape if isinstance(value, Packed) else value.shape
        if dtype != spec.dtype:
            raise UsageError(f"input {name!r} takes {spec.dtype}, it was fed {dtype}")
        if spec.shape is not None and (
            len(shape) != len(spec.shape) or any(w not in (None, g) for w, g in zip(spec.shape, shape, strict=True))
        ):
            raise UsageError(f"input {name!r} takes shape {list(spec.shape)}, it was fed {list(shape)}")


def _core(yardstick: Yardstick) -> dict[str, Any]:
    return {"readings_ns": yardstick.readings_ns, "waited_s": yardstick.waited_s, "void_s": yardstick.void_s}


def _trees(outputs: Outputs, buffers: list[Any]) -> dict[str, Any]:
    if not isinstance(outputs, dict):
        raise RunError(f"the backend returned {type(outputs).__name__}, not a mapping of outputs")
    found = {}
    for name, value in outputs.items():
        try:
            found[name] = pack(value, buffers)
        except (TypeError, ValueError, RecursionError) as error:
            raise RunError(f"the backend's output {name!r} is no ONNX value: {error}") from error
    return found


def _bind(cpus: Sequence[int]) -> None:
    try:
        os.sched_setaffinity(0, cpus)
    except OSError as error:
        have = ", ".join(str(cpu) for cpu in sorted(os.sched_getaffinity(0)))
        raise UsageError(f"the process cannot be bound to the CPUs {list(cpus)}", f"it may use {have}") from error


def _be_the_victim() -> None:
    """When memory runs out, the kernel shall end this process, not the supervisor, which has to tell of it."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    except OSError:
        pass


def _describe(error: Exception) -> dict[str, Any]:
    """The error as data. One that is not ours came out of a backend unmapped: its traceback is in the log."""
    if isinstance(error, BenchError):
        name, message, hint = type(error).__name__, error.message, error.hint
        return {"class": name, "message": message, "hint": hint, "kind": None, "signal": getattr(error, "signal", None)}
    traceback.print_exc()
    text = f"{type(error).__name__}: {error}"
    return {"class": "BenchError", "message": text, "hint": "", "kind": "unexpected", "signal": None}


def _flush_log() -> None:
    """What the runtime printed sits in the buffers of Python and of C; the log's tail is read next."""
    sys.stdout.flush()
    sys.stderr.flush()
    flush()


def _answered(child: Child, frame: Frame) -> list[bytes | memoryview]:
    """The answer to one request, ready to be sent: its result, or what went wrong with it."""
    identity = {"id": frame.header["id"]}
    try:
        result, buffers = child.answer(frame)
        # Behind what it carries, not before: a process that dies while that is on its way has not answered.
        carried = parts({**identity, "carries": True}, buffers) if buffers else []
        return [*carried, *parts({**identity, "ok": result})]
    except MemoryError:
        problem = _describe(RunError("out of memory", "use a smaller batch or a bigger machine"))
    except Exception as error:  # noqa: BLE001 - whatever a backend raises becomes a record, not a crash
        problem = _describe(error)
    _flush_log()
    return parts({**identity, "error": problem})


def _write(sink: int, pieces: Sequence[bytes | memoryview]) -> None:
    left = Pieces(pieces)
    while left:
        left.written(os.writev(sink, left.next()))


def serve(source: int, sink: int) -> None:
    """Answer requests until the pipe ends or `close` was answered."""

    def say(message: str) -> None:
        _write(sink, parts({"said": message}))

    child = Child(say)
    intake = Intake()
    while (frames := intake.read(source)) is not None:
        for frame in frames:
            _write(sink, _answered(child, frame))
            if frame.header["verb"] == "close":
                return


def main(read_fd: str, write_fd: str) -> None:
    """Entry point: the pipe's ends come as numbers, kept from whatever the runtime starts."""
    dying_with_parent()()
    _be_the_victim()
    faulthandler.enable()  # a crash leaves the line of Python that led to it in the log
    for fd in (int(read_fd), int(write_fd)):
        os.set_inheritable(fd, False)
    serve(int(read_fd), int(write_fd))
    _flush_log()
    os._exit(0)  # a runtime's static destructors may crash; the trial is over and has been answered
