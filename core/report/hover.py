"""Values that a chart shows where one points: plain SVG and the page's style, no script."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Where one can point at: more are narrower than a finger.
_COLUMNS = 40
_LINE_PX = 13
_CHARACTER_PX = 5.3
_PADDING_PX = 7
_MAX_NAME = 30


@dataclass(frozen=True, slots=True)
class Trace:
    """A line as it was drawn.

    Attributes:
        name: As in the legend.
        colour: Of the page.
        x: Increasing.
        y: As many; NaN where there is a gap.
        remarks: What stands behind each value; nothing if left out.
    """

    name: str
    colour: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    remarks: Sequence[str] = field(default=())


@dataclass(frozen=True, slots=True)
class _Point:
    """A value in a column: its trace, its place there and on the axes."""

    trace: Trace
    place: int

    @property
    def x(self) -> float:
        return float(self.trace.x[self.place])

    @property
    def y(self) -> float:
        return float(self.trace.y[self.place])


def hover_marks(
    axes: Axes, traces: Sequence[Trace], *, of: str = "step {:,.0f}", value: str = "{:.4g}"
) -> str:
    """Return an SVG group for each place that one can point at, shown by the page's style.

    Args:
        axes: Drawn, so that it is known where everything is.
        traces: What to tell of.
        of: How a place is told.
        value: How a value is told.
    """
    height = float(axes.figure.bbox.height)
    columns = list(_columns([trace for trace in traces if not np.isnan(trace.y).all()]))
    box = axes.get_window_extent()
    middles = [float(axes.transData.transform((x, 0))[0]) for x, _ in columns]
    edges = [box.x0, *((a + b) / 2 for a, b in itertools.pairwise(middles)), box.x1]
    marks = []
    for (x, points), left, right, middle in zip(columns, edges, edges[1:], middles, strict=False):
        dots = [axes.transData.transform((point.x, point.y)) for point in points]
        lines = [of.format(x), *(_told(point, value) for point in points)]
        marks.append(
            f'<g class="at"><rect class="hit" x="{left:.1f}" y="{height - box.y1:.1f}" '
            f'width="{max(right - left, 0):.1f}" height="{box.height:.1f}"/>'
            f'<path d="M{middle:.1f} {height - box.y1:.1f}V{height - box.y0:.1f}"/>'
            + "".join(
                f'<circle cx="{across:.1f}" cy="{height - up:.1f}" r="3" fill="{point.trace.colour}"/>'
                for point, (across, up) in zip(points, dots, strict=True)
            )
            + _tip(lines, points, middle, height - box.y1, float(axes.figure.bbox.width))
            + "</g>"
        )
    return "".join(marks)


def _columns(traces: Sequence[Trace]) -> Iterator[tuple[float, list[_Point]]]:
    """Yield where one can point at, from left to right, and the nearest point of each trace that is near."""
    if not traces:
        return
    known = [np.flatnonzero(~np.isnan(trace.y)) for trace in traces]
    every = np.unique(np.concatenate([trace.x[places] for trace, places in zip(traces, known, strict=True)]))
    width = float(every[-1] - every[0]) / _COLUMNS
    shown = every[:: -(-len(every) // _COLUMNS)]
    for x in shown.tolist():
        nearest = (
            _Point(trace, int(places[np.abs(trace.x[places] - x).argmin()]))
            for trace, places in zip(traces, known, strict=True)
        )
        yield x, [point for point in nearest if abs(point.x - x) <= width]


def _told(point: _Point, value: str) -> str:
    name = point.trace.name
    short = f"{name[:_MAX_NAME]}…" if len(name) > _MAX_NAME else name
    remark = f" {point.trace.remarks[point.place]}" if point.trace.remarks else ""
    return f"{short} {value.format(point.y)}{remark}".lstrip()


def _tip(lines: Sequence[str], points: Sequence[_Point], x: float, top: float, width: float) -> str:
    """Return the box with the values, on the side where there is room."""
    from xml.sax.saxutils import escape  # noqa: PLC0415 - writes, parses nothing

    wide = max(len(line) for line in lines) * _CHARACTER_PX + 2 * _PADDING_PX
    tall = len(lines) * _LINE_PX + _PADDING_PX
    left = x + 8 if x + 8 + wide <= width else max(x - 8 - wide, 0)
    colours = ["var(--faint)", *(point.trace.colour for point in points)]
    text = "".join(
        f'<tspan x="{left + _PADDING_PX:.1f}" dy="{_LINE_PX}" fill="{colour}">{escape(line)}</tspan>'
        for line, colour in zip(lines, colours, strict=True)
    )
    box = f'x="{left:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{tall:.1f}" rx="5"'
    return f'<rect class="tip" {box}/><text y="{top + 1:.1f}">{text}</text>'
