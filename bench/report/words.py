"""What one record says in a table: its number, or in words why it has none."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from bench.record import (
    MAX_FOREIGN_CPU,
    EvidenceFacts,
    OutputFacts,
    Record,
    ReferenceFacts,
    SpanFacts,
    SpreadFacts,
)

P99, P999 = 0.99, 0.999
_BARS = "▁▂▃▄▅▆▇█"
# A cell says enough to recognise the reason; the list below the table has all of it.
WHY_LENGTH = 44


def milliseconds(ns: int | None) -> str:
    """At least three significant digits, never an exponent."""
    if ns is None:
        return "–"
    if ns <= 0:
        return "0"
    exponent = int(f"{ns / 1e6:.2e}".partition("e")[2])
    return f"{ns / 1e6:.{max(0, 2 - exponent)}f}"


def percentile(record: Record, q: float) -> int | None:
    """In nanoseconds; None where there are fewer samples than it needs."""
    found = record.latency.percentiles if record.latency else []
    return next((p.ns for p in found if p.q == q), None)


def duration(seconds: float) -> str:
    """`45 s`, `10 min`, `1 min 30 s`, `1 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{hours} h"] * (hours > 0) + [f"{minutes} min"] * (minutes > 0)
    if not parts or (rest and not hours):
        parts.append(f"{rest} s")
    return " ".join(parts)


def bars(values: Sequence[float | None], reach: float, absent: str = " ") -> str:
    """A bar for each value: the lowest for the least of them, the highest for one that is so much more."""
    known = [v for v in values if v is not None]
    scale = (len(_BARS) - 1) / reach if reach > 0 else 0.0
    return "".join(absent if v is None else _BARS[round((v - min(known)) * scale)] for v in values) if known else ""


def median_ms(seconds: SpreadFacts | None) -> str:
    """The middle of several durations in seconds, in milliseconds."""
    return milliseconds(round(seconds.median * 1e9) if seconds else None)


def percent(share: float) -> str:
    """Two significant digits, rounded up: what is said to enclose must."""
    return f"{float(_rounded_up(share * 100)):g}%"


def megabytes(size: int | None) -> str:
    """Whole MiB."""
    return "–" if size is None else f"{size / 2**20:.0f}"


def gigaflops(record: Record) -> str:
    """Billions of operations per second, of the direct algorithm."""
    rate = record.work.flop_per_s if record.work else None
    return "–" if rate is None else f"{rate / 1e9:.1f}" if rate < 100e9 else f"{rate / 1e9:.0f}"


def of_peak(record: Record) -> str:
    """That, as a share of what was measured to be the machine's most."""
    share = record.work.share_of_peak if record.work else None
    return "–" if share is None else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"


def published(record: Record) -> bool:
    """Whether the record's latency or throughput may stand in a table."""
    return record.status == "ok" and (record.latency or record.throughput) is not None and record.parity is not None


def emulated(record: Record) -> bool:
    """Whether software imitated the processor or the GPU: then its times are nobody's."""
    return record.evidence.emulated != ""


def judges(reference: ReferenceFacts) -> str:
    """Who computed the reference outputs, each with its version, as far as that was said."""
    names, versions = (text.split(" and ") for text in (reference.producer, reference.version))
    if len(names) != len(versions):  # the first has none
        return f"{reference.producer} {reference.version}".strip()
    return " and ".join(f"{name} {version}".strip() for name, version in zip(names, versions, strict=True))


def others(seen: EvidenceFacts | SpanFacts) -> str:
    """What others used of the CPU, and how much they slowed it, where that can be told."""
    slowed = "" if seen.core_slowed is None else f", slowed {seen.core_slowed:.1%}"
    return ("unknown" if seen.foreign_cpu is None else f"{seen.foreign_cpu:.1%}") + slowed


def disturbed(seen: EvidenceFacts | SpanFacts) -> bool:
    """Whether others used or slowed the CPU more than is usually accepted, as far as is known."""
    return max(seen.foreign_cpu or 0.0, seen.core_slowed or 0.0) > MAX_FOREIGN_CPU


Core = tuple[str, int]


def core_of(record: Record) -> Core | None:
    """How many nanoseconds the CPU took for the same arithmetic while it was measured, by which version of numpy.

    None where nobody knows, and for what another device timed by its own clock: that is no matter of the CPU's.
    """
    core_ns = record.evidence.core_ns
    if not core_ns or (record.latency and record.latency.clock != "host"):
        return None
    return str(record.environment.get("numpy")), core_ns


def times_as_slow(core: Core | None, other: Core | None) -> float | None:
    """How many times as long it took for the one as for the other; None where that cannot be told."""
    return core[1] / other[1] if core and other and core[0] == other[0] else None


def slowing(records: Iterable[Record]) -> str:
    """What `slowed` means, where any of them says it."""
    if all(r.evidence.core_slowed is None for r in records):
        return ""
    return " Slowed: how much longer a fixed piece of arithmetic took, as beside somebody else on the same core."


def cell(record: Record, unit: str = "") -> str:
    """The text of the record's cell: the median with its interval and marks, or the status and why.

    Without an interval over processes, the lowest and highest median of the trials stand in brackets. `unit`: what
    stands before the marks, where no heading says it.
    """
    if not published(record) or record.latency is None:
        return f"{record.status}: {escape(shorten(reason(record)))}"
    medians = record.latency.trial_p50_ns
    spread = f" ({milliseconds(min(medians))}–{milliseconds(max(medians))})" if len(medians) > 1 else ""
    if record.latency.p50_ci_relative is not None:
        spread = f" ±{percent(record.latency.p50_ci_relative)}"
    marks = "".join(marks_of(record))
    return f"{milliseconds(record.latency.p50_ns)}{spread}{unit}{marks}"


MARKS = {
    "ᵃ": "judged by itself: the reference outputs come from the same runtime",
    "ᵇ": "a wider tolerance than its precision's own was accepted (`--tolerance`)",
    "ᶜ": "others used more of the CPU than is usually accepted, or it is not known how much (`--max-foreign-cpu`)",
    "ᵈ": "fewer trials than asked for: the run was cut short",
    "ᵉ": "the reference outputs came with the model, and nobody says who made them",
    "ᶠ": "the output hardly depends on the input, so wrong answers may pass",
    "ᵍ": "the reference outputs hold NaN or infinity: the model itself, or its input, is not sound",
    "ʰ": "emulated: the processor or GPU was imitated by software, so times say nothing of a real one",
    "ⁱ": "its error looks like less precision than was asked for: the notes of its record say how many bits less",
    "ʲ": "the tolerance is below the reference's own noise, so that passing or failing may be chance",
    "ᵏ": "a reference output is empty or zero everywhere, and proves nothing",
    "ˡ": "made again, its artefact is another: what was measured and judged is the one that `deploybench export` gives",
}


def marks_of(record: Record) -> list[str]:
    """The footnotes that a published number needs."""
    parity, evidence = record.parity, record.evidence
    if parity is None:
        return []
    holds = {
        "ᵃ": not parity.independent,
        "ᵇ": parity.tolerance.relaxed,
        "ᶜ": evidence.foreign_cpu is None or disturbed(evidence),
        "ᵈ": evidence.trials - evidence.trials_noisy < evidence.trials_wanted or not evidence.complete,
        "ᵉ": "as supplied" in parity.reference.producer.split(" and "),
        "ᶠ": any(note.startswith("input-blind") for note in record.notes),
        "ᵍ": any(note.startswith("not finite") for note in record.notes),
        "ʰ": emulated(record),
        "ⁱ": any(note.startswith("low precision") for note in record.notes),
        "ʲ": any(note.startswith("tolerance below the noise") for note in record.notes),
        "ᵏ": any(note.startswith("nothing to judge") for note in record.notes),
        "ˡ": not_reproducible(record) != "",
    }
    return [mark for mark, held in holds.items() if held]


def reason(record: Record) -> str:
    """Why the record has no published number, in words."""
    if record.status == "wrong" and record.parity:
        doubt = not_reproducible(record)
        return f"{record.why}; {needed(record)}{doubt and f'; {doubt}'}"
    return record.why


def not_reproducible(record: Record) -> str:
    """What is different in its artefact when that is made again; empty where nothing is known to be."""
    return next((note for note in record.notes if note.startswith("not reproducible")), "")


def needed(record: Record) -> str:
    """Which tolerance a wrong case would have needed."""
    parity = record.parity
    if parity is None:
        return ""
    if parity.grade != "wrong":
        return f"it would pass with --tolerance {parity.grade}"
    exceed = worst(parity.outputs).exceed if parity.outputs else None
    if exceed is None or any(not o.shape_ok or o.nan for o in parity.outputs):
        return "no tolerance would do"
    rtol, atol = exceed * parity.tolerance.rtol, exceed * parity.tolerance.atol_of_scale
    if max(rtol, atol) >= 1:
        return "no sensible tolerance would do"
    return f"it would take --tolerance {_rounded_up(rtol)},{_rounded_up(atol)}"


def _rounded_up(value: float) -> str:
    """Two significant digits, not below the value: what is advised must work."""
    if not value:
        return "0"
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.2g}"


def worst(outputs: list[OutputFacts]) -> OutputFacts:
    """The output that used most of its tolerance."""
    return max(outputs, key=lambda o: (not o.passed, float("inf") if o.exceed is None else o.exceed))


def error_of_scale(record: Record) -> str:
    """The largest error of the record relative to its output's scale."""
    known = [o.max_rel_scale for o in record.parity.outputs if o.max_rel_scale is not None] if record.parity else []
    return "–" if not known else f"{max(known):.1e}" if max(known) else "0"


def error_and_noise(record: Record) -> str:
    """The largest error and, where it is known, what float32 itself costs the model."""
    noise = [n.max_rel_scale for n in record.parity.reference.noise] if record.parity else []
    return error_of_scale(record) + (f" (noise {max(noise):.1e})" if noise else "")


def task(record: Record) -> str:
    """What was counted on labelled inputs, for the backend and for the reference."""
    found = record.task
    if found is None:
        return "–"
    if found.value is None or found.reference is None:
        return f"{found.metric}: not known"
    return f"{found.metric} {found.value:.4g} ({found.reference:.4g})"


def shorten(text: str) -> str:
    """One line of bounded length."""
    line = " ".join(text.split())
    return line if len(line) <= WHY_LENGTH else line[: WHY_LENGTH - 1].rstrip() + "…"


_SPECIAL = re.compile(r"([\\|<*`~])|(?<!\w)_|_(?!\w)|&(?=#?\w+;)|\](?=\()")


def escape(text: str) -> str:
    """Text on one line that markdown, in a table or out of it, shows as it is."""
    return _SPECIAL.sub(lambda m: f"\\{m[0]}", " ".join(text.split()))
