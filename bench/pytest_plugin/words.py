"""What tests, reports and pytest-benchmark's files say about a record."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

from bench.record import OutputFacts, Record
from bench.report.words import judges, needed, not_reproducible, worst
from bench.runner import Case

# No number came of these, but nothing that the test is about is wrong: it is skipped, with the reason.
SKIPPED = frozenset({"noisy", "unavailable", "unsupported", "skipped"})
LOG_LINES = 15
PUBLISHED = "ok"


def verdict(record: Record, case: Case) -> None:
    """Let the test pass, skip or fail, as the record says."""
    __tracebackhide__ = True
    if record.status == PUBLISHED:
        return
    if record.status == "wrong":
        raise AssertionError(_wrong(record, case))
    text = f"{_title(record)}: {record.status}: {record.why}"
    if record.error and record.error.hint:
        text += f"; {record.error.hint}"
    if record.status in SKIPPED:
        pytest.skip(text)
    _fail(record, text)


def _fail(record: Record, text: str) -> NoReturn:
    __tracebackhide__ = True
    tail = record.error.log_tail.strip().splitlines()[-LOG_LINES:] if record.error else []
    log = "".join(f"\n  {line}" for line in ("the end of its log:", *tail)) if tail else ""
    pytest.fail(f"{text}{log}")


def _title(record: Record) -> str:
    device = "" if record.case.device == "local" else f", {record.case.device}"
    return f"{record.case.model.name} on {record.case.backend}{device}"


def _wrong(record: Record, case: Case) -> str:
    """Which element is the worst, what was allowed there, who says so, and how to find the layer."""
    parity = record.parity
    if parity is None or not parity.outputs:
        return f"{_title(record)}: {record.why}"
    output, tolerance = worst(parity.outputs), parity.tolerance
    allowed = f"{tolerance.rtol:g} x |expected| + {tolerance.atol_of_scale:g} x largest |expected|"
    when = "before the timed loop" if parity.at == "first_run" else "after the timed loop"
    lines = {
        "output": _share(output),
        "worst": _worst(output),
        "tolerance": f"{tolerance.name}: {allowed}{_allowed_there(output)}",
        "judged by": f"{judges(parity.reference)}, on input {parity.feed}, {when}",
        "remedy": re.sub(r"--tolerance (\S+)", r'tolerance="\1"', needed(record)),
        "artefact": not_reproducible(record),
        "which layer": localize(case),
    }
    shown = [f"  {name:<12} {text}" for name, text in lines.items() if text]
    return "\n".join([f"{_title(record)}: its answers are wrong", *shown])


def _share(output: OutputFacts) -> str:
    share = "" if output.share_out is None else f", {100 * output.share_out:.3g}% of its elements out of the tolerance"
    strange = f", {output.nan} of them NaN or infinite on one side only" if output.nan else ""
    return f"{output.name}{share}{strange}"


def _worst(output: OutputFacts) -> str:
    if output.worst_got is None or output.worst_expected is None:
        return output.problem
    off = abs(output.worst_got - output.worst_expected)
    relative = "" if output.max_rel_scale is None else f"; the largest error is {output.max_rel_scale:.2g} of the scale"
    values = f"got {output.worst_got:.7g}, expected {output.worst_expected:.7g}, off by {off:.3g}"
    return f"at {output.worst}: {values}{relative}"


def _allowed_there(output: OutputFacts) -> str:
    if not output.exceed or output.worst_got is None or output.worst_expected is None:
        return ""
    off = abs(output.worst_got - output.worst_expected)
    return f" = {off / output.exceed:.3g} there, and it is {output.exceed:.3g} times that"


def localize(case: Case) -> str:
    """The command that finds the first layer that differs."""
    options, known = case.options, {o.name: o.default for o in case.backend.create().options}
    words = ["deploybench", "localize", case.resolved.reference, "--backend", case.backend.name]
    if case.device != "local":
        words += ["--device", case.device]
    if options.threads != 1:
        words += ["--threads", str(options.threads)]
    if options.precision != "model":
        words += ["--precision", options.precision]
    if case.batch is not None:
        words += ["--batch", str(case.batch)]
    elif case.resolved.model.sha256 != case.resolved.source_sha256:  # the file leaves dimensions open
        for name, shape in case.resolved.shapes.items():
            words += ["--shape", f"{name}={','.join(map(str, shape))}"]
    for name, value in options.extra.items():
        if value != known.get(name):
            words += ["--option", f"{name}={value}"]
    return shlex.join(words)


def facts(record: Record) -> dict[str, Any]:
    """What stands beside the samples in pytest-benchmark's files, as `extra_info["deploybench"]`."""
    latency, parity, options = record.latency, record.parity, record.case.options
    assert latency is not None
    assert parity is not None
    environment = record.environment
    return {
        "record": record.id,
        "run": record.run,
        "cell": record.cell,
        "status": record.status,
        "model": record.case.model.name,
        "model_sha256": record.case.model.sha256,
        "backend": record.case.backend,
        "device": record.case.device,
        "threads": options.threads,
        "precision": options.precision,
        "batch": options.batch,
        "options": options.extra,
        "scope": latency.scope,
        "clock": latency.clock,
        "p50_ns": latency.p50_ns,
        "p50_ci_ns": latency.p50_ci_ns,
        "p50_ci_reason": latency.p50_ci_reason,
        "trials": record.evidence.trials,
        "parity": {
            "passed": parity.passed,
            "grade": parity.grade,
            "independent": parity.independent,
            "reference": judges(parity.reference),
            "tolerance": parity.tolerance.name,
            "max_rel_scale": max(
                (o.max_rel_scale for o in parity.outputs if o.max_rel_scale is not None), default=None
            ),
        },
        "foreign_cpu": record.evidence.foreign_cpu,
        "core_slowed": record.evidence.core_slowed,
        "max_foreign_cpu": record.evidence.max_foreign_cpu,
        "machine": record.machine,
        "cpu": environment.get("cpu"),
        "cores": environment.get("cores"),
        "os": environment.get("os"),
        "python": environment.get("python"),
        "versions": {**environment.get("runtimes", {}), "deploybench": environment.get("deploybench")},
        "notes": record.notes,
    }


def properties(record: Record, file: str) -> list[tuple[str, str]]:
    """What the test's report carries: to xdist's main process, to JUnit files, to the summary."""
    found = {"status": record.status, "record": record.id, "file": file, "case": _title(record), "why": record.why}
    return [(f"deploybench_{name}", value) for name, value in found.items() if value]


def summary(reports: Iterable[tuple[Any, Mapping[str, str]]]) -> list[str]:
    """Where the records are, and which tests have no published number."""
    known = sorted(reports, key=lambda pair: str(pair[0].nodeid))
    files = Counter(facts["deploybench_file"] for _, facts in known)
    lines = [f"{count} record{'s' * (count > 1)} in {file}" for file, count in sorted(files.items())]
    for report, facts in known:
        if (status := facts["deploybench_status"]) != PUBLISHED:
            why = " ".join(facts.get("deploybench_why", "").split())
            lines.append(f"no number for {_short(report.nodeid)}: {status}: {why}")
    return lines


def _short(nodeid: str) -> str:
    path, _, rest = nodeid.partition("::")
    return f"{Path(path).name}::{rest}" if rest else nodeid
