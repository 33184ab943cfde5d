"""Draw the tables of a row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from harness import Figure, Table, scaled
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

#: Bars of which the longest is this much longer than the shortest are drawn on a scale of powers.
_FAR_APART = 30.0


def draw(tables: Sequence[Table], path: Path) -> None:
    """Draw each table into one picture: lines where it has series, bars otherwise."""
    mpl.use("agg")
    heights = [2.8 if table.plot is not None else 0.9 + 0.28 * len(_bars_of(table)) for table in tables]
    figure, axes = plt.subplots(
        len(tables),
        1,
        figsize=(9, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for table, (axis,) in zip(tables, axes, strict=True):
        axis.set_title(table.title, fontsize=9, loc="left")
        if table.plot is not None:
            _lines(axis, table)
        else:
            _bars(axis, _bars_of(table))
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _lines(axis: Axes, table: Table) -> None:
    for name, points in (table.plot or {}).items():
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel(table.axes[0], fontsize=8)
    axis.set_ylabel(table.axes[1], fontsize=8)
    axis.legend(fontsize=7, frameon=False)


def _bars_of(table: Table) -> list[tuple[str, Figure]]:
    """Return each line's name and its first figure."""
    found = []
    for line in table.lines:
        place = next((i for i, cell in enumerate(line) if isinstance(cell, Figure)), None)
        if place is not None:
            found.append((" ".join(str(cell) for cell in line[:place]), line[place]))
    return found


def _bars(axis: Axes, bars: Sequence[tuple[str, Figure]]) -> None:
    if not bars:
        return
    medians = [figure.median for _, figure in bars]
    scale, unit = scaled(min(map(abs, medians)), bars[0][1].unit)
    errors = [
        [(figure.median - figure.spread[0]) / scale for _, figure in bars],
        [(figure.spread[1] - figure.median) / scale for _, figure in bars],
    ]
    axis.barh(
        [name for name, _ in bars],
        [median / scale for median in medians],
        xerr=errors,
        height=0.6,
        error_kw={"linewidth": 0.8},
    )
    axis.invert_yaxis()
    if min(medians) > 0 and max(medians) / min(medians) > _FAR_APART:
        axis.set_xscale("log")
    axis.set_xlabel(unit, fontsize=8)
