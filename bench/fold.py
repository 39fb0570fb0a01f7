"""From a case's journal lines to its record: the verdict and every figure.

Pure functions, so verdicts, statistics and tables can be redone years later from the same lines.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

import msgspec

from bench.measure import stats
from bench.plausible.bound import most_flop_per_s
from bench.record import (
    SCHEMA,
    CaseLine,
    EndLine,
    ErrorFacts,
    EvidenceFacts,
    JudgedFacts,
    LatencyFacts,
    MemoryFacts,
    ObservedFacts,
    ParityFacts,
    PercentileFacts,
    PlacementFacts,
    Record,
    ServerFacts,
    Status,
    SweepFacts,
    ThroughputFacts,
    TrialLine,
    WorkFacts,
)


def fold(case: CaseLine, trials: Sequence[TrialLine], end: EndLine | None) -> Record:
    """The record of a case from its lines: the verdict and every figure.

    Trials count in the order of their index, in whatever order their lines come. Without an `end` line the run was
    interrupted: what was measured until then stands. Latency is of the quiet trials alone, where there is one.
    The status is the first of these that holds:

    1. `wrong`: an answer failed parity. A later crash does not make it right, so this outweighs everything.
    2. `unavailable`, `unsupported`, `crashed`, `timeout`, `failed`: an error ended the case; `error` says where.
    3. `skipped`: no trial was begun. `failed`: one took no samples, or there was no reference to judge it by.
    4. `implausible`: samples that do not fit into the time that passed, or that nobody held against a clock, or a
       median in which the machine cannot have computed the model.
    5. `noisy`: fewer than half of the trials were quiet.
    6. `ok`: every trial that ran was right, and its samples can be believed. Only this is published.
    """
    trials = sorted(trials, key=lambda t: t.index)
    quiet = [t for t in trials if not noisy(t, case.max_foreign_cpu)]
    used = quiet or trials
    error = (end.error if end else None) or next((t.error for t in trials if t.error), None)
    summaries = _summaries(used, case.trials_wanted)
    latencies = [_latency(scope, clock, lists, summary, used) for (scope, clock), lists, summary in summaries]
    throughput = _throughput(used, case.case.options.batch or 1)
    work = _work(case, used, latencies, throughput)
    status, why = _status(case, trials, quiet, end, error, _too_fast(case, work, latencies, throughput))
    judged = _worst_parity(trials)
    known = next((t for t in reversed(trials) if t.environment), None)
    runtimes = known.runtimes if known else {}
    return Record(
        schema=SCHEMA,
        id=case.id,
        cell=case.cell,
        run=case.run,
        machine=case.machine,
        started_at=case.started_at,
        status=status,
        why=why,
        case=case.case,
        prepare=case.prepare,
        cold=next((t.cold for t in trials if t.cold and t.cold.load_s is not None), trials[0].cold if trials else None),
        latency=latencies[0] if latencies else None,
        latencies=latencies,
        throughput=throughput,
        server=_server(used),
        memory=_memory(trials),
        parity=_parity(case, judged, runtimes) if judged else None,
        evidence=_evidence(case, trials, used, quiet, end),
        environment={**(known.environment if known else {}), "runtimes": runtimes},
        error=error,
        notes=[*case.notes, *_steadiness(used, summaries[0][2] if summaries else None)],
        work=work,
    )


def noisy(trial: TrialLine, max_foreign_cpu: float) -> bool:
    """Whether others used more of the machine during the timed loop than was allowed, or it cannot be told.

    A CPU that was throttled is another machine than the one that was to be measured: noisy, whatever is allowed.
    """
    if trial.observed and trial.observed.throttled:
        return True
    if not trial.load or max_foreign_cpu >= 1:
        return False
    return trial.load.foreign_cpu is None or trial.load.foreign_cpu > max_foreign_cpu


_OF_ERROR: dict[str, Status] = {
    "BackendUnavailable": "unavailable",
    "UnsupportedModel": "unsupported",
    "Crashed": "crashed",
    "Timeout": "timeout",
}


def _status(
    case: CaseLine,
    trials: Sequence[TrialLine],
    quiet: Sequence[TrialLine],
    end: EndLine | None,
    error: ErrorFacts | None,
    too_fast: str,
) -> tuple[Status, str]:
    """The verdict, in the order that `fold` states, and, unless it is `ok`, the reason in words."""
    wrong = next((t.parity for t in trials if t.parity and not t.parity.passed), None)
    if wrong:
        return "wrong", wrong.problem
    if error:
        return _OF_ERROR.get(error.error, "failed"), f"{error.phase}: {error.message}"
    if not trials:
        return "skipped", end.stopped_by if end else "interrupted before the first trial ended"
    if not all(_samples_of(t) or t.throughput for t in trials):
        return "failed", "measure: a trial took no samples"
    if case.reference is None or any(t.parity is None for t in trials):
        return "failed", "parity: there is no reference to judge by"
    if any(t.fits is False for t in trials):
        return "implausible", "the samples add up to more time than passed, or are not positive"
    if any(t.fits is None for t in trials):
        return "implausible", "nobody checked whether the samples fit into the time that passed"
    if too_fast:
        return "implausible", too_fast
    if 2 * len(quiet) < len(trials):
        return "noisy", _noise(trials)
    return "ok", ""


def _samples_of(trial: TrialLine) -> bool:
    return bool(trial.series) and all(series.samples_ns for series in trial.series)


def _throughput(trials: Sequence[TrialLine], batch: int) -> ThroughputFacts | None:
    """Of the trial in the middle, the slower one of two."""
    rates = [(t.throughput.inferences * batch / t.throughput.seconds, t.throughput) for t in trials if t.throughput]
    if not rates:
        return None
    per_s, middle = sorted(rates, key=lambda r: r[0])[(len(rates) - 1) // 2]
    return ThroughputFacts(
        per_s=per_s,
        batch=batch,
        streams=middle.streams,
        seconds=middle.seconds,
        inferences=middle.inferences,
        sweep=[SweepFacts(streams=s.streams, per_s=s.per_s * batch) for s in middle.sweep],
        trial_per_s=[rate for rate, _ in rates],
    )


def _server(trials: Sequence[TrialLine]) -> ServerFacts | None:
    """Of the trial with the lowest rate: every trial held the bound at it, or at a higher one."""
    known = [(t.server, t.stopped_by) for t in trials if t.server]
    if not known:
        return None
    lowest, stopped_by = min(known, key=lambda k: k[0].rate or 0.0)
    return msgspec.structs.replace(
        lowest,
        overloaded=any(s.overloaded for s, _ in known),
        trial_rates=[s.rate for s, _ in known],
        stopped_by=stopped_by,
    )


def _noise(trials: Sequence[TrialLine]) -> str:
    throttled = [t.observed.throttle for t in trials if t.observed and t.observed.throttled]
    if throttled:
        return f"the CPU was throttled during the measurement ({throttled[0]})"
    shares = [t.load.foreign_cpu for t in trials if t.load and t.load.foreign_cpu is not None]
    if not shares:
        return next((t.load.reason for t in trials if t.load), "") or "the load cannot be told"
    return f"others used up to {max(shares):.0%} of the CPU during the timed loop"


def _summaries(
    trials: Sequence[TrialLine], wanted: int
) -> list[tuple[tuple[str, str], list[list[int]], stats.Summary]]:
    """Every scope and clock over the trials that have it, the headline (each trial's first) first."""
    scopes: dict[tuple[str, str], list[list[int]]] = {}
    for trial in trials:
        for series in trial.series if _samples_of(trial) else ():
            scopes.setdefault((series.scope, series.clock), []).append(series.samples_ns)
    return [(scope, lists, stats.summarise(lists, wanted)) for scope, lists in scopes.items()]


def _latency(
    scope: str, clock: str, lists: list[list[int]], summary: stats.Summary, trials: Sequence[TrialLine]
) -> LatencyFacts:
    return LatencyFacts(
        scope=scope,
        clock=clock,
        n=summary.n,
        p50_ns=summary.p50_ns,
        p50_ci_ns=summary.p50_ci_ns,
        p50_ci_reason=summary.p50_ci_reason,
        trial_p50_ns=list(summary.trial_p50_ns),
        percentiles=[PercentileFacts(q=p.q, ns=p.ns, needs=p.needs, lo=p.lo, hi=p.hi) for p in summary.percentiles],
        stopped_by=", ".join(sorted({t.stopped_by for t in trials if _samples_of(t)})),
        samples_ns=[s for samples in lists for s in samples],
        p50_ci_relative=_rounded(summary.p50_ci_relative),
        within_process_ci_ns=summary.within_process_ci_ns,
        autocorrelation=_rounded(summary.autocorrelation),
        effective_n=summary.effective_n,
        drift_within_trial=_rounded(summary.trend_within_trial.relative if summary.trend_within_trial else None),
        drift_over_trials=_rounded(summary.trend_over_trials.relative if summary.trend_over_trials else None),
    )


def _rounded(share: float | None) -> float | None:
    """To a millionth: the digits beyond differ between CPUs, since sums are made in another order."""
    return None if share is None else round(share, 6)


def _steadiness(trials: Sequence[TrialLine], summary: stats.Summary | None) -> list[str]:
    """In words, what was still changing while it was timed."""
    restless = sum(t.warmup_ended_by == "limit" for t in trials)
    notes = [f"warm-up: {restless} of {len(trials)} trials were not steady when its time was up"] if restless else []
    if summary is None:
        return notes
    for trend, span in (
        (summary.trend_within_trial, "from begin to end of a trial"),
        (summary.trend_over_trials, "from the first trial to the last"),
    ):
        if trend and trend.significant:
            notes.append(f"trend: the latency changes by {trend.relative:+.1%} {span}")
    return notes


def _work(
    case: CaseLine,
    used: Sequence[TrialLine],
    latencies: Sequence[LatencyFacts],
    throughput: ThroughputFacts | None,
) -> WorkFacts | None:
    """How fast it computed, and what the CPUs that it might use can do at most in the precision that it used.

    The peaks are of as many threads as one inference has, so parallel streams have no share of them.
    """
    counts, peaks = case.counts, case.peaks
    if counts is None:
        return None
    pace_ns = _pace_ns(latencies, throughput)
    rate = 2e9 * counts.macs / pace_ns if pace_ns else None
    copied = 1e9 * counts.bytes / pace_ns if pace_ns else None
    most, reason = _most(case, next((t.placement for t in used if t.placement), None))
    alone = most is not None and throughput is None
    return WorkFacts(
        flop=2 * counts.macs,
        flop_per_s=rate,
        share_of_peak=_share(rate, peaks.flop_per_s) if peaks and alone else None,
        bytes=counts.bytes,
        share_of_copy=_share(copied, peaks.copy_bytes_per_s) if peaks and alone else None,
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


def _pace_ns(latencies: Sequence[LatencyFacts], throughput: ThroughputFacts | None) -> float | None:
    """The time that an inference takes: the median, or of parallel streams together."""
    if throughput:
        return throughput.seconds * 1e9 / throughput.inferences if throughput.inferences else None
    return latencies[0].p50_ns if latencies and latencies[0].p50_ns > 0 else None


def _most(case: CaseLine, placement: PlacementFacts | None) -> tuple[float | None, str]:
    """Operations per second that the case cannot have surpassed, or why that is not known."""
    if case.peaks is None or placement is None:
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


def _too_fast(
    case: CaseLine, work: WorkFacts | None, latencies: Sequence[LatencyFacts], throughput: ThroughputFacts | None
) -> str:
    """Why a median, or a throughput, cannot be true: the machine cannot compute the model's least in it, or empty."""
    medians: list[float | None] = [x.p50_ns for x in latencies if x.scope != "enqueue"]
    pace_ns = _pace_ns((), throughput)
    fastest = min((x for x in [*medians, pace_ns] if x is not None), default=None)
    if work is None or work.least_ns is None or work.most_flop_per_s is None or fastest is None:
        return ""
    if fastest >= work.least_ns or fastest <= 0:
        return ""
    claimed, most = work.least_flop / fastest, work.most_flop_per_s / 1e9
    return (
        f"{case.case.model.name} in {fastest / 1e6:.3g} ms takes {claimed:,.0f} GFLOP/s even by the fastest algorithms "
        f"known, and this machine reaches {most:,.0f} at the very most"
    )


def _worst_parity(trials: Iterable[TrialLine]) -> JudgedFacts | None:
    judged = [t.parity for t in trials if t.parity]
    return max(judged, key=worst_first, default=None)


def worst_first(judged: JudgedFacts) -> tuple[bool, float]:
    """The order in which parity results stand for a case: failures, then by how much of the tolerance they used."""
    exceed = [math.inf if o.exceed is None else o.exceed for o in judged.outputs]
    return (not judged.passed, max(exceed, default=math.inf))


def _parity(case: CaseLine, judged: JudgedFacts, runtimes: dict[str, str]) -> ParityFacts | None:
    if case.reference is None:
        return None
    producers = {_family(name) for name in case.reference.producer.split(" and ")}
    independent = not producers & {_family(name) for name in runtimes}
    return ParityFacts(
        passed=judged.passed,
        grade=judged.grade,
        independent=independent,
        at=judged.at,
        feed=judged.feed,
        problem=judged.problem,
        reference=case.reference,
        tolerance=case.tolerance,
        outputs=judged.outputs,
    )


def _family(distribution: str) -> str:
    """One runtime is packaged under several names; judged by its sibling, it is judged by itself."""
    return re.split(r"[-_]", distribution.lower(), maxsplit=1)[0]


def _memory(trials: Sequence[TrialLine]) -> MemoryFacts | None:
    known = [t.memory for t in trials if t.memory]
    if not known:
        return None
    return MemoryFacts(
        loaded_rss_bytes=max((m.loaded_rss_bytes for m in known if m.loaded_rss_bytes is not None), default=None),
        peak_rss_bytes=max((m.peak_rss_bytes for m in known if m.peak_rss_bytes is not None), default=None),
    )


def _largest(values: list[float | None]) -> float | None:
    """The largest, or None where one of them is not known: that one may have been larger."""
    known = [v for v in values if v is not None]
    return max(known) if known and len(known) == len(values) else None


def _evidence(
    case: CaseLine,
    trials: Sequence[TrialLine],
    used: Sequence[TrialLine],
    quiet: Sequence[TrialLine],
    end: EndLine | None,
) -> EvidenceFacts:
    loads = [t.load for t in used if t.load]
    observed = _observed([t.observed for t in used if t.observed])
    energy_j, energy_reason = _energy_per_inference(used, case.case.options.scenario)
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
        trials_noisy=len(trials) - len(quiet),
        complete=end is not None,
        target=case.target,
        stopped_by=end.stopped_by if end else "interrupted",
        observed=observed,
        energy_per_inference_j=energy_j,
        energy_reason=energy_reason,
        waited_s=sum((t.waited.waited_s for t in trials if t.waited), 0.0),
    )


def _observed(seen: Sequence[ObservedFacts]) -> ObservedFacts | None:
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
    )


def _sum(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) if known and len(known) == len(values) else None


def _energy_per_inference(used: Sequence[TrialLine], scenario: str) -> tuple[float | None, str]:
    """Energy of the CPU packages over every inference of the measurement, the warm-up's too; or why there is none."""
    if scenario != "single-stream":
        return None, f"not available: {scenario} loads and tries more than the inferences that it counts"
    joules = _sum([t.observed.energy_j if t.observed else None for t in used])
    count = sum(t.warmup_count + (len(t.series[0].samples_ns) if t.series else 0) for t in used)
    if joules is not None and count:
        return joules / count, ""
    told = (t.observed.not_available.get("energy_j", "") for t in used if t.observed)
    return None, next((reason for reason in told if reason), "not available: it was not looked at")
