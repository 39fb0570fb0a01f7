"""Pictures as SVG: the same drawing makes the same bytes. The only module that imports matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

INK, SOFT, WARM, GREY = "#1f4e79", "#9dbbd8", "#c0504d", "#888888"
GRID: dict[str, Any] = {"visible": True, "color": "#e5e5e5", "linewidth": 0.6}
INSTALL = 'pip install "deploybench[pictures]"'
# Text stays text, so that no font of this machine is in it.
_STYLE: Any = {"svg.fonttype": "none", "svg.hashsalt": "deploybench", "font.size": 9, "path.simplify": False}
_NAME = re.compile(r'\bid="(\w+)"')


def svg(draw: Callable[[Any], None]) -> str | None:
    """What `draw` makes of an empty matplotlib figure, or None where matplotlib is not installed."""
    try:
        import matplotlib
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError:
        return None
    out = io.StringIO()
    with matplotlib.rc_context():  # without what the user has set for pictures of his own
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        figure = Figure(layout="constrained")
        draw(figure)
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(out, metadata={"Date": None, "Creator": "deploybench"})
    return _renamed(out.getvalue())


def _renamed(text: str) -> str:
    """Names in the order in which they are given: matplotlib makes those of clip paths from addresses in memory."""
    names = {name: f"n{number}" for number, name in enumerate(dict.fromkeys(_NAME.findall(text)))}
    text = re.sub(r"url\(#(\w+)\)", lambda found: f"url(#{names[found[1]]})", text)
    text = re.sub(r'href="#(\w+)"', lambda found: f'href="#{names[found[1]]}"', text)
    return _NAME.sub(lambda found: f'id="{names[found[1]]}"', text)
