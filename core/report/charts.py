"""Charts as inline SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .run_data import Curve, Layer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Stand-ins that matplotlib draws with, and the page's variables that take their place.
_INK, _FAINT, _GRID, _WARN, _HEAT = "#000001", "#000002", "#000003", "#000004", "#000005"
_SERIES = ("#000011", "#000012", "#000013", "#000014", "#000015", "#000016", "#000017", "#000018")
_VARIABLES = {
    _INK: "var(--ink)",
    _FAINT: "var(--faint)",
    _GRID: "var(--grid)",
    _WARN: "var(--warn)",
    _HEAT: "var(--s1)",
    **{colour: f"var(--s{i})" for i, colour in enumerate(_SERIES, 1)},
}
MAX_LINES = len(_SERIES)
WHOLE_MODEL = "whole model"
_POINTS = 300
_FEW_POINTS = 25
_DOT = 3.2
#: Of a point that no line, or a short one, leads to.
_LONE_DOT = 5.0
_HEAT_ROWS = 48
_HEAT_COLUMNS = 64
_LOG_RATIO = 30.0
#: Below, powers of ten alone would leave a logarithmic axis one or two ticks.
_FEW_DECADES = 3
#: Beyond, matplotlib's own sums overflow; a single precision number hardly gets there.
_LARGEST = 1e30
_INCH = 72
_STYLE: Any = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _FAINT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.7,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": _INK,
    "legend.frameon": False,
    "legend.fontsize": 10,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
    "axes.formatter.useoffset": False,
    "axes.formatter.limits": (-3, 5),
}


def line_chart(
    key: str,
    title: str,
    series: Sequence[Curve],
    *,
    marks: Sequence[int] = (),
    smooth: bool = False,
    log: bool = False,
    size: tuple[int, int] = (400, 230),
) -> str:
    """Draw numbers over steps; more lines than colours become their median and spread.

    Args:
        key: Unique on the page; letters and digits.
        title: For readers who do not see it.
        series: The lines.
        marks: Steps to mark, of restarts and the like.
        smooth: Draw a running mean over the faint numbers themselves.
        log: Use a logarithmic axis if the numbers are all positive and far apart.
        size: Width and height in CSS pixels.

    Returns:
        An ``<svg>`` element.
    """
    with _figure(size) as (figure, axes):
        for step in marks:
            axes.axvline(step, color=_WARN, linewidth=1, linestyle=(0, (2, 2)))
        if len(series) > MAX_LINES:
            _draw_spread(axes, [one for one in series if one.name != WHOLE_MODEL])
            for one in series:
                if one.name == WHOLE_MODEL:
                    _draw_line(axes, one, _SERIES[1], smooth=False)
        else:
            for colour, one in zip(_SERIES, series, strict=False):
                _draw_line(axes, one, colour, smooth=smooth)
        if log and _is_wide(axes):
            _use_decades(axes)
        _finish(axes, legend=len(series) > 1)
        _limit_steps(axes, [*marks, *(step for one in series for step in one.steps)])
        return _svg(figure, key, title)


def heat_map(key: str, title: str, layer: Layer, *, size: tuple[int, int] = (272, 158)) -> str:
    """Draw histograms over steps: the darker, the more values lie there at that step.

    Args:
        key: Unique on the page; letters and digits.
        title: For readers who do not see it.
        layer: The histograms.
        size: Width and height in CSS pixels.

    Returns:
        An ``<svg>`` element.
    """
    shares, low, high = _on_common_edges(layer)
    with _figure(size) as (figure, axes):
        axes.grid(visible=False)
        extent = (layer.steps[0], max(layer.steps[-1], layer.steps[0] + 1), low, high)
        # Opacity tells the share, so that the page's own background shows where there is nothing.
        axes.imshow(
            _tint(shares), extent=extent, aspect="auto", origin="lower", interpolation="nearest", zorder=0
        )
        axes.locator_params(nbins=4)
        _finish(axes, legend=False)
        return _svg(figure, key, title)


@contextmanager
def _figure(size: tuple[int, int]) -> Iterator[tuple[Figure, Axes]]:
    """Give a figure with one axes; the style holds inside only.

    matplotlib is imported here: it takes a second that only a report needs. Its
    figures are used without pyplot, which would keep them all.
    """
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    with mpl.rc_context(_STYLE):
        width, height = size
        figure = Figure(figsize=(width / _INCH, height / _INCH), dpi=_INCH, layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield figure, axes


def _finish(axes: Axes, *, legend: bool) -> None:
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel("step", loc="right", labelpad=1)
    # By default two integers have to be in sight before there are no others.
    axes.locator_params(axis="x", nbins=6, integer=True, min_n_ticks=1)
    axes.xaxis.set_major_formatter(_whole_number)
    if legend:
        axes.figure.legend(
            *axes.get_legend_handles_labels(),
            loc="outside upper left",
            ncols=3,
            handlelength=1.2,
            columnspacing=1.2,
        )


def _limit_steps(axes: Axes, steps: Sequence[int]) -> None:
    """Show the steps that there are; where there is only one, those up to it, and a dot as a whole."""
    low, high = min(steps, default=0), max(steps, default=1)
    lone = low == high
    if lone:
        low, high = 0, max(high, 1)
    room = (0.02 if lone else 0.01) * (high - low)
    axes.set_xlim(low - room, high + room)


def _use_decades(axes: Axes) -> None:
    """Make the axis of values logarithmic, with enough ticks to read a value."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - only a report needs it

    axes.set_yscale("log")
    low, high = np.log10(axes.get_ylim())
    if high - low < _FEW_DECADES:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.tick_params(which="minor", length=0)
    axes.yaxis.set_major_formatter(_plain_number)
    axes.yaxis.set_minor_formatter(_no_label)


