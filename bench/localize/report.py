"""What a search found, in words: for the terminal, and as REPORT.md to paste into an issue tracker."""

from __future__ import annotations

import math
from collections.abc import Sequence

from bench.localize.located import Located, Point, amplification
from bench.localize.probe import Outcome, TensorError
from bench.localize.search import Finding
from bench.redact import public

_KINDS = {
    "local": "its own error: given the reference's inputs, it gives another answer",
    "together": "right apart, wrong together: cutting between these nodes makes the fault vanish, so they are fused",
    "region": "these nodes could not be told apart: cutting between them fails, or makes the fault vanish",
    "failure": "the smallest part that fails",
    "spread": "no node makes most of the error: they add up",
    "rounding": "the error of the node is no more than honest float32 rounding; the model makes it large",
    "order": "classified, not blamed: it picks by comparison, and right from the reference's inputs",
}
_ROWS = 40


def terminal(located: Located) -> str:
    """A few lines for whoever waits."""
    subject = located.subject
    lines = [f"{subject.model} on {subject.backend} ({subject.device}): {_verdict(located)}"]
    for number, finding in enumerate(located.blamed, 1):
        lines += ["", f"culprit {number}: {_names(finding)}", *(f"  {line}" for line in _facts(finding))]
    others = [finding for finding in located.findings if not finding.blamed]
    lines += [f"{_names(finding) or _between(finding)}: {_KINDS[finding.kind]}" for finding in others]
    lines += [f"note: {note}" for note in located.notes]
    return "\n".join(lines)


def _verdict(located: Located) -> str:
    words = {
        "agrees": f"{located.summary}; nothing is named",
        "located": _wrong(located.whole),
        "unstable": f"it is not deterministic: {located.summary}",
        "doubtful": located.summary,
    }
    return words.get(located.verdict) or f"{_wrong(located.whole)}; {located.summary}"


def _wrong(whole: Outcome) -> str:
    if whole.failure:
        return f"{whole.failure.phase} fails: {_first_line(whole.failure.message)}"
    worst = max(whole.errors, key=lambda error: error.size, default=None)
    off = f", {_error(worst)}" if worst else ""
    return f"wrong: {_times(whole.effect)} what is allowed{off}"


def _times(effect: float) -> str:
    return "infinitely more than" if math.isinf(effect) else f"{effect:.3g} times"


def _error(error: TensorError) -> str:
    if error.relative is None:
        return f"{error.name!r}: {error.problem or 'no number tells its error'}"
    return f"{error.name!r} is off by {error.relative:.2g} of its scale"


def _names(finding: Finding) -> str:
    names = " + ".join(node.label for node in finding.nodes[:6])
    more = len(finding.nodes) - 6
    return f"{names} and {more} more" if more > 0 else names


def _between(finding: Finding) -> str:
    return f"nodes {finding.start + 1} to {finding.end}"


def _facts(finding: Finding) -> list[str]:
    lines = [_KINDS[finding.kind]]
    outcome = finding.outcome
    if outcome.failure:
        lines.append(seen(outcome))
    else:
        lines += [_error(error) for error in outcome.errors[:4]]
        lines.append(f"alone it makes {_times(outcome.effect)} what is allowed at the outputs")
        if (factor := amplification(finding)) is not None:
            lines.append(f"on its way to the outputs it is multiplied by {factor:.2g}")
    lines += [f"{name} = {value}" for node in finding.nodes[:1] for name, value in node.attributes]
    lines.append(f"found in {finding.probes} prepared parts")
    return lines


def seen(outcome: Outcome) -> str:
    """What the backend made of a part, in a line."""
    if failure := outcome.failure:
        return f"{failure.phase}: {_first_line(failure.message)}{f' ({failure.signal})' if failure.signal else ''}"
    return "; ".join(_error(error) for error in outcome.errors[:4])


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "without a word"


def overview(located: Located, folders: Sequence[str], picture: str) -> str:
    """REPORT.md of a search: verdict, findings, the error along the graph."""
    subject = located.subject
    lines = [f"# {subject.model} on {subject.backend}", "", _verdict(located) + ".", ""]
    for finding, folder in zip(located.blamed, folders, strict=False):
        lines += [f"- [{_names(finding)}]({folder}/REPORT.md): {_KINDS[finding.kind]}."]
    lines += ["", *(f"- {note}" for note in located.notes), "", *_versions(located), ""]
    if picture:
        lines += [f"![the error along the graph]({picture})", ""]
    if located.points:
        lines += [*table(located), ""]
    return "\n".join(lines)


