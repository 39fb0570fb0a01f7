"""Samples handed to pytest-benchmark, so that its tables, JSON and comparisons show what the worker measured."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from bench.errors import UsageError
from bench.pytest_plugin import words
from bench.record import Record


class Replay:
    """A clock that pytest-benchmark reads before and after each round: it sees 0 and then the sample, in seconds."""

    __name__ = "deploybench"  # the timer's name in its files

    def __init__(self, samples_ns: Sequence[int]) -> None:
        self._readings = chain.from_iterable((0.0, ns / 1e9) for ns in samples_ns)

    def __call__(self) -> float:
        return next(self._readings)


def check(benchmark: Any) -> None:
    """Refuse what is not pytest-benchmark's fixture, unused.

    Raises:
        UsageError: it is something else, or it has been used already.
    """
    if benchmark is None:
        return
    if not all(hasattr(benchmark, name) for name in ("pedantic", "extra_info", "disabled", "_timer", "_mode")):
        kind = type(benchmark).__name__
        raise UsageError(f"measure takes pytest-benchmark's fixture, not a {kind}", "call measure() to only record")
    if benchmark._mode:
        raise UsageError("this test's benchmark fixture has been used already", "measure one case in each test")


def over(benchmark: Any, record: Record | None) -> None:
    """Let the fixture have timed the record's samples; without a record, let it be disabled, and so show nothing."""
    if record is None or record.latency is None:
        benchmark.disabled = True
        benchmark.pedantic(_nothing)
        return
    benchmark.extra_info["deploybench"] = words.facts(record)
    benchmark._timer = Replay(record.latency.samples_ns)
    benchmark.pedantic(_nothing, rounds=len(record.latency.samples_ns), iterations=1)


def _nothing() -> None:
    """Called in place of an inference that was timed elsewhere."""
