"""Looks at the machine from outside while another process measures: clocks, heat, throttling, energy.

The supervisor holds one `Watch` per measurement and lets it look once a second: a few small files each time. Counters
are compared from before to after; gauges are taken at every look. Standard library only, Python 3.10.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from bench.evidence import clocks, cores, gpu

EVERY_S = 1.0
# So many looks are kept: an hour takes no more room in a record than ten minutes.
LOOKS = 600
NONE = "not available: "


Look = tuple[float, "int | None", "float | None"]


@dataclass(frozen=True, slots=True)
class ClusterSeen:
    """The CPUs of one kind, used or not: lowest and highest clock at the looks, and who set it at the end."""

    cpus: list[int]
    core: str
    frequency_mhz: tuple[int, int] | None
    governor: str | None


@dataclass(frozen=True, slots=True)
class Observed:
    """What was seen during one measurement, its warm-up included. Absent figures have their reason in `not_available`.

    `frequency_mhz`: lowest and highest clock of the CPUs that the process ran on. `energy_j`: of the CPU packages,
    whoever used them. `timeline`: seconds since the begin, lowest clock and temperature at each look. `clusters`: where
    the machine has cores of several kinds. `gpu`: where the process uses one.
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
    timeline: list[Look]
    not_available: dict[str, str]
    clusters: list[ClusterSeen]
    gpu: gpu.GpuSeen | None


class _Timeline:
    """Looks, at most so many: where they get more, every two neighbours become one, and of those to come as many."""

    def __init__(self) -> None:
        self.looks: list[Look] = []
        self._together = self._last = 1

    def add(self, look: Look) -> None:
        if self.looks and self._last < self._together:
            self.looks[-1] = _both(self.looks[-1], look)
            self._last += 1
            return
        if len(self.looks) == LOOKS:
            self.looks = [_both(*pair) for pair in zip(self.looks[::2], self.looks[1::2], strict=True)]
            self._together *= 2
        self.looks.append(look)
        self._last = 1


def _both(first: Look, second: Look) -> Look:
    """Two looks as one: from the first on, the lower clock and the higher temperature."""
    clocks_mhz = [mhz for mhz in (first[1], second[1]) if mhz is not None]
    heats_c = [heat for heat in (first[2], second[2]) if heat is not None]
    return first[0], min(clocks_mhz, default=None), max(heats_c, default=None)


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
        kinds = cores.clusters(root)
        self._clusters = {kind: list[float]() for kind in kinds if len(kinds) > 1}
        self._heat: list[tuple[float, str]] = []
        self._throttle: dict[str, None] = {}
        self._gpu = gpu.watch(pid, root)
        self._timeline = _Timeline()
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
        if self._gpu:
            self._gpu.look()

    def _gauges(self, mhz: list[float]) -> None:
        heat = clocks.hottest(self._thermometers)
        self._mhz += mhz
        for kind, seen in self._clusters.items():  # its CPUs share a clock
            seen += clocks.megahertz(kind.cpus[:1], self._root)
        if heat:
            self._heat.append(heat)
        if heat or mhz:
            passed_s = round(time.monotonic() - self._begin, 3)
            self._timeline.add((passed_s, round(min(mhz)) if mhz else None, heat[0] if heat else None))
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
            timeline=self._timeline.looks,
            not_available={name: NONE + why for name, why in absent.items() if why},
            clusters=[self._cluster(kind, seen) for kind, seen in self._clusters.items()],
            gpu=self._gpu.end() if self._gpu else None,
        )

    def _cluster(self, kind: cores.Cluster, seen: list[float]) -> ClusterSeen:
        mhz = (round(min(seen)), round(max(seen))) if seen else None
        return ClusterSeen(list(kind.cpus), kind.core, mhz, clocks.governor(kind.cpus, self._root))

    def _no_clock(self) -> str:
        if clocks.virtual(self._root):
            return "a virtual machine shows no clock but the nominal one"
        return "no cpufreq, and /proc/cpuinfo has no measured clock"


def _affinity(pid: int) -> list[int]:
    try:
        return sorted(os.sched_getaffinity(pid))
    except (OSError, AttributeError):
        return list(range(os.cpu_count() or 1))
