"""A session on the fake device: the interpreter, wrapped in whatever was asked for, and a clock of its own.

The wrapping is done once, at load: a device without latency or faults runs the interpreter and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import cycle
from typing import Any

import numpy as np

from bench.interface import Feeds, Outputs, Placement, Plan, Samples, Series, Session

from .faults import Run, Settings, around, offset

SLEEP_FROM_NS = 1_000_000  # below this a sleep's own overshoot would be most of the wait
SPIN_LAST_NS = 500_000
EXAGGERATION = 10


class FakeSession(Session):
    """Runs a program, as fast, as right and as well-behaved as it was told to."""

    def __init__(self, run: Run, settings: Settings, *, precision: str, steps: int) -> None:
        if precision == "fp16":
            run = _through_float16(run)
        if settings.error:
            run = offset(run, settings.error)
        run = around(run, settings)
        if settings.latency_us:
            run = _lasting(run, settings)
        if settings.new_shape_us:
            run = _learning(run, settings.new_shape_us)
        self._run = run
        self._settings = settings
        self._placement = Placement("cpu", precision, {"fake": steps})

    def run(self, feeds: Feeds) -> Outputs:
        return self._run(feeds)

    def measure(self, feeds: Sequence[Feeds], plan: Plan) -> Samples | None:
        if self._settings.clock == "host":
            return None
        warm = self._durations(feeds, plan.warmup_min_count, plan.warmup_min_s, plan.warmup_max_s)[0]
        samples, outputs = self._durations(feeds, plan.min_count, plan.min_s, plan.max_s)
        stopped_by = "enough" if len(samples) >= plan.min_count else "max_s"
        if self._settings.fault == "implausible":
            samples = [EXAGGERATION * sample for sample in samples]
        series = Series("compute", "device", np.array(samples, np.int64))
        return Samples((series,), outputs, (len(samples) - 1) % len(feeds), len(warm), stopped_by)

    def _durations(
        self, feeds: Sequence[Feeds], count: int, least_s: float, most_s: float
    ) -> tuple[list[int], Outputs]:
        """At least one run, and what the last one gave."""
        began = time.perf_counter_ns()
        samples: list[int] = []
        while True:
            start = time.perf_counter_ns()
            outputs = self._run(feeds[len(samples) % len(feeds)])
            now = time.perf_counter_ns()
            samples.append(now - start)
            passed_s = (now - began) / 1e9
            if (len(samples) >= count and passed_s >= least_s) or passed_s >= most_s:
                return samples, outputs

    def placement(self) -> Placement:
        if self._settings.fault == "fallback":
            return Placement("elsewhere", self._placement.precision, {"elsewhere": 1})
        return self._placement


def _through_float16(run: Run) -> Run:
    def rounded(value: Any) -> Any:
        with np.errstate(over="ignore"):
            return value.astype(np.float16).astype(value.dtype) if value.dtype.kind == "f" else value

    return lambda feeds: {name: rounded(value) for name, value in run(feeds).items()}


def _lasting(run: Run, settings: Settings) -> Run:
    """`run`, made to last latency_us x (1 + jitter x u), u uniform in [0, 1) from a fixed seed."""
    shares = np.random.default_rng(0).random(4096)
    waits_ns = cycle((settings.latency_us * 1000 * (1 + settings.jitter * shares)).astype(np.int64).tolist())

    def lasting(feeds: Feeds) -> Outputs:
        until_ns = time.perf_counter_ns() + next(waits_ns)
        outputs = run(feeds)
        rest_ns = until_ns - time.perf_counter_ns()
        if rest_ns > SLEEP_FROM_NS:
            time.sleep((rest_ns - SPIN_LAST_NS) / 1e9)
        while time.perf_counter_ns() < until_ns:
            pass
        return outputs

    return lasting


def _learning(run: Run, extra_us: float) -> Run:
    """`run`, whose first call for every input shape lasts so much longer."""
    seen: set[tuple[Any, ...]] = set()

    def learning(feeds: Feeds) -> Outputs:
        shapes = tuple(feed.shape for feed in feeds.values())
        if shapes not in seen:
            seen.add(shapes)
            time.sleep(extra_us / 1e6)
        return run(feeds)

    return learning
