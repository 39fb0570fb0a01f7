"""What a neighbour that the kernel cannot see took of the CPU: readings of the yardstick, held against the fastest.

Only a virtual machine has such neighbours. Elsewhere the kernel knows who else runs and sets the clocks itself, so
readings are kept there and judge nothing: a clock that falls by itself is no neighbour.

Source of the first bound, the same 3 % as for the CPU that the kernel sees others use: of squeezenet's processes on
ONNX Runtime, those whose readings were on average up to 3 % above the fastest had medians 0.4 to 0.6 % apart (standard
deviation), the others 3 to 5 %, and those were 4 to 8 % longer (300 processes on two CPUs, x86-64, 2026-11).

Source of the second: who is there for much of the time does to memory and its caches what the yardstick, which hardly
needs them, does not show, and in the gaps that he leaves. Of squeezenet's processes with clean readings all six on
ONNX Runtime and MNN that had lost more than a quarter of their time to him, waits before the loop included, were 5 to
18 % longer than the best tenth; of the 44 that had lost none nine in ten were at most 1.5 to 2.8 %, on ncnn, too.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec

from bench.evidence.yardstick import fastest_of
from bench.record import CaseLine, CoreFacts, TrialLine

# Beside somebody who hardly ever leaves few of a trial's readings are of a core left alone.
SHARE_ALONE = 0.1
# Of a trial's time so much may be lost to a neighbour.
MOST_LOST = 0.25


def fastest_ns(case: CaseLine, trials: Iterable[TrialLine]) -> float | None:
    """The shortest that is known of this machine, from when its peaks were measured or from one of these trials.

    None where there is nobody that the kernel cannot see, or nothing is known.
    """
    if case.peaks is None or not case.peaks.virtual:
        return None
    known = [fastest_of(t.core.readings_ns, SHARE_ALONE) for t in trials if t.core and t.core.readings_ns]
    return min([*known, *([case.peaks.core_ns] if case.peaks.core_ns else [])], default=None)


def informed(case: CaseLine, core_ns: int | None) -> CaseLine:
    """The case, knowing that a core of this machine was seen to be so fast; as it is where it knew that, or more."""
    peaks = case.peaks
    if peaks is None or not peaks.core_ns or core_ns is None or core_ns >= peaks.core_ns:
        return case
    return msgspec.structs.replace(case, peaks=msgspec.structs.replace(peaks, core_ns=core_ns))


def slowed(trial: TrialLine, fastest: float | None) -> float | None:
    """How much longer than the fastest the trial's readings are in the mean, as a share; None where it is not known."""
    return longer(mean_ns(trial.core), fastest)


def mean_ns(core: CoreFacts | None) -> float | None:
    """The mean of the readings; None without any."""
    return statistics.fmean(core.readings_ns) if core and core.readings_ns else None


def longer(core_ns: float | None, fastest: float | None) -> float | None:
    """How much longer than the fastest that is, as a share; None where one of them is not known."""
    return None if core_ns is None or fastest is None else max(0.0, core_ns / fastest - 1)


def crowded(trial: TrialLine, fastest: float | None) -> float:
    """Of the time in which a trial's inferences were timed, the share that was lost to a neighbour."""
    if fastest is None or trial.core is None or not trial.core.void_s:
        return 0.0
    return trial.core.void_s / (trial.core.void_s + (trial.bracket_ns or 0) / 1e9)
