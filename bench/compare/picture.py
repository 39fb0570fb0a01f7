"""The picture of a cell's nights: the same records make the same bytes. Takes matplotlib."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from bench import drawing
from bench.compare.story import Story, value
from bench.drawing import INK, SOFT, WARM
from bench.errors import UsageError

SIZE_IN = (9.0, 3.2)


def svg(story: Story) -> str:
    """The picture.

    Raises:
        UsageError: matplotlib is not installed, or no night has a number.
    """
    if all(value(story, night.level) is None for night in story.nights):
        raise UsageError("no night of this cell has a number: there is nothing to draw")
    drawn = drawing.svg(lambda figure: _draw(figure, story))
    if drawn is None:
        raise UsageError("pictures take matplotlib", drawing.INSTALL)
    return drawn


def _draw(figure: Any, story: Story) -> None:
    known = [(datetime.fromisoformat(n.record.started_at), v) for n in story.nights if (v := value(story, n.level))]
    figure.set_size_inches(*SIZE_IN)
    axis = figure.subplots()
    axis.plot([at for at, _ in known], [v for _, v in known], ".-", color=INK, linewidth=1.0, markersize=4)
    for moved in story.moved:
        at = datetime.fromisoformat(moved.first.started_at)
        axis.axvline(at, color=WARM if moved.effect > 0 else SOFT, linewidth=1.2)
        axis.annotate(f"{moved.effect:+.1%}", (at, 1.0), xycoords=("data", "axes fraction"), va="bottom")
    case = story.newest.case
    axis.set_title(f"{case.model.name} on {case.backend}, {case.device}", pad=16)
    axis.set_ylabel(story.quantity)
    axis.grid(**drawing.GRID)
