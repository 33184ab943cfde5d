"""Charts as inline SVG that takes its colours from the page, in the light and in the dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .hover import Trace, hover_marks
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
_BAND = "middle 80 %"
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
    is_share: bool = False,
    kind_of: Callable[[str], str] = lambda _: "",
    colours: Sequence[int] = range(MAX_LINES),
    size: tuple[int, int] = (400, 230),
) -> str:
    """Draw numbers over steps; more lines than colours become the median and spread of each kind.

    Pointing at it shows the values there.

    Args:
        key: Unique on the page; letters and digits.
        title: For readers who do not see it.
        series: The lines.
        marks: Steps to mark, of restarts and the like.
        smooth: Draw a running mean over the faint numbers themselves.
        log: Use a logarithmic axis if the numbers are all positive and far apart.
        is_share: The numbers lie between 0 and 1: so does the axis.
        kind_of: Kind of a line's name; lines of one kind share a median and a spread.
        colours: Number of each line's colour on the page, from 0, where no line is drawn as a median.
        size: Width and height in CSS pixels.

    Returns:
        An ``<svg>`` element.
    """
    with _figure(size) as (figure, axes):
        for step in marks:
            axes.axvline(step, color=_WARN, linewidth=1, linestyle=(0, (2, 2)))
        if len(series) > MAX_LINES:
            traces = _draw_kinds(axes, series, kind_of)
        else:
            traces = [
                _draw_line(axes, one, _SERIES[colour], smooth=smooth)
                for colour, one in zip(colours, series, strict=False)
            ]
        if log and _is_wide(axes):
            _use_decades(axes)
        if is_share:
            low, high = axes.get_ylim()
            axes.set_ylim(max(low, 0.0), min(high, 1.0))
        _finish(axes, legend=len(series) > 1)
        _limit_steps(axes, [*marks, *(step for one in series for step in one.steps)])
        return _svg(figure, key, title, lambda: hover_marks(axes, traces))


def reliability_chart(
    key: str, title: str, bins: NDArray[np.float64], *, size: tuple[int, int] = (400, 360)
) -> str:
    """Draw how often a classifier is right over how sure it is; the larger a dot, the more samples.

    Args:
        key: As in ``line_chart``.
        title: Likewise.
        bins: Of each bin samples, sum of probabilities and correct ones, (bins, 3).
        size: As in ``line_chart``.
    """
    count, total, correct = bins[bins[:, 0] > 0].T
    sure, right = np.clip(total / count, 0, 1), np.clip(correct / count, 0, 1)
    with _figure(size) as (figure, axes):
        axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle=(0, (3, 3)))
        axes.plot(sure, right, color=_SERIES[0], alpha=0.4, linewidth=1.2, clip_on=False)
        area = 22 + 150 * count / count.max(initial=1)
        axes.scatter(sure, right, area, color=_SERIES[0], alpha=0.75, linewidths=0, clip_on=False, zorder=3)
        axes.set(xlim=(0, 1), ylim=(0, 1))
        _finish(axes, legend=False, label="probability that it gave its choice")
        axes.xaxis.set_major_formatter(_per_cent)
        axes.yaxis.set_major_formatter(_per_cent)
        traces = [Trace("right", "var(--s1)", sure, right, [f"{n:,.0f} samples" for n in count])]
        return _svg(figure, key, title, lambda: hover_marks(axes, traces, of="{:.1%} sure", value="{:.1%}"))


def residual_chart(
    key: str,
    title: str,
    predicted: NDArray[np.float64],
    residual: NDArray[np.float64],
    *,
    size: tuple[int, int] = (640, 340),
) -> str:
    """Draw what predictions were off by over what was predicted, a dot a sample.

    Args:
        key: As in ``line_chart``.
        title: Likewise.
        predicted: (n,).
        residual: Target less prediction, (n,).
        size: As in ``line_chart``.
    """
    x, y = _drawable(predicted), _drawable(residual)
    known = ~(np.isnan(x) | np.isnan(y))
    x, y = x[known], y[known]
    with _figure(size) as (figure, axes):
        axes.axhline(0, color=_FAINT, linewidth=1, linestyle=(0, (3, 3)))
        axes.scatter(x, y, 14, color=_SERIES[0], alpha=0.45, linewidths=0)
        _finish(axes, legend=False, label="predicted")
        axes.xaxis.set_major_formatter(_plain_number)
        traces = [Trace("target less prediction", "var(--s1)", *_along(x, y))]
        return _svg(figure, key, title, lambda: hover_marks(axes, traces, of="predicted {:.4g}"))


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


def _finish(axes: Axes, *, legend: bool, label: str = "step") -> None:
    axes.grid(visible=False, axis="x")
    axes.margins(x=0.01)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label, loc="right", labelpad=1)
    # By default two integers have to be in sight before there are no others.
    if label == "step":
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
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def _per_cent(value: float, _: float) -> str:
    return f"{value:.0%}"


def _no_label(value: float, _: float) -> str:
    del value
    return ""


def _drawable(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``values`` with a gap where a number cannot be drawn."""
    numbers = np.asarray(values, float)
    return np.where(np.abs(numbers) <= _LARGEST, numbers, np.nan)


