"""Records made to measure: whatever a table, a leader board or a list of changes has to show."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from bench.record import CaseLine, EndLine, ErrorFacts, Record, TrialLine, encode_line
from bench.store import read_lines, read_records

GOLDEN = Path(__file__).parent.parent / "golden" / "schema-1.jsonl"
replace = msgspec.structs.replace
PLAIN = next(r for r in read_records(GOLDEN) if r.status == "ok" and r.latency)
MS = 1_000_000


def record(
    model: str = "net",
    backend: str = "ort-cpu",
    *medians: float,
    machine: str = "board-4c-0000",
    device: str = "local",
    started_at: str = "2026-11-20T02:00:00Z",
    versions: dict[str, str] | None = None,
    peak_mib: int = 100,
    **facts: object,
) -> Record:
    """An `ok` record whose trials have these medians in ms; without any, one that is `unsupported`."""
    case = PLAIN.case
    options = replace(case.options, extra={}, **facts.pop("options", {}))
    made = replace(
        PLAIN,
        id=f"{model}-{backend}-{machine}-{device}-{started_at}",
        cell=f"{model}-{backend}-{device}-{options.threads}",
        machine=machine,
        started_at=started_at,
        case=replace(case, model=replace(case.model, name=model), backend=backend, device=device, options=options),
        environment={**PLAIN.environment, "machine": machine, "runtimes": versions or {"runtime": "1.0"}},
        memory=replace(PLAIN.memory, peak_rss_bytes=peak_mib << 20),
        notes=[],
    )
    if not medians:
        error = ErrorFacts(phase="prepare", kind="x", error="UnsupportedModel", message="no Gather", log_tail="the log")
        why = "prepare: no Gather"
        return replace(made, status="unsupported", why=why, error=error, latency=None, latencies=[], **facts)
    ns = [round(m * MS) for m in medians]
    middle = sorted(ns)[(len(ns) - 1) // 2]
    interval = (min(ns), max(ns)) if len(ns) >= 6 else None
    latency = replace(
        PLAIN.latency, p50_ns=middle, trial_p50_ns=ns, p50_ci_ns=interval, p50_ci_relative=0.01 if interval else None
    )
    evidence = replace(
        PLAIN.evidence,
        trials=len(ns),
        trials_wanted=len(ns),
        trials_noisy=0,
        foreign_cpu=0.001,
        complete=True,
    )
    return replace(made, **{"latency": latency, "latencies": [latency], "evidence": evidence, **facts})


def around(ms: float, trials: int = 6) -> list[float]:
    """Medians of trials that differ by a percent."""
    return [ms * (1 + 0.01 * i / trials) for i in range(trials)]


@pytest.fixture(scope="session")
def make():
    """The builder of records."""
    return record


@pytest.fixture(scope="session")
def near():
    """The builder of medians."""
    return around


@pytest.fixture
def history(tmp_path):
    """A results folder with three nights of two cells each; a third cell stands in the first night alone."""
    lines = list(read_lines(GOLDEN))
    case = next(line for line in lines if isinstance(line, CaseLine))
    trial = next(line for line in lines if isinstance(line, TrialLine) and line.series and not line.error)
    folder = tmp_path / "results" / "records" / "board"
    folder.mkdir(parents=True)
    for night in range(3):
        with (folder / f"2026010{night + 1}T020000Z-00000000.jsonl").open("wb") as file:
            for cell in ("a", "b", "c") if night == 0 else ("b", "a"):
                identity = f"{cell}{night}"
                begin = replace(
                    case,
                    id=identity,
                    cell=cell,
                    machine="board",
                    started_at=f"2026-01-0{night + 1}T02:00:00Z",
                    case=replace(case.case, model=replace(case.case.model, name=f"model-{cell}")),
                )
                for line in (begin, *(replace(trial, id=identity, index=i) for i in range(2))):
                    file.write(encode_line(line) + b"\n")
                file.write(encode_line(EndLine(schema=1, id=identity, stopped_by="enough")) + b"\n")
    return tmp_path / "results"
