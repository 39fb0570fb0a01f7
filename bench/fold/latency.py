"""Latency over trials: a summary of every scope and clock, and in words what was still changing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.measure import stats
from bench.record import LatencyFacts, PercentileFacts, TrialLine


@dataclass(frozen=True, slots=True)
class Summed:
    """One scope and clock: its samples, trial by trial, and their summary."""

    scope: str
    clock: str
    samples: list[list[int]]
    summary: stats.Summary


def has_samples(trial: TrialLine) -> bool:
    """Whether every series of the trial has some."""
    return bool(trial.series) and all(series.samples_ns for series in trial.series)


def summaries(trials: Sequence[TrialLine], looks: Sequence[int]) -> list[Summed]:
    """Every scope and clock over the trials that have it, the headline (each trial's first) first."""
    scopes: dict[tuple[str, str], list[list[int]]] = {}
    for trial in trials:
        for series in trial.series if has_samples(trial) else ():
            scopes.setdefault((series.scope, series.clock), []).append(series.samples_ns)
    return [Summed(scope, clock, lists, stats.summarise(lists, looks)) for (scope, clock), lists in scopes.items()]


def latency_of(summed: Summed, trials: Sequence[TrialLine]) -> LatencyFacts:
    """A summary as records have it."""
    summary = summed.summary
    return LatencyFacts(
        scope=summed.scope,
        clock=summed.clock,
        n=summary.n,
        p50_ns=summary.p50_ns,
        p50_ci_ns=summary.p50_ci_ns,
        p50_ci_reason=summary.p50_ci_reason,
        trial_p50_ns=list(summary.trial_p50_ns),
        percentiles=[PercentileFacts(q=p.q, ns=p.ns, needs=p.needs, lo=p.lo, hi=p.hi) for p in summary.percentiles],
        stopped_by=", ".join(sorted({t.stopped_by for t in trials if has_samples(t)})),
        samples_ns=[s for samples in summed.samples for s in samples],
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


def steadiness(trials: Sequence[TrialLine], headline: Summed | None) -> list[str]:
    """In words, what was still changing while it was timed."""
    restless = sum(t.warmup_ended_by == "limit" for t in trials)
    notes = [f"warm-up: {restless} of {len(trials)} trials were not steady when its time was up"] if restless else []
    if headline is None:
        return notes
    for trend, span in (
        (headline.summary.trend_within_trial, "from begin to end of a trial"),
        (headline.summary.trend_over_trials, "from the first trial to the last"),
    ):
        if trend and trend.significant:
            notes.append(f"trend: the latency changes by {trend.relative:+.1%} {span}")
    return notes