def _printable(name: str) -> str:
    """Return ``name`` without characters that no font has, such as those of a terminal's commands."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in name
    )


def _draw_line(axes: Axes, series: Curve, colour: str, *, smooth: bool) -> Trace:
    steps, values = np.asarray(series.steps, float), _drawable(series.values)
    if smooth and len(steps) > _POINTS // 6:
        faint_steps, faint = _thin(steps, values, _POINTS)
        axes.plot(faint_steps, faint, color=colour, alpha=0.25, linewidth=0.9)
        steps, values = _thin(steps, values, _POINTS // 6)
    else:
        steps, values = _thin(steps, values, _POINTS)
    name = _printable(series.name)
    # What lies at the end of an axis, as an accuracy of 1 does, is drawn whole.
    axes.plot(steps, values, color=colour, label=name, clip_on=False, **_dots(values))
    return Trace(name, _VARIABLES[colour], steps, values)


def _dots(values: NDArray[np.float64]) -> dict[str, Any]:
    """Return where a line has dots: at each point where there are few, and where no line leads to one."""
    if len(values) <= _FEW_POINTS:
        return {"marker": "o", "markersize": _DOT if len(values) > 2 else _LONE_DOT}  # noqa: PLR2004 - a line's ends
    gap = np.isnan(np.concatenate([[np.nan], values, [np.nan]]))
    alone = np.flatnonzero(~gap[1:-1] & gap[:-2] & gap[2:])
    return {"marker": "o", "markersize": _LONE_DOT, "markevery": alone.tolist()} if len(alone) else {}


def _draw_kinds(axes: Axes, series: Sequence[Curve], kind_of: Callable[[str], str]) -> list[Trace]:
    """Draw the lines of each kind as their median and spread, and the whole model as itself."""
    kinds: dict[str, list[Curve]] = {}
    for one in series:
        if one.name != WHOLE_MODEL:
            kinds.setdefault(kind_of(one.name), []).append(one)
    colours = iter(_SERIES)
    traces: list[Trace] = []
    for colour, (kind, members) in zip(colours, sorted(kinds.items()), strict=False):
        # One band in the legend tells what all of them are.
        traces += _draw_spread(axes, members, kind, colour, band="" if traces else _BAND)
    whole = [one for one in series if one.name == WHOLE_MODEL]
    return traces + [_draw_line(axes, one, next(colours), smooth=False) for one in whole]


def _draw_spread(axes: Axes, series: Sequence[Curve], kind: str, colour: str, *, band: str) -> list[Trace]:
    """Draw the median of many lines and, called ``band`` in the legend, where the middle 80 % of them lie."""
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
        return []
    low, middle, high = np.nanpercentile(table, [10, 50, 90], axis=0)
    name = f"{kind} ({len(series)})" if kind else f"median of {len(series)}"
    if len(x) == 1:
        # A band between one step and itself has no width.
        axes.vlines(x, low, high, color=colour, alpha=0.18, linewidth=3 * _DOT, label=band)
    else:
        axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0, label=band)
    axes.plot(x, middle, color=colour, label=name, **_dots(middle))
    spread = [f"({a:.3g} to {b:.3g})" for a, b in zip(low, high, strict=True)]
    return [Trace(name, _VARIABLES[colour], x, middle, spread)]


def _along(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


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


def _svg(figure: Figure, key: str, title: str, marks: Callable[[], str] = str) -> str:
    """Return ``figure`` as an element whose ids are its own and whose colours are the page's.

    Args:
        figure: Drawn.
        key: What its ids begin with.
        title: For readers who do not see it.
        marks: Returns what is laid over it, once it is known where everything is.
    """
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
    body = body[: body.rindex("</svg>")] + marks() + "</svg>"
    return f'{head} role="img" aria-label="{escape(_printable(title), {chr(34): "&quot;"})}">{body}'
