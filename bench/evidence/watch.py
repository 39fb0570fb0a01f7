"""Looks at the machine from outside while another process measures: clocks, heat, throttling, energy.

The supervisor holds one `Watch` per measurement and lets it look once a second: a few small files each time. Counters
are compared from before to after; gauges are taken at every look. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from bench.evidence import clocks

EVERY_S = 1.0
NONE = "not available: "


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen during one measurement, its warm-up included. Absent figures have their reason in `not_available`.

    `frequency_mhz`: lowest and highest clock of the CPUs that the process ran on. `energy_j`: of the CPU packages,
    whoever used them. `timeline`: seconds since the begin, lowest clock and temperature at each look.
    """

    seconds: float
    frequency_mhz: tuple[int, int] | None
    governor: str | None
    turbo: bool | None
    temperature_c: float | None
    temperature_of: str
    throttled: bool | None
    throttle: str
    energy_j: float | None
    timeline: list[tuple[float, int | None, float | None]]
    not_available: dict[str, str]


class Watch:
    """From its making until `end`. Never raises: what cannot be read is absent."""

    def __init__(self, pid: int, root: str = "/") -> None:
        self._pid, self._root = pid, root
        self._cpus = _affinity(pid)
        self._begin = time.monotonic()
        self._last = self._begin
        self._thermometers = clocks.thermometers(root)
        self._slowing = clocks.slowing_devices(root)
        self._counters = clocks.throttle_counters(self._cpus, root)
        self._zones, self._no_energy = clocks.energy_zones(root)
        self._pi = clocks.pi_throttling(root)
        self._has_clock = bool(clocks.megahertz(self._cpus[:1], root))
        self._mhz: list[float] = []
        self._heat: list[tuple[float, str]] = []
        self._throttle: dict[str, None] = {}
        self._timeline: list[tuple[float, int | None, float | None]] = []
        self._energy_uj = 0
        self._energy_at = {name: clocks.number(path) for name, (path, _) in self._zones.items()}
        self._counted = {name: clocks.number(path) for name, path in self._counters.items()}
        self._gauges([])  # the process does not run yet: what its CPUs do now is not its clock

    def look(self, now: float) -> None:
        """Take a reading, if it is time for one."""
        if now - self._last >= EVERY_S:
            self._look(now)

    def end(self) -> Observed:
        """Take the last reading, and say what was seen."""
        now = time.monotonic()
        self._look(now)
        for name, path in self._counters.items():
            before, after = self._counted[name], clocks.number(path)
            if before is not None and after is not None and after > before:
                self._throttle[f"{name} +{after - before}"] = None
        return self._summary(now)

    def _look(self, now: float) -> None:
        self._last = now
        cpus = clocks.running_cpus(self._pid, self._root) if self._has_clock else ()
        self._gauges(clocks.megahertz(cpus, self._root) if cpus else [])
        self._add_energy()

    def _gauges(self, mhz: list[float]) -> None:
        heat = clocks.hottest(self._thermometers)
        self._mhz += mhz
        if heat:
            self._heat.append(heat)
        if heat or mhz:
            passed_s = round(time.monotonic() - self._begin, 3)
            self._timeline.append((passed_s, round(min(mhz)) if mhz else None, heat[0] if heat else None))
        slowing = [name for name, path in self._slowing.items() if (clocks.number(path) or 0) > 0]
        if self._pi is not None:
            bits = clocks.pi_throttling(self._root) or 0
            slowing += clocks.pi_words(bits | (bits & ~self._pi) >> 16)  # and what came and went since the first look
        self._throttle |= dict.fromkeys(slowing)

    def _add_energy(self) -> None:
        """What the counters moved since the last look; each starts again at its end, which may be minutes away."""
        for name, (path, whole) in self._zones.items():
            before, after = self._energy_at[name], clocks.number(path)
            if before is None or after is None:
                self._no_energy = "an energy counter could not be read any more"
                continue
            self._energy_uj += after - before if after >= before else after - before + whole
            self._energy_at[name] = after

    def _summary(self, now: float) -> Observed:
        hottest = max(self._heat, default=None)
        can_throttle = self._counters or self._slowing or self._pi is not None
        governor, turbo = clocks.governor(self._cpus, self._root), clocks.turbo(self._root)
        absent = {
            "frequency_mhz": "" if self._mhz else self._no_clock(),
            "governor": "" if governor else "no cpufreq",
            "turbo": "no switch for it" if turbo is None else "",
            "temperature_c": "" if hottest else "no sensor",
            "throttled": "" if can_throttle else "no counter of it",
            "energy_j": self._no_energy,
        }
        return Observed(
            seconds=now - self._begin,
            frequency_mhz=(round(min(self._mhz)), round(max(self._mhz))) if self._mhz else None,
            governor=governor,
            turbo=turbo,
            temperature_c=hottest[0] if hottest else None,
            temperature_of=hottest[1] if hottest else "",
            throttled=bool(self._throttle) if can_throttle else None,
            throttle=", ".join(self._throttle),
            energy_j=None if self._no_energy else self._energy_uj / 1e6,
            timeline=self._timeline,
            not_available={name: NONE + why for name, why in absent.items() if why},
        )

    def _no_clock(self) -> str:
        if clocks.virtual(self._root):
            return "a virtual machine shows no clock but the nominal one"
        return "no cpufreq, and /proc/cpuinfo has no measured clock"


def _affinity(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid))
    except (OSError, AttributeError):
        return list(range(os.cpu_count() or 1))
