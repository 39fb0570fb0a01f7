"""A loaded phase in the child: streams, the evidence around it, and what it leaves as JSON.

Standard library, numpy and one backend; Python 3.10.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.evidence import load as machine_load
from bench.interface import Artifact, Backend, Feeds, Options, Outputs, Plan, Session
from bench.measure import loop, scenarios
from bench.measure.scenarios import Loaded, Ready, Scenario
from bench.measure.streams import Pool, ProcessStream, RealWorld, Stream, ThreadStream


@dataclass(frozen=True, slots=True)
class UnderLoad:
    """What was measured, the machine meanwhile, and what each stream answered last.

    `peak_rss_bytes`: of this process without what we keep, and of the streams' own processes together.
    """

    ready: Ready
    loaded: Loaded
    load: machine_load.Load
    made: tuple[tuple[Outputs, int], ...]
    peak_rss_bytes: int | None


def under_load(pool: Pool, scenario: Scenario, plan: Plan, threads: int, seed: int) -> UnderLoad:
    """Warm the streams up, then measure them as the scenario says. `threads`: of each session."""
    world = RealWorld()
    counts = scenarios.stream_counts(scenario, len(os.sched_getaffinity(0)), threads)
    with loop.no_garbage_collection():
        ready = scenarios.prepare(pool, plan, counts, world)
        streams = pool.first(ready.streams)
        peak_before = machine_load.memory_bytes()[1]
        elsewhere_s, before = pool.cpu_s(), machine_load.snapshot()
        loaded = scenarios.measure(scenario, streams, plan, seed, world)
        after, elsewhere_s = machine_load.snapshot(), pool.cpu_s() - elsewhere_s
    ours = replace(after, own_s=after.own_s + elsewhere_s)
    load = machine_load.between(before, ours)
    peak = machine_load.peak_without(peak_before, machine_load.memory_bytes()[1], kept_bytes(loaded))
    peak = None if peak is None else peak + sum(machine_load.memory_bytes(pid)[1] or 0 for pid in pool.pids())
    return UnderLoad(ready, loaded, load, tuple(stream.last() for stream in streams), peak)


def kept_bytes(loaded: Loaded) -> int:
    """What deploybench itself keeps of a loaded phase, at most: latencies, or the largest schedule."""
    if loaded.served is None:
        return loaded.latencies_ns.size * machine_load.BYTES_PER_SAMPLE
    queries = max([loaded.served.scheduled, *(probe.queries for probe in loaded.probes)])
    return queries * machine_load.BYTES_PER_QUERY


def maker(
    backend: Backend, spec: str, artifact: Artifact, options: Options, session: Session, feeds: Sequence[Feeds]
) -> Callable[[int], Stream]:
    """Makes the streams of a backend. The first one in this process is the session that is loaded already."""

    def make(number: int) -> Stream:
        if backend.concurrency == "processes":
            return ProcessStream(spec, artifact, options, feeds, number)
        return ThreadStream(session if number == 0 else backend.load(artifact, options), feeds, number)

    return make


def facts(found: UnderLoad, seed: int) -> dict[str, Any]:
    """What the client is told of it, besides outputs and samples."""
    ready, loaded = found.ready, found.loaded
    served = loaded.served
    server = None
    if served:
        server = {
            "rate": served.rate or None,
            "scheduled": served.scheduled,
            "overloaded": served.overloaded,
            "late_ns": served.late_ns,
            "seed": seed,
            "probes": [asdict(probe) for probe in loaded.probes],
        }
    return {
        "warmup_count": ready.warmup_count + loaded.others,
        "warmup_ended_by": "",
        "stopped_by": loaded.stopped_by,
        "bracket_ns": round(loaded.window.seconds * 1e9),
        "fits": scenarios.fits(loaded),
        "throughput": {
            **asdict(loaded.window),
            "sweep": [{"streams": window.streams, "per_s": window.per_s} for window in ready.sweep],
        },
        "server": server,
        "load": asdict(found.load),
    }
