"""What a search says: the verdict, the findings, and the error along the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from bench.localize.probe import Outcome
from bench.localize.search import Finding

Verdict = Literal["agrees", "located", "spread", "rounding", "order", "unstable", "doubtful", "unresolved"]
FOUND = ("located", "spread", "unresolved", "unstable")
"""The verdicts after which the backend's answers are not to be used."""


@dataclass(frozen=True, slots=True)
class Point:
    """The error of one tensor.

    how: `measured` (the backend ran the model from its inputs up to here), `own` (the culprit alone, on the reference's
    tensors) or `inherited` (the reference went on from what the culprit gave). `relative` is the error as a share of
    the tensor's scale, None where no number tells it.
    """

    place: int
    tensor: str
    node: str
    how: Literal["measured", "own", "inherited"]
    relative: float | None


@dataclass(frozen=True, slots=True)
class Subject:
    """What was searched: everything that a reader needs to do it again."""

    model: str
    sha256: str
    opset: int
    nodes: int
    backend: str
    device: str
    options: Mapping[str, Any]
    precision: str
    tolerance: str
    feed: int
    runtimes: Mapping[str, str]
    environment: Mapping[str, Any]
    reference: str
    deploybench: str


@dataclass(frozen=True, slots=True)
class Located:
    """The answer. `whole` is what came of the model as it is; `points` are in running order."""

    verdict: Verdict
    summary: str
    subject: Subject
    whole: Outcome
    findings: Sequence[Finding] = ()
    points: Sequence[Point] = ()
    notes: Sequence[str] = ()
    probes: int = 0
    seconds: float = 0.0

    @property
    def blamed(self) -> list[Finding]:
        """The findings that are named as causes."""
        return [finding for finding in self.findings if finding.blamed]

    def to_json(self) -> str:
        """One JSON object; an infinite error is null there, with its reason beside it."""
        return msgspec.json.encode(self).decode()


def amplification(finding: Finding) -> float | None:
    """By how much the finding's own error has grown where the model is judged; None where no number tells it."""
    judged = max((error.relative or 0.0 for error in finding.outcome.judged), default=0.0)
    own = max((error.relative or 0.0 for error in finding.outcome.errors), default=0.0)
    return judged / own if own and judged else None
