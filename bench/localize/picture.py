"""The error along the graph: the same search makes the same bytes."""

from __future__ import annotations

from typing import Any

from bench import drawing
from bench.localize.located import Located

SIZE_IN = (9.0, 4.0)
_FLOOR = 1e-9
# Two longer names in the legend, and the picture has no room for anything else.
_LABEL = 48
_COLOURS = {"measured": "#1f77b4", "own": "#d62728", "inherited": "#ff7f0e"}
_WORDS = {
    "measured": "measured: the backend, from the model's inputs",
    "own": "own: the culprit alone, on the reference's tensors",
    "inherited": "inherited: the reference, from the culprit's output",
}


def draw(located: Located) -> str | None:
    """The picture, or None where matplotlib is not installed or nothing was measured."""
    return drawing.svg(lambda figure: _draw(figure, located)) if located.points else None


def _draw(figure: Any, located: Located) -> None:
    figure.set_size_inches(*SIZE_IN)
    axes = figure.add_subplot()
    _lines(axes, located)
    _culprits(axes, located)
    axes.set_yscale("log")
    axes.set_xlim(0, located.subject.nodes + 1)
    axes.set_xlabel("node, in running order")
    axes.set_ylabel("error, as a share of the tensor's scale")
    axes.set_title(f"{located.subject.model} on {located.subject.backend}", loc="left", fontsize=10)
    axes.grid(**drawing.GRID)
    axes.legend(fontsize=8, loc="best")


def _lines(axes: Any, located: Located) -> None:
    for how, colour in _COLOURS.items():
        points = [(p.place, p.relative) for p in located.points if p.how == how]
        if points:
            errors = [_FLOOR if error is not None and error < _FLOOR else error for _, error in points]
            style = "." if how == "inherited" else "o"
            axes.plot([place for place, _ in points], errors, style, ms=5, lw=1, color=colour, label=_WORDS[how])


def _culprits(axes: Any, located: Located) -> None:
    for number, finding in enumerate(located.blamed, 1):
        names = " + ".join(_short(node.label) for node in finding.nodes[:2])
        axes.axvspan(
            finding.end - max(0.6, finding.end - finding.start - 0.4), finding.end + 0.4,
            color="#d62728", alpha=0.35, lw=0, label=f"culprit {number}: {names}",
        )  # fmt: skip


def _short(label: str) -> str:
    """The operator at its begin, and the end of its name: exporters put what tells nodes apart last."""
    half = _LABEL // 2
    return label if len(label) <= _LABEL else f"{label[:half]}…{label[1 - half :]}"
