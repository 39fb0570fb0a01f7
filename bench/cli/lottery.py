"""`--builds N`: the same engine built N times. Builders choose kernels by timing them, so builds differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import UsageError
from bench.record import Record
from bench.report.words import milliseconds
from bench.runner import Case

OPTION = "build"


def spread(cases: Sequence[Case], builds: int) -> list[Case]:
    """Every case once per build, where its backend builds engines; others once.

    Raises:
        UsageError: none of the backends does.
    """
    if builds == 1:
        return list(cases)
    if not any(OPTION in case.options.extra for case in cases):
        raise UsageError("none of these backends builds engines that differ", "--builds is for tensorrt")
    found = []
    for case in cases:
        for build in range(builds if OPTION in case.options.extra else 1):
            extra = {**case.options.extra, **({OPTION: build} if OPTION in case.options.extra else {})}
            found.append(replace(case, options=replace(case.options, extra=extra)))
    return found


def said(records: Sequence[Record]) -> list[str]:
    """In words, how far the builds of each engine lie apart: in time, and in error."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        if OPTION in record.case.options.extra:
            groups.setdefault(f"{record.case.model.name} on {record.case.backend}", []).append(record)
    return [words for name, group in groups.items() if len(group) > 1 and (words := _words(name, group))]


def _words(name: str, group: Sequence[Record]) -> str:
    times = [r.latency.p50_ns for r in group if r.status == "ok" and r.latency]
    if len(times) < 2:
        return f"{len(group)} builds of {name}: {len(times)} of them can be compared"
    errors = [o.max_rel_scale for r in group if r.parity for o in r.parity.outputs if o.max_rel_scale is not None]
    apart = (max(times) - min(times)) / min(times)
    error = f", error {min(errors):.1e} to {max(errors):.1e} of scale" if errors else ""
    fastest, slowest = milliseconds(min(times)), milliseconds(max(times))
    return f"{len(times)} builds of {name}: medians from {fastest} to {slowest} ms, {apart:.1%} apart{error}"