def table(located: Located) -> list[str]:
    """The error along the graph as a markdown table, in running order, culprits marked."""
    lines = ["| node | tensor | error of scale | how | |", "|---|---|---:|---|---|"]
    marked = {place: number for number, f in enumerate(located.blamed, 1) for place in range(f.start + 1, f.end + 1)}
    for point in _thinned(located.points, set(marked)):
        error = "–" if point.relative is None else f"{point.relative:.2g}"
        mark = f"**culprit {marked[point.place]}**" if point.place in marked else ""
        lines.append(f"| {point.node} | `{point.tensor}` | {error} | {point.how} | {mark} |")
    return lines


def _thinned(points: Sequence[Point], marked: set[int]) -> list[Point]:
    """At most so many rows: all that was measured and marked, and the rest evenly."""
    kept = [p for p in points if p.how != "inherited" or p.place in marked]
    rest = [p for p in points if p not in kept]
    step = max(1, math.ceil(len(rest) / max(1, _ROWS - len(kept))))
    chosen = {id(p) for p in (*kept, *rest[::-step])}
    return [p for p in points if id(p) in chosen]


def _versions(located: Located) -> list[str]:
    subject = located.subject
    runtimes = ", ".join(f"{name} {version}" for name, version in subject.runtimes.items()) or subject.backend
    platform = ", ".join(f"{name} {value}" for name, value in subject.environment.items())
    options = ", ".join(f"{name}={value}" for name, value in subject.options.items() if value not in (None, ""))
    return [
        "| | |",
        "|---|---|",
        f"| runtime | {runtimes} |",
        f"| options | {options}; precision {subject.precision} |",
        f"| platform | {public(platform)} |",
        f"| reference | {subject.reference} |",
        f"| judged by | {subject.tolerance}, input {subject.feed} |",
        f"| model | {subject.model}, sha256 {subject.sha256[:16]}, opset {subject.opset}, {subject.nodes} nodes |",
        f"| found by | deploybench {subject.deploybench}, {located.probes} prepared parts, {located.seconds:.0f} s |",
    ]


def upstream(located: Located, finding: Finding, files: Sequence[str]) -> str:
    """REPORT.md of one culprit, for the runtime's issue tracker."""
    subject = located.subject
    runtime = " ".join(next(iter(subject.runtimes.items()), (subject.backend, "")))
    what = " + ".join(dict.fromkeys(node.op for node in finding.nodes[:4]))
    fails = finding.outcome.failure
    says = f"{fails.phase} fails ({fails.kind})" if fails else "wrong values"
    lines = [f"# {runtime}: {what}: {says}", ""]
    lines += [_KINDS[finding.kind].capitalize() + ".", ""]
    for node in finding.nodes[:12]:
        lines += [f"- `{node.op}` {node.name!r}: inputs {_code(node.inputs)}, outputs {_code(node.outputs)}"]
        lines += [f"  - {name} = {value}" for name, value in node.attributes]
    lines += ["", *_evidence(finding), "", *_versions(located), "", "## Reproduce", ""]
    lines += ["```", "python reproduce.py", "```", ""]
    needs = "It needs numpy, onnx and the runtime. Exit code 1: the fault is still there, 0: it is gone, 2: not tried."
    return "\n".join([*lines, f"{needs} Files: {', '.join(f'`{name}`' for name in files)}.", ""])


def _evidence(finding: Finding) -> list[str]:
    outcome = finding.outcome
    if outcome.failure:
        tail = public(outcome.failure.log_tail).strip().splitlines()[-15:]
        return [public(outcome.failure.message), *(["", "```", *tail, "```"] if tail else [])]
    lines = ["| output | error of scale | largest difference |", "|---|---:|---:|"]
    for error in outcome.errors:
        relative = error.problem or ("–" if error.relative is None else f"{error.relative:.3g}")
        lines.append(f"| `{error.name}` | {relative} | {'–' if error.max_abs is None else f'{error.max_abs:.3g}'} |")
    factor = amplification(finding)
    grown = f", {factor:.2g} times its own" if factor else ""
    return [*lines, "", f"At the model's outputs this is {_times(outcome.effect)} what is allowed{grown}."]


def _code(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
