"""What options and markers are given as, read: the same words on the command line, in pytest and in files."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.errors import UsageError

UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3600}


def parse_shapes(texts: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`input=1,3,224,224`, several times.

    Raises:
        UsageError: another form.
    """
    found = {}
    for text in texts:
        name, _, sizes = text.rpartition("=")
        try:
            shape = tuple(int(s) for s in re.split(r"[,x]", sizes)) if sizes else ()
        except ValueError:
            shape = (0,)
        if not name or any(s < 1 for s in shape):
            raise UsageError(f"--shape {text!r} cannot be read", "write --shape INPUT=1,3,224,224")
        found[name] = shape
    return found


def parse_cpus(text: str | None, usable: Collection[int] | None = None) -> tuple[int, ...]:
    """`0,2-3` as (0, 2, 3). `usable`: the CPUs that there are, this process's own if None; empty for unknown.

    Raises:
        UsageError: another form, or a CPU that may not be used.
    """
    if not text:
        return ()
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", part.strip())
        if not match:
            raise UsageError(f"--cpus {text!r} cannot be read", "write --cpus 0,2-3")
        found |= set(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not found:
        raise UsageError(f"--cpus {text!r} names no CPU", "write --cpus 0,2-3")
    allowed = set(os.sched_getaffinity(0) if usable is None else usable)
    if (missing := found - allowed) and allowed:
        have = ",".join(str(c) for c in sorted(allowed))
        raise UsageError(f"this machine has no CPU {min(missing)} for us", f"these can be used: {have}")
    return tuple(sorted(found))


def parse_extra(texts: Sequence[str], backends: Mapping[str, frozenset[str]]) -> dict[str, dict[str, str]]:
    """Options by backend. Without a backend's name an option goes to every chosen backend that knows it.

    Raises:
        UsageError: another form, or an option that no chosen backend knows.
    """
    from bench.registry import nearest

    found: dict[str, dict[str, str]] = {name: {} for name in backends}
    for text in texts:
        match = re.fullmatch(r"(?:([\w.-]+):)?([\w.-]+)=(.*)", text, re.DOTALL)
        if not match:
            raise UsageError(
                f"--option {text!r} cannot be read", "write --option NAME=VALUE or --option BACKEND:NAME=VALUE"
            )
        backend, name, value = match.groups()
        if backend is not None:
            if backend not in backends:
                raise UsageError(f"--option {text!r} is for a backend that was not chosen", nearest(backend, backends))
            found[backend][name] = value
            continue
        takers = [b for b, known in backends.items() if name in known]
        if not takers:
            known = set().union(*backends.values())
            hint = nearest(name, known) if known else "they take none"
            raise UsageError(f"none of {', '.join(backends)} has an option {name!r}", hint)
        for taker in takers:
            found[taker][name] = value
    return found


def parse_limits(texts: Sequence[str]) -> Any:
    """`PHASE=SECONDS`, several times, as `Limits`."""
    from bench.place import Limits
    from bench.registry import nearest

    limits = Limits()
    for text in texts:
        phase, _, seconds = text.partition("=")
        if phase not in Limits.__slots__:
            raise UsageError(f"--limit {text!r} names no phase", nearest(phase, Limits.__slots__))
        try:
            limits = replace(limits, **{phase: float(seconds)})
        except ValueError:
            raise UsageError(f"--limit {text!r} has no number of seconds", "write --limit prepare=600") from None
    return limits


def parse_target(text: str) -> float | None:
    """`1%` or `0.01` as a share; `none` as None.

    Raises:
        UsageError: it is no number, or not between 0 and 100 %.
    """
    hint = "write --target 1%, --target 0.01, or --target none"
    if text.strip().lower() == "none":
        return None
    share = _share(text, "--target", hint)
    if not 0 < share < 1:
        raise UsageError(f"--target {text!r} is not between 0 and 100 %: no measurement ends there", hint)
    return share


def parse_time(text: str, option: str) -> float:
    """`90s`, `10m` or `1h`, in seconds.

    Raises:
        UsageError: it is no time.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(s|m|min|h)", text.strip())
    if not found:
        raise UsageError(f"{option} {text} is no time", "write it with its unit, for example 90s, 10m or 1h")
    return float(found[1]) * UNITS_S[found[2]]


def parse_threshold(text: str) -> float:
    """`2%` or `0.02` as a share.

    Raises:
        UsageError: it is no number, or not between 0 and 100 %.
    """
    hint = "write --threshold 2% or --threshold 0.02"
    share = _share(text, "--threshold", hint)
    if not 0 <= share < 1:
        raise UsageError(f"--threshold {text!r} is not between 0 and 100 %", hint)
    return share


def _share(text: str, option: str, hint: str) -> float:
    try:
        return float(text.strip().removesuffix("%")) / (100 if "%" in text else 1)
    except ValueError:
        raise UsageError(f"{option} {text!r} is no number", hint) from None


def given_tolerance(text: str | None) -> Any:
    """`fp16`, or two numbers, as a tolerance; None for none.

    Raises:
        UsageError: it is neither.
    """
    from bench.parity.compare import parse_tolerance

    try:
        return parse_tolerance(text) if text else None
    except ValueError as error:
        raise UsageError(f"--tolerance {text!r} cannot be read: {error}") from None
