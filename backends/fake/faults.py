"""What the fake device can do wrong, by name: the failures that a harness must survive, notice and report.

A fatal fault strikes where `fault_at` says. The others change what a run does, from the first run on or, with
`fault_at=measure`, after `fault_after` good runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from bench.errors import BackendUnavailable, BenchError, LoadError, PrepareError, RunError, UnsupportedModel, UsageError
from bench.interface import Array, Feeds, OptionValue, Outputs

Run = Callable[[Feeds], Outputs]
PHASES = ("import", "prepare", "load", "run", "measure")
DRIFT = 0.1
NOISE = b"\x00\xff not a frame \xf0\x28\x8c\x28 [fake] 100%\r\n"

_RAISED: Mapping[str, type[BenchError]] = {
    "import": BackendUnavailable,
    "prepare": PrepareError,
    "load": LoadError,
    "run": RunError,
    "measure": RunError,
}


@dataclass(frozen=True, slots=True)
class Settings:
    """The fake's options as values; the defaults are a well-behaved device without latency."""

    latency_us: float = 0.0
    jitter: float = 0.0
    new_shape_us: float = 0.0
    error: float = 0.0
    clock: str = "host"
    fault: str = "none"
    fault_at: str = "run"
    fault_after: int = 8
    leak_mib: int = 16
    slow_load_s: float = 2.0

    @classmethod
    def of(cls, extra: Mapping[str, OptionValue]) -> Settings:
        """The settings in a backend's extra options.

        Raises:
            UsageError: an unknown name, or a combination that would do nothing.
        """
        values: dict[str, Any] = dict(extra)
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            raise UsageError(f"fake has no option {unknown[0]!r}", f"it has {', '.join(cls.__dataclass_fields__)}")
        made = cls(**values)
        if made.fault not in FAULTS or made.fault_at not in PHASES:
            raise UsageError(
                f"fake knows no fault {made.fault!r} at {made.fault_at!r}",
                f"faults: {', '.join(FAULTS)}; at: {', '.join(PHASES)}",
            )
        if made.fault == "implausible" and made.clock != "device":
            raise UsageError("fault=implausible is a lie of the device's clock", "add clock=device")
        return made


def strike(settings: Settings, phase: str) -> None:
    """Do the fatal fault, if this is the phase for it."""
    if settings.fault == "unsupported" and (phase == "load" if settings.fault_at == "load" else phase == "prepare"):
        raise UnsupportedModel("the fake device was told to find operator Fake of node #0 unsupported")
    if settings.fault == "slow_load" and phase == "load":
        time.sleep(settings.slow_load_s)
    if settings.fault_at == phase and settings.fault in _FATAL:
        _FATAL[settings.fault](phase)


def around(run: Run, settings: Settings) -> Run:
    """`run` with the fault that belongs to runs, or `run` itself."""
    if settings.fault == "drift":
        return _after(settings.fault_after, run, offset(run, DRIFT))
    if settings.fault_at not in ("run", "measure"):
        return run
    if settings.fault in _FATAL:
        faulty = _struck(run, settings)
    elif settings.fault in _RUNS:
        faulty = _RUNS[settings.fault](run, settings)
    else:
        return run
    return _after(settings.fault_after, run, faulty) if settings.fault_at == "measure" else faulty


def offset(run: Run, share: float) -> Run:
    """`run` whose every float output is shifted by `share` of its largest magnitude."""

    def shifted(value: Any) -> Any:
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not value.size:
            return value
        return (value + value.dtype.type(share * float(np.abs(value).max()))).astype(value.dtype)

    return _each(run, shifted)


def _after(count: int, good: Run, bad: Run) -> Run:
    done = 0

    def run(feeds: Feeds) -> Outputs:
        nonlocal done
        done += 1
        return good(feeds) if done <= count else bad(feeds)

    return run


def _each(run: Run, change: Callable[[Any], Any]) -> Run:
    return lambda feeds: {name: change(value) for name, value in run(feeds).items()}


def _struck(run: Run, settings: Settings) -> Run:
    def struck(feeds: Feeds) -> Outputs:
        strike(settings, settings.fault_at)
        return run(feeds)

    return struck


def _first(run: Run, change: Callable[[Any], Any]) -> Run:
    """`run` with its first output changed."""

    def changed(feeds: Feeds) -> Outputs:
        outputs = run(feeds)
        name = next(iter(outputs))
        outputs[name] = change(outputs[name])
        return outputs

    return changed


def _wrong_dtype(value: Array) -> Array:
    return value.astype("float32" if value.dtype == np.float64 else "float64")


def _holed(value: Array) -> Array:
    if value.dtype.kind == "f" and value.size:
        value.flat[0] = np.nan
    return value


