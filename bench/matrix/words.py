"""The words that a matrix file may say of a cell, and what each may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Union

from bench.measure.scenarios import NAMES
from bench.parity.compare import TOLERANCES
from bench.registry import nearest

# JSON in, and hashable: a shape is ((input, (size, ...)), ...).
Value = Union[str, int, float, bool, tuple[Any, ...]]
OPTION = "options."
PRECISIONS = ("model", "tf32", *TOLERANCES)


class Refused(Exception):
    """Why a value cannot be, and what can."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


def text(value: Any) -> Value:
    """Words, and not empty."""
    if not isinstance(value, str) or not value.strip():
        raise Refused(f"{value!r} is no text", "write it in quotes")
    return value


def whole(lowest: int, highest: int) -> Callable[[Any], Value]:
    """A whole number within bounds."""

    def check(value: Any) -> Value:
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= highest:
            raise Refused(f"{value!r} is not possible", f"give a whole number from {lowest} to {highest}")
        return value

    return check


def number(lowest: float, *, exactly: bool = False, highest: float = math.inf) -> Callable[[Any], Value]:
    """A number above `lowest`, or `exactly` that, and not above `highest`."""

    def check(value: Any) -> Value:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not real or value > highest or (value < lowest if exactly else value <= lowest):
            above = f"{'from' if exactly else 'above'} {lowest:g}"
            raise Refused(
                f"{value!r} is not possible", f"give a number {above}{f' to {highest:g}' * (highest < math.inf)}"
            )
        return float(value)

    return check


def name_of(known: tuple[str, ...]) -> Callable[[Any], Value]:
    """One of these."""

    def check(value: Any) -> Value:
        if value not in known:
            raise Refused(f"{value!r} is none of them", nearest(str(value), known))
        return str(value)

    return check


def shapes(value: Any) -> Value:
    """A size for every dimension, by input."""
    good = isinstance(value, dict) and bool(value)
    found = []
    for name, sizes in value.items() if good else ():
        good = good and isinstance(sizes, list) and all(type(s) is int and s > 0 for s in sizes)
        found.append((str(name), tuple(sizes) if good else ()))
    if not good:
        raise Refused(f"{value!r} gives no shape", "write { input = [1, 3, 224, 224] }, several of them in a list")
    return tuple(sorted(found))


def option(value: Any) -> Value:
    """What a backend's own option may be; the backend says more."""
    if not isinstance(value, (str, int, float, bool)):
        raise Refused(f"{value!r} is no option's value", "give a text, a number, true or false")
    return value


CELL: Mapping[str, Callable[[Any], Value]] = {
    "model": text,
    "backend": text,
    "device": text,
    "threads": whole(1, 1024),
    "precision": name_of(PRECISIONS),
    "batch": whole(1, 2**31),
    "shapes": shapes,
    "cpus": text,
    "scenario": name_of(NAMES),
    "streams": whole(1, 1024),
    "samples_per_query": whole(1, 1024),
    "rate": number(0),
    "latency_bound": text,
    "soak": text,
}
# What a cell is that says nothing else: as on the command line.
PLAIN: Mapping[str, Value] = {"device": "local", "threads": 1, "precision": "model", "scenario": "single-stream"}


def share(value: Any) -> Value:
    """`"1%"` or 0.01, or `"none"`: the command line reads it."""
    if isinstance(value, bool) or not isinstance(value, (str, float, int)):
        raise Refused(f"{value!r} is no share", 'write "1%", 0.01 or "none"')
    return str(value)


SECONDS = number(0, highest=1e8)
MEASURE: Mapping[str, Callable[[Any], Value]] = {
    "trials": whole(1, 100),
    "max_trials": whole(1, 100),
    "target": share,
    "min_time": SECONDS,
    "min_count": whole(1, 2**31),
    "max_time": SECONDS,
    "tolerance": text,
    "max_foreign_cpu": number(0, exactly=True, highest=1),
    "cooldown": number(1, exactly=True, highest=3600),
    "spread": text,
}
BUDGET: Mapping[str, Callable[[Any], Value]] = {"total": SECONDS, "cell": SECONDS}
RETRY: Mapping[str, Callable[[Any], Value]] = {"times": whole(0, 10), "wait": number(0, exactly=True, highest=86400)}


def told(word: str, value: Value) -> str:
    """A word of a cell as a person reads it."""
    if isinstance(value, tuple):
        return ", ".join(f"{name} {'x'.join(str(s) for s in sizes)}" for name, sizes in value)
    if word == "threads":
        return f"{value} thread{'s' * (value != 1)}"
    if word in ("precision", "scenario"):
        return str(value)
    name = word.removeprefix(OPTION).replace("_", " ")
    return f"{name} {str(value).lower() if isinstance(value, bool) else value}"
