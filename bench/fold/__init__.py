"""From a case's journal lines to its record: the verdict and every figure.

Pure functions, so verdicts, statistics and tables can be redone years later from the same lines. Here is the verdict;
the figures are made by the modules beside it, none of which knows another.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from bench.fold.core import MOST_LOST, crowded, fastest_ns, informed, slowed
from bench.fold.evidence import cold_start, evidence_of, first_cold, memory, noise, restarts, spread
from bench.fold.gpu import shared
from bench.fold.grade import low_precision, reached, required
from bench.fold.latency import has_samples, latency_of, steadiness, summaries
from bench.fold.soak import soak_of
from bench.fold.streams import server, throughput
from bench.fold.work import too_fast, work_of
from bench.record import (
    SCHEMA,
    CaseLine,
    EndLine,
    ErrorFacts,
    JudgedFacts,
    LatencyFacts,
    NewShapesFacts,
    ObservedFacts,
    ParityFacts,
    Record,
    ShapesTried,
    SliceLine,
    SoakFacts,
    Status,
    ThroughputFacts,
    TrialLine,
)

__all__ = ["fastest_ns", "fold", "informed", "noisy", "quiet_ones", "worst_first"]


def fold(case: CaseLine, trials: Sequence[TrialLine], end: EndLine | None, slices: Sequence[SliceLine] = ()) -> Record:
    """The record of a case from its lines: the verdict and every figure.

    Trials count in the order of their index, in whatever order their lines come. Without an `end` line the run was
    interrupted: what was measured until then stands. Latency is of the quiet trials alone, where there is one. A soak
    has slices instead: of the last trial that has any.
    The status is the first of these that holds:

    1. `wrong`: an answer failed parity. A later crash does not make it right, so this outweighs everything.
    2. `unavailable`, `unsupported`, `crashed`, `timeout`, `failed`: an error ended the case; `error` says where.
    3. `skipped`: no trial was begun. `failed`: one took no samples, or there was no reference to judge it by.
    4. `implausible`: samples that do not fit into the time that passed, or that nobody held against a clock, or a
       median in which the machine cannot have computed the model; or right answers that are the same for every input.
    5. `noisy`: fewer than half of the trials were quiet.
    6. `ok`: every trial that ran was right, and its samples can be believed. Only this is published.
    """
    trials = sorted(trials, key=lambda t: t.index)
    case = informed(case, end.core_ns if end else None)
    fastest = fastest_ns(case, trials)
    quiet = quiet_ones(case, trials)
    used = quiet or trials
    error = (end.error if end else None) or next((t.error for t in trials if t.error), None)
    summed = summaries(used, case.looks or [case.trials_wanted])
    latencies = [latency_of(one, used) for one in summed]
    streams = throughput(used, case.case.options.batch or 1)
    soaked = soak_of(case, _of_last_trial(slices), fastest)
    placement = next((t.placement for t in used if t.placement), None)
    pace_ns = _pace_ns(latencies, streams, soaked)
    computed = work_of(case, placement, pace_ns, alone=streams is None)
    accused = too_fast(case.case.model.name, computed, _fastest_ns(latencies, streams, soaked))
    status, why = _status(case, trials, quiet, end, error, accused, soaked)
    judged = _worst_parity(trials)
    known = next((t for t in reversed(trials) if t.environment), None)
    runtimes = known.runtimes if known else {}
    parity = _parity(case, judged, runtimes) if judged else None
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
        cold=first_cold(trials),
        latency=latencies[0] if latencies else None,
        latencies=latencies,
        throughput=streams,
        server=server(used),
        memory=memory(trials),
        parity=parity,
        evidence=evidence_of(
            case, trials, used, len(quiet), end, _seen(used, slices), _inferences(used, soaked), fastest
        ),
        environment={**(known.environment if known else {}), "runtimes": runtimes},
        error=error,
        notes=[
            *case.notes,
            *(low_precision(case, parity) if parity else ()),
            *restarts(trials),
            *steadiness(used, summed[0] if summed else None),
        ],
        work=computed,
        cold_start=cold_start(trials),
        new_shapes=_new_shapes(end.new_shapes) if end and end.new_shapes else None,
        soak=soaked,
        task=case.task,
    )


def quiet_ones(case: CaseLine, trials: Sequence[TrialLine]) -> list[TrialLine]:
    """Those that others did not disturb, as far as all of them together show it."""
    fastest = fastest_ns(case, trials)
    return [t for t in trials if not noisy(t, case.max_foreign_cpu, fastest)]


def noisy(trial: TrialLine, max_foreign_cpu: float, fastest: float | None = None) -> bool:
    """Whether others used more of the machine during the timed loop than was allowed, or it cannot be told.

    Or slowed its CPU by more than that, or were there for much of the time, where the `fastest` reading is known
    (bench/fold/core.py).

    A CPU or GPU that was throttled, or a GPU that others used too, is another machine than the one that was to be
    measured: noisy, whatever is allowed. Not so in a soak, which is made to see that: what its slices saw is not in
    the trial's line.
    """
    if (trial.observed and trial.observed.throttled) or shared(trial):
        return True
    if not trial.load or max_foreign_cpu >= 1:
        return False
    if crowded(trial, fastest) > MOST_LOST:
        return True
    taken = slowed(trial, fastest) or 0.0
    return trial.load.foreign_cpu is None or max(trial.load.foreign_cpu, taken) > max_foreign_cpu


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
    accused: str,
    soaked: SoakFacts | None,
) -> tuple[Status, str]:
    """The verdict, in the order that `fold` states, and, unless it is `ok`, the reason in words."""
    wrong = next((t.parity for t in trials if t.parity and not t.parity.passed), None)
    if wrong:
        return "wrong", wrong.problem
    if error:
        return _OF_ERROR.get(error.error, "failed"), f"{error.phase}: {error.message}"
    if not trials:
        return "skipped", end.stopped_by if end else _interrupted(soaked)
    if not all(has_samples(t) or t.throughput or soaked for t in trials):
        return "failed", "measure: a trial took no samples"
    if case.reference is None or any(t.parity is None for t in trials):
        return "failed", "parity: there is no reference to judge by"
    if any(t.fits is False for t in trials):
        return "implausible", "the samples add up to more time than passed, or are not positive"
    if any(t.fits is None for t in trials):
        return "implausible", "nobody checked whether the samples fit into the time that passed"
    if accused:
        return "implausible", accused
    if case.reference.constant:
        return "implausible", "the reference output is the same for every input: a runtime that does nothing would pass"
    if 2 * len(quiet) < len(trials):
        return "noisy", noise(trials, case.max_foreign_cpu, fastest_ns(case, trials))
    return "ok", ""


def _interrupted(soaked: SoakFacts | None) -> str:
    if soaked is None:
        return "interrupted before the first trial ended"
    return f"interrupted after {soaked.measured_s:.0f} s of {soaked.asked_s:.0f} s"


def _of_last_trial(slices: Sequence[SliceLine]) -> list[SliceLine]:
    """In their order. A trial whose link was lost may have been begun again: only its last attempt counts."""
    last = max((s.began_at for s in slices), default="")
    return sorted((s for s in slices if s.began_at == last), key=lambda s: s.number)


def _pace_ns(
    latencies: Sequence[LatencyFacts], streams: ThroughputFacts | None, soaked: SoakFacts | None
) -> float | None:
    """The time that an inference takes: the median, or of parallel streams together."""
    if streams:
        return streams.seconds * 1e9 / streams.inferences if streams.inferences else None
    if soaked:
        return soaked.p50_ns
    return latencies[0].p50_ns if latencies and latencies[0].p50_ns > 0 else None


def _fastest_ns(
    latencies: Sequence[LatencyFacts], streams: ThroughputFacts | None, soaked: SoakFacts | None
) -> float | None:
    """The shortest time that is claimed for an inference; handing one over to a device (`enqueue`) claims nothing."""
    claimed: list[float | None] = [x.p50_ns for x in latencies if x.scope != "enqueue"]
    claimed.append(_pace_ns((), streams, None))
    if soaked and soaked.scope != "enqueue":
        claimed.append(soaked.p50_ns)
    return min((ns for ns in claimed if ns is not None), default=None)


def _seen(used: Sequence[TrialLine], slices: Sequence[SliceLine]) -> list[ObservedFacts | None]:
    """What was observed in every trial, or in every slice of a soak; None where nobody looked."""
    return [s.observed for s in _of_last_trial(slices)] or [t.observed for t in used]


def _inferences(used: Sequence[TrialLine], soaked: SoakFacts | None) -> int:
    """All of the measurement, the warm-up's too."""
    timed = sum(len(t.series[0].samples_ns) if t.series else 0 for t in used)
    return timed + sum(t.warmup_count for t in used) + (soaked.n if soaked else 0)


def _new_shapes(tried: ShapesTried) -> NewShapesFacts:
    pairs = list(zip(tried.first_s, tried.second_s, strict=False)) if not tried.reason else []
    return NewShapesFacts(
        shapes=tried.shapes,
        first_s=spread(first for first, _ in pairs),
        second_s=spread(second for _, second in pairs),
        extra_s=spread(first - second for first, second in pairs),
        reason=tried.reason,
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
        reached=reached(case, judged),
        required=required(case, judged),
    )


def _family(distribution: str) -> str:
    """One runtime is packaged under several names; judged by its sibling, it is judged by itself."""
    return re.split(r"[-_]", distribution.lower(), maxsplit=1)[0]
