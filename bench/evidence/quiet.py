"""Waits until the machine is quiet and cool, for a bounded time, before a trial is begun.

The supervisor asks it between two sleeps; nothing of ours runs meanwhile. Standard library only, Python 3.10.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from bench.evidence import clocks
from bench.evidence.load import between, snapshot

# In half a second, 3 % of two cores are three of /proc/stat's ticks: quiet, even of somebody who works now and then.
WINDOW_S = 0.5


@dataclass(frozen=True, slots=True)
class Waited:
    """How the wait ended: `quiet` is false where the limit came first, None where it cannot be told."""

    waited_s: float
    quiet: bool | None
    foreign_cpu: float | None
    temperature_c: float | None
    reason: str = ""


class Quiet:
    """A wait for others to use less than `max_foreign_cpu`, and the processor to be no hotter than `max_temperature_c`.

    The temperature decides only where it can be read and a bound is given.
    """

    def __init__(
        self, limit_s: float, max_foreign_cpu: float, max_temperature_c: float | None = None, *, root: str = "/"
    ) -> None:
        self._limit_s, self._max_foreign_cpu, self._max_c = limit_s, max_foreign_cpu, max_temperature_c
        self._thermometers = clocks.thermometers(root)
        self._begin = self._window = time.monotonic()
        self._before = snapshot()

    def left_s(self, now: float) -> float:
        """How long until it is worth looking again."""
        return max(0.0, min(self._window + WINDOW_S, self._begin + self._limit_s) - now)

    def look(self, now: float) -> Waited | None:
        """How the wait ended, or None while it goes on."""
        if self.left_s(now) > 0:
            return None
        after = snapshot()
        load = between(self._before, after)
        self._window, self._before = now, after
        heat = clocks.hottest(self._thermometers)
        temperature_c = heat[0] if heat else None
        cool = self._max_c is None or temperature_c is None or temperature_c <= self._max_c
        waited_s = now - self._begin
        if load.foreign_cpu is None:
            quiet = None
            over = "/proc/stat" in load.reason or waited_s >= self._limit_s
        else:
            quiet = load.foreign_cpu <= self._max_foreign_cpu and cool
            over = quiet or waited_s >= self._limit_s
        return Waited(waited_s, quiet, load.foreign_cpu, temperature_c, load.reason) if over else None
