"""Nights of made-up cells: records as they fold from lines, and run files as `compare` and `history` read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import pytest

from bench import record as r
from bench.fold import fold
from bench.store import read_lines

GOLDEN = Path(__file__).parent.parent / "golden"
LINES = list(read_lines(GOLDEN / "schema-1.jsonl"))
CASE = next(line for line in LINES if isinstance(line, r.CaseLine))
TRIAL = next(line for line in LINES if isinstance(line, r.TrialLine))
BEGIN = datetime(2026, 1, 1, 2)
ENVIRONMENT = {"machine": "board", "cpu": "Fast CPU", "cores": 4, "kernel": "Linux 6.1", "python": "3.11.7"}
replace = msgspec.structs.replace


@dataclass(frozen=True)
class Nights:
    """Makes records and run files; every trial has 64 equal samples, so its median is what is asked for."""

    def lines(self, medians_ms, number=0, model="squeezenet", backend="ort-cpu", **more):
        """The lines of a case in the night of that number."""
        begun = BEGIN + timedelta(days=number, seconds=more.pop("seconds", 0))
        run = more.pop("run", f"{begun:%Y%m%dT%H%M%SZ}-{number:08x}")
        machine, threads = more.pop("machine", "board"), more.pop("threads", 1)
        environment = {**ENVIRONMENT, **more.pop("environment", {})}
        identity = f"{model}-{backend}-{machine}-{run}"
        options = replace(CASE.case.options, threads=threads, batch=None, extra={})
        facts = replace(CASE.case, model=replace(CASE.case.model, name=model), backend=backend, options=options)
        case = replace(
            CASE,
            id=more.pop("id", identity),
            run=run,
            machine=machine,
            cell=f"{model}-{backend}-{threads}",
            started_at=f"{begun:%Y-%m-%dT%H:%M:%SZ}",
            case=replace(facts, device=more.pop("device", "local")),
            reference=replace(CASE.reference, producer="torch"),
            prepare=replace(CASE.prepare, converter={}),
            trials_wanted=len(medians_ms),
            max_foreign_cpu=r.MAX_FOREIGN_CPU,
            notes=[f"confirms {more.pop('confirms')}"] if "confirms" in more else [],
        )
        rss = more.pop("rss_mib", 100)
        peaks = [int(mib * 2**20) for mib in (rss if isinstance(rss, list) else [rss] * len(medians_ms))]
        usual = {
            "environment": environment,
            "runtimes": more.pop("runtimes", {"onnxruntime": "1.31.1"}),
            "load": replace(TRIAL.load, foreign_cpu=more.pop("foreign", 0.001), reason=""),
            "parity": more.pop("parity", TRIAL.parity),
            "error": more.pop("error", None),
            "core": r.CoreFacts(readings_ns=[more.pop("core_ns")]) if "core_ns" in more else None,
        }
        scope = more.pop("scope", "end_to_end")
        trials = [
            replace(
                TRIAL,
                id=case.id,
                index=index,
                series=[r.Series(scope=scope, clock="host", samples_ns=[round(ms * 1e6)] * 64)],
                memory=replace(TRIAL.memory, peak_rss_bytes=peaks[index]),
                **usual,
            )
            for index, ms in enumerate(medians_ms)
        ]
        assert not more, more
        return [case, *trials, r.EndLine(schema=1, id=case.id, stopped_by="enough trials")]

    def record(self, medians_ms, number=0, **more):
        """The record that these lines fold into."""
        case, *trials, end = self.lines(medians_ms, number, **more)
        return fold(case, trials, end)

    def trials(self, level_ms, rng, spread=0.01, night=0.003, count=6):
        """Medians of fresh processes in a night of a steady cell."""
        tonight = level_ms * math.exp(night * rng.standard_normal())
        return tonight * np.exp(spread * rng.standard_normal(count))

    def steady(self, count, rng, level_ms=6.5, **more):
        """So many nights of a steady cell, from night 0 on."""
        return [self.record(self.trials(level_ms, rng), number, **more) for number in range(count)]

    def write(self, results, *cases):
        """A run file of these cases, each a list of lines; the path."""
        first = cases[0][0]
        path = results / "records" / first.machine / f"{first.run}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"".join(r.encode_line(line) + b"\n" for case in cases for line in case))
        return path


@pytest.fixture(scope="session")
def nights():
    return Nights()
