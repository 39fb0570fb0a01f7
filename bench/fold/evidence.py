"""Why figures can be believed: what was seen of the machine, of memory and of energy, over trials."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime

from bench.fold.core import MOST_LOST, crowded, mean_ns, slowed
from bench.fold.gpu import gpu_of, shared
from bench.record import (
    CaseLine,
    ClusterFacts,
    ColdFacts,
    ColdStartFacts,
    EndLine,
    EvidenceFacts,
    MemoryFacts,
    ObservedFacts,
    SpreadFacts,
    TrialLine,
)


def evidence_of(
    case: CaseLine,
    trials: Sequence[TrialLine],
    used: Sequence[TrialLine],
    quiet: int,
    end: EndLine | None,
    seen: Sequence[ObservedFacts | None],
    inferences: int,
    fastest: float | None,
) -> EvidenceFacts:
    """Over the trials that are used; `seen` and `inferences` (the warm-up's too) are of them.

    `fastest`: what the yardstick's readings are held against.
    """
    loads = [t.load for t in used if t.load]
    energy_j, energy_reason = energy_per_inference(seen, inferences, case.case.options.scenario)
    return EvidenceFacts(
        foreign_cpu=_largest([x.foreign_cpu for x in loads]),
        max_foreign_cpu=case.max_foreign_cpu,
        steal=_largest([x.steal for x in loads]),
        load_reason=next((x.reason for x in loads if x.reason), ""),
        involuntary_switches=sum(x.involuntary_switches for x in loads),
        major_faults=sum(x.major_faults for x in loads),
        placement=next((t.placement for t in used if t.placement), None),
        trials=len(trials),
        trials_wanted=case.trials_wanted,
        trials_noisy=len(trials) - quiet,
        complete=end is not None,
        target=case.target,
        stopped_by=end.stopped_by if end else "interrupted",
        observed=observed([s for s in seen if s]),
        energy_per_inference_j=energy_j,
        energy_reason=energy_reason,
        waited_s=sum(one.waited_s for t in trials for one in (t.waited, t.core) if one),
        trials_max=case.trials_max,
        plan=case.plan,
        trials_over_s=_apart_s([t.started_at for t in used]),
        emulated=next(filter(None, map(emulated, trials)), ""),
        core_slowed=_largest([slowed(t, fastest) for t in used if t.load]),
        core_ns=_core_ns(used),
    )


def _core_ns(used: Sequence[TrialLine]) -> int | None:
    """What the yardstick's arithmetic took in these trials: the mean of their means."""
    means = [ns for t in used if (ns := mean_ns(t.core)) is not None]
    return round(statistics.fmean(means)) if means else None


def _apart_s(times: Sequence[str]) -> float | None:
    """From the first of these times to the last; None where there are not two."""
    at = sorted(map(datetime.fromisoformat, times))
    return (at[-1] - at[0]).total_seconds() if len(at) > 1 else None


def emulated(trial: TrialLine) -> str:
    """What imitated the machine's processor or the device that was used; empty where nothing did that can be told."""
    of_machine = str(trial.environment.get("emulated") or "")
    return of_machine or (trial.placement.emulated if trial.placement else "")


_NEIGHBOUR = "a neighbour of this virtual machine, unseen from inside,"


def noise(trials: Sequence[TrialLine], max_foreign_cpu: float, fastest: float | None = None) -> str:
    """In words, why these trials were noisy. What the kernel saw comes before what only the yardstick did."""
    throttled = [t.observed.throttle for t in trials if t.observed and t.observed.throttled]
    if throttled:
        return f"the CPU was throttled during the measurement ({throttled[0]})"
    if of_gpu := next((words for t in trials if (words := shared(t))), ""):
        return of_gpu
    shares = [t.load.foreign_cpu for t in trials if t.load and t.load.foreign_cpu is not None]
    if not shares:
        return next((t.load.reason for t in trials if t.load), "") or "the load cannot be told"
    if max(shares) <= max_foreign_cpu:
        if (taken := max(slowed(t, fastest) or 0.0 for t in trials)) > max_foreign_cpu:
            return f"the CPU was up to {taken:.0%} slower than it can be: {_NEIGHBOUR} or its clock"
        if (lost := max(crowded(t, fastest) for t in trials)) > MOST_LOST:
            return f"{_NEIGHBOUR} was there for up to {lost:.0%} of the time"
    return f"others used up to {max(shares):.0%} of the CPU during the timed loop"


def memory(trials: Sequence[TrialLine]) -> MemoryFacts | None:
    """The largest of all trials, and the peak of each."""
    known = [t.memory for t in trials if t.memory]
    if not known:
        return None
    peaks = [m.peak_rss_bytes for m in known if m.peak_rss_bytes is not None]
    return MemoryFacts(
        loaded_rss_bytes=max((m.loaded_rss_bytes for m in known if m.loaded_rss_bytes is not None), default=None),
        peak_rss_bytes=max(peaks, default=None),
        peak_gpu_bytes=max((m.peak_gpu_bytes for m in known if m.peak_gpu_bytes is not None), default=None),
        trial_peak_rss_bytes=peaks,
    )


def first_cold(trials: Sequence[TrialLine]) -> ColdFacts | None:
    """Of the first trial that loaded the artefact; else as far as the first one came."""
    first = trials[0].cold if trials else None
    return next((t.cold for t in trials if t.cold and t.cold.load_s is not None), first)


def cold_start(trials: Sequence[TrialLine]) -> ColdStartFacts | None:
    """Each step over the trials that came so far; quiet or not, because nobody looks at the load meanwhile."""
    cold = [t.cold for t in trials if t.cold]
    if not cold:
        return None
    return ColdStartFacts(
        start_s=spread(c.start_s for c in cold),
        import_s=spread(c.import_s for c in cold),
        load_s=spread(c.load_s for c in cold),
        first_run_s=spread(c.first_run_s for c in cold),
    )


def spread(values: Iterable[float | None]) -> SpreadFacts | None:
    """Of the values that are known."""
    known = [v for v in values if v is not None]
    if not known:
        return None
    return SpreadFacts(median=statistics.median(known), low=min(known), high=max(known), n=len(known))


def _largest(values: list[float | None]) -> float | None:
    """The largest, or None where one of them is not known: that one may have been larger."""
    known = [v for v in values if v is not None]
    return max(known) if known and len(known) == len(values) else None


def observed(seen: Sequence[ObservedFacts]) -> ObservedFacts | None:
    """The extremes over trials. A figure that one of them lacks is absent: that trial may have been the worst."""
    if not seen:
        return None
    lacking: dict[str, str] = {}
    for one in reversed(seen):
        lacking |= one.not_available
    clocks = [s.frequency_mhz for s in seen if s.frequency_mhz]
    hottest = max(seen, key=lambda s: -math.inf if s.temperature_c is None else s.temperature_c)
    turbo = {s.turbo for s in seen}
    throttles = dict.fromkeys(s.throttle for s in seen if s.throttle)
    return ObservedFacts(
        seconds=sum(s.seconds for s in seen),
        frequency_mhz=(min(c[0] for c in clocks), max(c[1] for c in clocks)) if len(clocks) == len(seen) else None,
        governor=", ".join(sorted({s.governor for s in seen if s.governor})) or None,
        turbo=turbo.pop() if len(turbo) == 1 else None,
        temperature_c=_largest([s.temperature_c for s in seen]),
        temperature_of=hottest.temperature_of if "temperature_c" not in lacking else "",
        throttled=True if throttles else None if any(s.throttled is None for s in seen) else False,
        throttle=", ".join(throttles),
        energy_j=_sum([s.energy_j for s in seen]),
        timeline=[],
        not_available=lacking,
        clusters=_clusters([s.clusters for s in seen]),
        gpu=gpu_of(seen),
    )


def _clusters(seen: Sequence[Sequence[ClusterFacts]]) -> list[ClusterFacts]:
    """The extremes over trials, kind by kind; none where trials saw different kinds."""
    if len({tuple(tuple(c.cpus) for c in clusters) for clusters in seen}) != 1:
        return []
    found = []
    for kind in zip(*seen, strict=True):
        clocks = [c.frequency_mhz for c in kind if c.frequency_mhz]
        mhz = (min(c[0] for c in clocks), max(c[1] for c in clocks)) if len(clocks) == len(kind) else None
        governor = ", ".join(sorted({c.governor for c in kind if c.governor})) or None
        found.append(ClusterFacts(cpus=kind[0].cpus, core=kind[0].core, frequency_mhz=mhz, governor=governor))
    return found


def _sum(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known and len(known) == len(values) else None


def energy_per_inference(
    seen: Sequence[ObservedFacts | None], inferences: int, scenario: str
) -> tuple[float | None, str]:
    """Energy of the CPU packages over every inference of the measurement, the warm-up's too; or why there is none."""
    if scenario not in ("single-stream", "soak"):
        return None, f"not available: {scenario} loads and tries more than the inferences that it counts"
    joules = _sum([s.energy_j if s else None for s in seen])
    if joules is not None and inferences:
        return joules / inferences, ""
    told = (s.not_available.get("energy_j", "") for s in seen if s)
    return None, next((reason for reason in told if reason), "not available: it was not looked at")


def restarts(trials: Sequence[TrialLine]) -> list[str]:
    """A note where the trials are of several boots: clocks, governors and heat begin anew with each."""
    boots = {t.environment["boot"] for t in trials if t.environment.get("boot") not in (None, "unknown")}
    return [f"the machine was restarted between trials: they are of {len(boots)} boots"] if len(boots) > 1 else []