def _missing(run: Run, settings: Settings) -> Run:
    return lambda feeds: dict(list(run(feeds).items())[:-1])


def _stale(run: Run, settings: Settings) -> Run:
    kept: Outputs = {}

    def stale(feeds: Feeds) -> Outputs:
        if not kept:
            kept.update(run(feeds))
        return {name: np.array(value) for name, value in kept.items()}

    return stale


def _blind(run: Run, settings: Settings) -> Run:
    return lambda feeds: run({name: np.zeros_like(value) for name, value in feeds.items()})


def _leak(run: Run, settings: Settings) -> Run:
    held: list[Array] = []

    def leak(feeds: Feeds) -> Outputs:
        held.append(np.ones(settings.leak_mib << 20, np.uint8))  # ones, not zeros: only touched pages count
        return run(feeds)

    return leak


def _mutate(run: Run, settings: Settings) -> Run:
    def mutate(feeds: Feeds) -> Outputs:
        outputs = run(feeds)
        for value in feeds.values():
            value[...] = np.zeros_like(value)
        return outputs

    return mutate


def _shared(run: Run, settings: Settings) -> Run:
    buffers: dict[str, Any] = {}

    def shared(feeds: Feeds) -> Outputs:
        fresh: dict[str, Any] = run(feeds)
        for name, value in fresh.items():
            np.copyto(buffers.setdefault(name, value), value)
        return dict(buffers)

    return shared


def _kill(number: int) -> Callable[[str], None]:
    return lambda phase: os.kill(os.getpid(), number)


def _hang(phase: str) -> NoReturn:
    with contextlib.suppress(ValueError):  # only the main thread may set it
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def _raise(phase: str) -> NoReturn:
    raise _RAISED[phase]("the fake device was told to fail", "drop fault=raise")


def _unexpected(phase: str) -> NoReturn:
    raise ValueError("the fake device was told to fail with an error that is not deploybench's")


def _print(phase: str) -> None:
    for descriptor in (1, 2):
        os.write(descriptor, NOISE)


_FATAL: Mapping[str, Callable[[str], None]] = {
    "crash": _kill(signal.SIGSEGV),
    "fpe": _kill(signal.SIGFPE),
    "ill": _kill(signal.SIGILL),
    "abort": lambda phase: os.abort(),
    "oom-kill": _kill(signal.SIGKILL),
    "exit": lambda phase: os._exit(3),
    "hang": _hang,
    "raise": _raise,
    "unexpected": _unexpected,
    "print": _print,
}
_RUNS: Mapping[str, Callable[[Run, Settings], Run]] = {
    "wrong_shape": lambda run, settings: _first(run, lambda value: value[np.newaxis]),
    "wrong_dtype": lambda run, settings: _first(run, _wrong_dtype),
    "missing_output": _missing,
    "nan": lambda run, settings: _first(run, _holed),
    "zeros": lambda run, settings: _each(run, np.zeros_like),
    "stale": _stale,
    "input_blind": _blind,
    "leak": _leak,
    "mutate_feeds": _mutate,
    "shared_outputs": _shared,
}
# The whole list, each with the sentence that the README's table shows.
FAULTS: Mapping[str, str] = {
    "none": "behaves",
    "crash": "dies by SIGSEGV",
    "fpe": "dies by SIGFPE",
    "ill": "dies by SIGILL",
    "abort": "dies by SIGABRT",
    "oom-kill": "dies by SIGKILL, as the kernel's out-of-memory killer does it",
    "exit": "leaves without a word, exit code 3",
    "hang": "never returns, and ignores SIGTERM",
    "raise": "raises the phase's own BenchError",
    "unexpected": "raises a plain ValueError",
    "print": "writes bytes that are no text to file descriptors 1 and 2, and goes on",
    "unsupported": "raises UnsupportedModel in prepare, or in load with fault_at=load",
    "slow_load": "load takes slow_load_s longer",
    "wrong_shape": "the first output gets an axis too many",
    "wrong_dtype": "the first output comes as float64 (float32 if it is float64)",
    "missing_output": "the last output is left out",
    "nan": "the first element of the first output is NaN",
    "zeros": "every output is zero",
    "stale": "the first result is returned for ever",
    "input_blind": "the result does not depend on the feeds",
    "drift": f"after fault_after runs, outputs are off by {DRIFT:.0%} of their scale",
    "leak": "every run keeps leak_mib MiB",
    "mutate_feeds": "run overwrites its feeds",
    "shared_outputs": "every run returns the same buffers, changed by the next run",
    "fallback": "placement names another device than the one asked for",
    "restless": "prepare makes another artefact each time",
    "implausible": "with clock=device: durations ten times longer than they were",
}