def _whole_number(value: float, _: float) -> str:
    return f"{value:,.0f}"


def _plain_number(value: float, _: float) -> str:
    return f"{value:g}"


def _no_label(value: float, _: float) -> str:
    del value
    return ""


def _drawable(values: Sequence[float]) -> NDArray[np.float64]:
    """Return ``values`` with a gap where a number cannot be drawn."""
    numbers = np.asarray(values, float)
    return np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)


def _printable(name: str) -> str:
    """Return ``name`` without characters that no font has, such as those of a terminal's commands."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name
    )


def _draw_line(axes: Axes, series: Curve, colour: str, *, smooth: bool) -> None:
    steps, values = np.asarray(series.steps, float), _drawable(series.values)
    if smooth and len(steps) > _POINTS // 6:
        faint_steps, faint = _thin(steps, values, _POINTS)
        axes.plot(faint_steps, faint, color=colour, alpha=0.25, linewidth=0.9)
        steps, values = _thin(steps, values, _POINTS // 6)
    else:
        steps, values = _thin(steps, values, _POINTS)
    axes.plot(steps, values, color=colour, label=_printable(series.name), **_dots(values))


def _dots(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return where a line has dots: at each point where there are few, and where no line leads to one."""
    if len(values) <= _FEW_POINTS:
        return {"marker": "o", "markersize": _DOT if len(values) > 2 else _LONE_DOT}  # noqa: PLR2004 - a line's ends
    gap = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
    alone = np.flatnonzero(~gap[1:-1] & gap[:-2] & gap[2:])
    return {"marker": "o", "markersize": _LONE_DOT, "markevery": alone.tolist()} if len(alone) else {}


