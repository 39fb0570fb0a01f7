"""What one record says in a table: its number, or in words why it has none."""

from __future__ import annotations

from bench.record import OutputFacts, Record

WHY_LENGTH = 110


def milliseconds(ns: int | None) -> str:
    """Three significant digits, never in exponents."""
    if ns is None:
        return "–"
    value = ns / 1e6
    digits = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits + (2 if value < 0.01 else 0)}f}"


def megabytes(size: int | None) -> str:
    """Whole MiB."""
    return "–" if size is None else f"{size / 2**20:.0f}"


def published(record: Record) -> bool:
    """Whether the record's latency may stand in a table."""
    return record.status == "ok" and record.latency is not None


def cell(record: Record) -> str:
    """The text of the record's cell: the median with its trials' range and marks, or the status and why."""
    if not published(record) or record.latency is None:
        return f"{record.status}: {escape(shorten(reason(record)))}"
    medians = record.latency.trial_p50_ns
    spread = f" ({milliseconds(min(medians))}–{milliseconds(max(medians))})" if len(medians) > 1 else ""
    marks = "".join(marks_of(record))
    return f"{milliseconds(record.latency.p50_ns)}{spread}{marks}"


MARKS = {
    "ᵃ": "judged by itself: the reference outputs come from the same runtime",
    "ᵇ": "a wider tolerance than its precision's own was accepted",
    "ᶜ": "a busier machine than usual was accepted",
    "ᵈ": "fewer trials than asked for: the run was cut short",
    "ᵉ": "the reference outputs came without provenance",
    "ᶠ": "the model hardly reacts to its input, so wrong answers may pass",
}


def marks_of(record: Record) -> list[str]:
    """The footnotes that a published number needs."""
    parity, evidence = record.parity, record.evidence
    if parity is None:
        return []
    from bench.record import MAX_FOREIGN_CPU

    holds = {
        "ᵃ": not parity.independent,
        "ᵇ": parity.tolerance.relaxed,
        "ᶜ": evidence.max_foreign_cpu > MAX_FOREIGN_CPU,
        "ᵈ": evidence.trials < evidence.trials_wanted or not evidence.complete,
        "ᵉ": parity.reference.producer == "as supplied",
        "ᶠ": any(note.startswith("input-blind") for note in record.notes),
    }
    return [mark for mark, held in holds.items() if held]


def reason(record: Record) -> str:
    """Why the record has no published number, in words."""
    if record.status == "wrong" and record.parity:
        return f"{record.why}; {needed(record)}"
    return record.why


def needed(record: Record) -> str:
    """Which tolerance a wrong case would have needed."""
    parity = record.parity
    if parity is None:
        return ""
    if any(not o.shape_ok or o.nan for o in parity.outputs):
        return "no tolerance would do"
    if parity.grade != "wrong":
        return f"it would pass with --tolerance {parity.grade}"
    exceed = worst(parity.outputs).exceed if parity.outputs else None
    if exceed is None:
        return "no tolerance would do"
    rtol, atol = exceed * parity.tolerance.rtol, exceed * parity.tolerance.atol_of_scale
    return f"it would take --tolerance {rtol:.2g},{atol:.2g}"


def worst(outputs: list[OutputFacts]) -> OutputFacts:
    """The output that used most of its tolerance."""
    return max(outputs, key=lambda o: (not o.passed, float("inf") if o.exceed is None else o.exceed))


def error_of_scale(record: Record) -> str:
    """The largest error of the record relative to its output's scale."""
    known = [o.max_rel_scale for o in record.parity.outputs if o.max_rel_scale is not None] if record.parity else []
    return f"{max(known):.1e}" if known else "–"


def shorten(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= WHY_LENGTH else line[: WHY_LENGTH - 1].rstrip() + "…"


def escape(text: str) -> str:
    """Text that a markdown table takes as it is."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
