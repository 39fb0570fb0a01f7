"""The picture of a soak: the same record makes the same bytes."""

from __future__ import annotations

from typing import Any

from bench import drawing
from bench.drawing import GREY, INK, SOFT, WARM
from bench.record import Record, SpanFacts
from bench.report import words
from bench.report.soak import change

WIDTH_IN, PANEL_IN = 9.0, 1.6
FIRST_PANEL_IN = 2.8


def svg(record: Record) -> str | None:
    """The picture, or None where matplotlib is not installed."""
    return drawing.svg(lambda figure: _draw(figure, record))


def _draw(figure: Any, record: Record) -> None:
    soak = record.soak
    assert soak is not None
    panels = [p for p in PANELS if any(p.value(s) is not None for s in soak.spans)]
    figure.set_size_inches(WIDTH_IN, FIRST_PANEL_IN + PANEL_IN * len(panels))
    ratios = [FIRST_PANEL_IN, *[PANEL_IN] * len(panels)]
    axes = figure.subplots(len(panels) + 1, 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": ratios})[:, 0]
    changed = "" if soak.sustained is None else f", {change(soak)} from first to last"
    what = f"{record.case.model.name} on {record.case.backend}"
    figure.suptitle(f"{what}: {words.duration(soak.measured_s)} of sustained load{changed}")
    unit_s, unit = (60.0, "minutes") if soak.measured_s >= 180 else (1.0, "seconds")
    _latency(axes[0], soak.spans, unit_s)
    for axis, panel in zip(axes[1:], panels, strict=True):
        panel.draw(axis, soak.spans, unit_s)
    for axis in axes:
        _shade(axis, soak.spans, unit_s)
        axis.grid(**drawing.GRID)
    axes[-1].set_xlabel(f"{unit} since the begin; red: the CPU was throttled, grey: others used or slowed it")


def _middles(spans: list[SpanFacts], unit_s: float) -> list[float]:
    return [(s.at_s + s.seconds / 2) / unit_s for s in spans]


def _latency(axis: Any, spans: list[SpanFacts], unit_s: float) -> None:
    """Longest as dots, whose tail must not flatten the rest: they may lie above the picture, and then it says so."""
    at = _middles(spans, unit_s)
    p50, p99 = (_line([getattr(s, f"p{q}_ns") for s in spans], 1e-6) for q in (50, 99))
    longest = [s.max_ns / 1e6 for s in spans]
    axis.plot(at, p50, color=INK, linewidth=1.6, label="median")
    if any(v == v for v in p99):
        axis.plot(at, p99, color=SOFT, linewidth=1.2, label="p99")
    axis.plot(at, longest, ".", color=WARM, markersize=3, label="longest")
    typical = max([v for v in (*p50, *p99) if v == v], default=max(longest))
    above = sum(v > 2 * typical for v in longest)
    axis.set_ylim(0, min(2 * typical, 1.15 * max(longest)))
    if above:
        note = f"{above} of the longest lie above, up to {max(longest):.4g} ms"
        axis.text(0.995, 0.97, note, transform=axis.transAxes, ha="right", va="top", color=WARM)
    axis.set_ylabel("latency, ms")
    axis.legend(loc="lower left", ncols=3, frameon=False)


def _line(values: list[float | None], scale: float) -> list[float]:
    """NaN leaves a gap in a line."""
    return [float("nan") if v is None else v * scale for v in values]


def _shade(axis: Any, spans: list[SpanFacts], unit_s: float) -> None:
    for s in spans:
        colour = WARM if s.throttle else GREY if words.disturbed(s) else None
        if colour:
            axis.axvspan(s.at_s / unit_s, (s.at_s + s.seconds) / unit_s, color=colour, alpha=0.18, linewidth=0)


class _Panel:
    """A figure of the slices that is drawn where any slice has it, from 0 to so much at least."""

    def __init__(self, field: str, label: str, scale: float = 1.0, least: float = 0.0) -> None:
        self._field, self._label, self._scale, self._least = field, label, scale, least

    def value(self, span: SpanFacts) -> float | None:
        found: float | None = getattr(span, self._field)
        return found

    def draw(self, axis: Any, spans: list[SpanFacts], unit_s: float) -> None:
        values = _line([self.value(s) for s in spans], self._scale)
        axis.plot(_middles(spans, unit_s), values, color=INK, linewidth=1.2)
        axis.set_ylim(0, max(self._least, 1.15 * max(v for v in values if v == v)))
        axis.set_ylabel(self._label)


PANELS = (
    _Panel("frequency_mhz", "clock, MHz"),
    _Panel("temperature_c", "heat, °C"),
    _Panel("core_slowed", "CPU slower, %", 100.0, least=20.0),
    _Panel("rss_bytes", "memory, MiB", 2.0**-20),
)