def _draw_spread(axes: Axes, series: Sequence[Curve]) -> None:
    """Draw the median of many lines, and where the middle 80 % of them lie."""
    every = sorted({step for one in series for step in one.steps})
    # Neighbouring steps share a column where there are many: of each line the last of them counts.
    count = -(-len(every) // _POINTS) or 1
    steps, place = every[::count], {step: i // count for i, step in enumerate(every)}
    table = np.full((len(series), len(steps)), np.nan)
    for row, one in zip(table, series, strict=True):
        row[[place[step] for step in one.steps]] = _drawable(one.values)
    known = ~np.isnan(table).all(axis=0)
    x, table = np.asarray(steps, float)[known], table[:, known]
    if not len(x):
        return
    low, middle, high = np.nanpercentile(table, [10, 50, 90], axis=0)
    if len(x) == 1:
        # A band between one step and itself has no width.
        axes.vlines(x, low, high, color=_SERIES[0], alpha=0.18, linewidth=3 * _DOT, label="middle 80 %")
    else:
        axes.fill_between(x, low, high, color=_SERIES[0], alpha=0.18, linewidth=0, label="middle 80 %")
    axes.plot(x, middle, color=_SERIES[0], label=f"median of {len(series)}", **_dots(middle))


def _thin(
    x: NDArray[np.float64], y: NDArray[np.float64], points: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return at most ``points`` means of neighbouring numbers; a mean of nothing but NaN is left out."""
    count = -(-len(x) // points)
    if count <= 1:
        return x, y
    groups = [slice(i, i + count) for i in range(0, len(x), count)]
    groups = [group for group in groups if not np.isnan(y[group]).all()]
    return (
        np.array([x[group].mean() for group in groups]),
        np.array([np.nanmean(y[group]) for group in groups]),
    )


def _is_wide(axes: Axes) -> bool:
    """Tell whether a logarithmic axis suits what is drawn: all above zero, over a wide range."""
    low, high = axes.dataLim.intervaly
    return bool(0 < low * _LOG_RATIO < high)


def _on_common_edges(layer: Layer) -> tuple[NDArray[np.float64], float, float]:
    """Bring histograms with edges of their own onto common ones.

    Returns:
        Shares of each column's largest, (rows, columns); the lowest and the highest edge.
    """
    chosen = np.unique(np.linspace(0, len(layer.steps) - 1, _HEAT_COLUMNS).round().astype(int))
    all_edges = [np.clip(np.asarray(layer.edges[i], float), -_LARGEST, _LARGEST) for i in chosen]
    low, high = min(float(edges[0]) for edges in all_edges), max(float(edges[-1]) for edges in all_edges)
    if not low < high:
        low, high = low - abs(low) / 2, high + abs(high) / 2
    common = np.linspace(low, high, _HEAT_ROWS + 1)
    columns = []
    for i, edges in zip(chosen, all_edges, strict=True):
        counts = np.clip(np.asarray(layer.counts[i], float), 0, _LARGEST)
        below = np.concatenate([[0.0], np.cumsum(counts)])
        # Edges may lie so close that the slope between them is infinite, and 0 times that no number.
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            inside = np.nan_to_num(np.diff(np.interp(common, edges, below)), nan=0.0, posinf=0.0, neginf=0.0)
        columns.append(inside / (inside.max() or 1.0))
    return np.stack(columns, axis=1), low, high


def _tint(shares: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return (rows, columns, 4) bytes; the square root brings out the tails."""
    picture = np.empty((*shares.shape, 4), np.uint8)
    picture[..., :3] = (79, 125, 243)
    picture[..., 3] = np.sqrt(shares) * 255
    return picture


_ID = re.compile(r'\b(id="|href="#|url\(#)')


def _svg(figure: Figure, key: str, title: str) -> str:
    """Return ``figure`` as an element whose ids are its own and whose colours are the page's."""
    from xml.sax.saxutils import escape  # noqa: PLC0415 - writes, parses nothing

    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415

    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": key}):
        canvas: Any = FigureCanvasSVG(figure)
        canvas.print_svg(buffer, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    # Its own style would reach the whole page.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s+", " ", text)
    text = _ID.sub(lambda found: f"{found[1]}{key}-", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, variable)
    text = text.replace("font-family: 'DejaVu Sans'", "font-family: inherit")
    head, _, body = text.partition(">")
    return f'{head} role="img" aria-label="{escape(_printable(title), {chr(34): "&quot;"})}">{body}'
