"""How much was computed how fast, and whether a machine can do that. Knows no trials: counts, peaks and a pace."""

from __future__ import annotations

import math

from bench.plausible.bound import most_flop_per_s
from bench.record import CaseLine, PlacementFacts, WorkFacts


def work_of(
    case: CaseLine, placement: PlacementFacts | None, pace_ns: float | None, *, alone: bool
) -> WorkFacts | None:
    """How fast it computed at an inference per `pace_ns`, and what its CPUs can do at most in the precision it used.

    The peaks are of as many threads as one inference has, so only a session that was `alone` has a share of them.
    """
    counts, peaks = case.counts, case.peaks
    if counts is None:
        return None
    rate = 2e9 * counts.macs / pace_ns if pace_ns and counts.macs else None
    copied = 1e9 * counts.bytes / pace_ns if pace_ns else None
    most, reason = _most(case, placement)
    comparable = most is not None and alone
    return WorkFacts(
        flop=2 * counts.macs,
        flop_per_s=rate,
        share_of_peak=_share(rate, peaks.flop_per_s) if peaks and comparable else None,
        bytes=counts.bytes,
        share_of_copy=_share(copied, peaks.copy_bytes_per_s) if peaks and comparable else None,
        parameters=counts.parameters,
        uncounted=counts.uncounted,
        least_flop=2 * counts.least_macs,
        least_ns=None if most is None else math.floor(2e9 * counts.least_macs / most),
        most_flop_per_s=most,
        peaks=peaks,
        reason=reason,
    )


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def _most(case: CaseLine, placement: PlacementFacts | None) -> tuple[float | None, str]:
    """Operations per second that the case cannot have surpassed, or why that is not known."""
    if case.peaks is None or placement is None or case.work_reason:
        return None, case.work_reason or "nothing was measured"
    if placement.device != "cpu":
        return None, f"it is not known what {placement.device} can do at most"
    peaks = case.peaks
    most = most_flop_per_s(
        arch=peaks.arch,
        features=peaks.features,
        clock_hz=peaks.clock_hz,
        measured_flop_per_s=peaks.flop_per_s,
        threads=peaks.threads,
        precision=case.case.model.precision if placement.precision == "model" else placement.precision,
        cpus=len(placement.affinity),
    )
    return most, peaks.reason if most else f"it is not known what a CPU of the kind {peaks.arch} can do at most"


def too_fast(model: str, found: WorkFacts | None, fastest_ns: float | None) -> str:
    """Why a time cannot be true: the machine cannot compute the model's least in it. Empty where it can."""
    if found is None or found.least_ns is None or found.most_flop_per_s is None or fastest_ns is None:
        return ""
    if fastest_ns >= found.least_ns or fastest_ns <= 0:
        return ""
    claimed, most = found.least_flop / fastest_ns, found.most_flop_per_s / 1e9
    return (
        f"{model} in {fastest_ns / 1e6:.3g} ms takes {claimed:,.0f} GFLOP/s even by the fastest algorithms "
        f"known, and this machine reaches {most:,.0f} at the very most"
    )
