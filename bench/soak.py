"""A soak from the near side: stretch after stretch in one process, each judged and written down the moment it ends.

Between two stretches the process waits for some tens of milliseconds, while its last answer is judged and the line is
written: nothing of that is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from bench import record
from bench.evidence.yardstick import Alone
from bench.fold.core import longer, mean_ns
from bench.interface import Outputs, Plan
from bench.store import now
from bench.worker.client import Worker
from bench.worker.protocol import Unpacker

# So many stretches at most, each of a second at least: a picture shows no more, and a machine that got slow shows in
# less. A stretch holds enough inferences for a median, with one to spare.
STRETCHES = 120
SHORTEST_S = 1.0
INFERENCES = 12
TIME_IS_UP = "the time is up"
# How often a person is told how far it is.
SAY = 20


@dataclass(frozen=True, slots=True)
class Soak:
    """What is asked for: so many seconds. `first_run_s` tells how long an inference takes, roughly."""

    seconds: float
    first_run_s: float
    case_id: str
    index: int
    limit_s: float
    """What a stretch may take beyond its own time."""
    alone: Alone | None = None
    """What a core that is left alone takes, where that can be told. Nobody is waited for."""

    @property
    def stretch_s(self) -> float:
        """How long a stretch is; a third of the whole at most, so that there is a begin and an end to compare."""
        return min(self.seconds / 3, max(SHORTEST_S, self.seconds / STRETCHES, INFERENCES * self.first_run_s))


def measure(
    worker: Worker,
    soak: Soak,
    plan: Plan,
    *,
    judge: Callable[[Outputs, int], bool],
    keep: Callable[[record.SliceLine], None],
    say: Callable[[str], None],
) -> dict[str, Any]:
    """The facts of the trial, but for those that `keep` was given, stretch by stretch.

    `judge` says whether outputs of a feed are right: an hour of wrong answers is worth nothing, so it ends there.

    Raises:
        WorkerError: a stretch failed; those before it have been kept.
    """
    answers: list[dict[str, Any]] = []
    began_at = now()
    begin, measured_s, right = 0.0, 0.0, True
    while right and measured_s < soak.seconds:
        seconds = _next_s(soak, measured_s)
        args = {"plan": asdict(plan), "soak": {"seconds": seconds, "first": not answers}}
        limit_s = seconds + soak.limit_s + (0.0 if answers else plan.warmup_max_s)
        answer, body = worker.ask("measure", args, limit_s=limit_s)
        stretch_s = answer["bracket_ns"] / 1e9
        at_s = time.perf_counter() - stretch_s
        begin = begin if answers else at_s
        reader = Unpacker(body)
        outputs = {name: reader.value(tree) for name, tree in answer["outputs"].items()}
        keep(_line(soak, len(answers), began_at, at_s - begin, answer))
        right = judge(outputs, answer["feed_index"])
        if int(SAY * measured_s / soak.seconds) < int(SAY * (measured_s + stretch_s) / soak.seconds):
            say(f"soak: {measured_s + stretch_s:.0f} of {soak.seconds:.0f} s{_others(answer, soak.alone)}")
        measured_s += stretch_s
        answers.append({**answer, "outputs": None})
    return _facts(answers, TIME_IS_UP if right else "its answers are wrong")


def _others(answer: dict[str, Any], alone: Alone | None) -> str:
    """A word in time: whoever waits for an hour wants to know at once that it will be noisy."""
    share = answer["load"]["foreign_cpu"]
    if (share or 0.0) > record.MAX_FOREIGN_CPU:
        return f"; others are using {share:.0%} of the CPU"
    taken = longer(mean_ns(record.CoreFacts(**answer["core"])), alone.fastest_ns) if alone else None
    return f"; the CPU is {taken:.0%} slower than it can be" if alone and (taken or 0.0) > alone.slack else ""


def _next_s(soak: Soak, measured_s: float) -> float:
    """A stretch, or what is left where another one would be less than half of one."""
    left = soak.seconds - measured_s
    return left if left < 1.5 * soak.stretch_s else soak.stretch_s


def _line(soak: Soak, number: int, began_at: str, at_s: float, answer: dict[str, Any]) -> record.SliceLine:
    observed = msgspec.convert(answer.get("observed"), record.ObservedFacts | None)
    core_ns = mean_ns(record.CoreFacts(**answer["core"]))
    return record.SliceLine(
        schema=record.SCHEMA,
        id=soak.case_id,
        index=soak.index,
        number=number,
        began_at=began_at,
        at_s=at_s,
        seconds=answer["bracket_ns"] / 1e9,
        scope=answer["scope"],
        clock=answer["clock"],
        max_ns=answer["max_ns"],
        bins=record.BinsFacts(**answer["bins"]),
        fits=answer["fits"],
        load=record.LoadFacts(**answer["load"]),
        observed=msgspec.structs.replace(observed, timeline=[]) if observed else None,
        rss_bytes=answer["rss_bytes"],
        core_ns=None if core_ns is None else round(core_ns),
    )


def _facts(answers: list[dict[str, Any]], stopped_by: str) -> dict[str, Any]:
    first, last = answers[0], answers[-1]
    return {
        "warmup_count": first["warmup_count"],
        "warmup_ended_by": first["warmup_ended_by"],
        "stopped_by": stopped_by,
        "bracket_ns": sum(a["bracket_ns"] for a in answers),
        "fits": all(a["fits"] for a in answers),
        "load": whole_load([record.LoadFacts(**a["load"]) for a in answers]),
        "core": record.CoreFacts(readings_ns=[ns for a in answers for ns in a["core"]["readings_ns"]]),
        "peak_rss_bytes": last["peak_rss_bytes"],
        "placement": last["placement"],
        "affinity": last["affinity"],
    }


def whole_load(loads: list[record.LoadFacts]) -> record.LoadFacts:
    """The load over several stretches: shares by their time, null where one of them is not known."""
    wall_s = sum(x.wall_s for x in loads)

    def share(parts: list[float | None]) -> float | None:
        known = [p * x.wall_s for p, x in zip(parts, loads, strict=True) if p is not None]
        return sum(known) / wall_s if len(known) == len(loads) and wall_s else None

    return record.LoadFacts(
        wall_s=wall_s,
        foreign_cpu=share([x.foreign_cpu for x in loads]),
        steal=share([x.steal for x in loads]),
        involuntary_switches=sum(x.involuntary_switches for x in loads),
        major_faults=sum(x.major_faults for x in loads),
        reason=next((x.reason for x in loads if x.reason), ""),
    )
