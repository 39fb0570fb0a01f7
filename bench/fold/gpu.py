"""What was seen of a GPU over trials, and whether somebody else had it too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from bench.record import GpuFacts, ObservedFacts, TrialLine

T = TypeVar("T", int, float)


def gpu_of(seen: Sequence[ObservedFacts]) -> GpuFacts | None:
    """The extremes over trials. A figure that one of them lacks is absent: that trial may have been the worst."""
    found = [s.gpu for s in seen if s.gpu]
    if not found or len(found) != len(seen):
        return None
    lacking: dict[str, str] = {}
    for one in reversed(found):
        lacking |= one.not_available
    throttles = ", ".join(dict.fromkeys(g.throttle for g in found if g.throttle))
    known = all(g.throttled is not None for g in found)
    return GpuFacts(
        name=", ".join(dict.fromkeys(g.name for g in found)),
        capability=", ".join(dict.fromkeys(g.capability for g in found)),
        driver=", ".join(dict.fromkeys(g.driver for g in found)),
        sm_mhz=_range([g.sm_mhz for g in found]),
        sm_mhz_most=_most([g.sm_mhz_most for g in found]),
        memory_mhz=_range([g.memory_mhz for g in found]),
        power_w=_range([g.power_w for g in found]),
        power_limit_w=_most([g.power_limit_w for g in found]),
        energy_j=_sum([g.energy_j for g in found]),
        temperature_c=_most([g.temperature_c for g in found]),
        throttled=True if throttles else False if known else None,
        throttle=throttles,
        limited_by=", ".join(dict.fromkeys(g.limited_by for g in found if g.limited_by)),
        peak_process_bytes=_most([g.peak_process_bytes for g in found]),
        foreign=_most([g.foreign for g in found]),
        ecc=found[0].ecc if len({g.ecc for g in found}) == 1 else None,
        ecc_errors=_sum([g.ecc_errors for g in found]),
        mig=found[0].mig if len({g.mig for g in found}) == 1 else None,
        timeline=[],
        not_available=lacking,
    )


def shared(trial: TrialLine) -> str:
    """In words, that other processes used the trial's GPU, or that it was slowed down; empty where neither is known."""
    gpu = trial.observed.gpu if trial.observed else None
    if gpu is None:
        return ""
    if gpu.throttled:
        return f"the GPU was throttled during the measurement ({gpu.throttle})"
    return f"{gpu.foreign} other processes used the GPU" if gpu.foreign else ""


def _range(values: Sequence[tuple[T, T] | None]) -> tuple[T, T] | None:
    known = [v for v in values if v is not None]
    return (min(v[0] for v in known), max(v[1] for v in known)) if len(known) == len(values) else None


def _most(values: Sequence[T | None]) -> T | None:
    known = [v for v in values if v is not None]
    return max(known) if len(known) == len(values) else None


def _sum(values: Sequence[T | None]) -> T | None:
    known = [v for v in values if v is not None]
    return sum(known) if len(known) == len(values) else None
