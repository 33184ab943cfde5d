"""What ``ringfence compare`` does: a table of several runs, and a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..hooks.errors import JobError, shorten
from ..report.comparison import Comparison, Row, compare_runs
from ..report.template import fill
from ..tracking.one_line import one_line
from ..tracking.run_folder import explain_disk, write_text
from .columns import table

_LEAST_CELL = 10
#: All cells of a column are as wide as the widest.
_LONGEST_CELL = 400


def comparison_lines(comparison: Comparison, width: int | None) -> list[str]:
    """Return the tables of what came of the runs and of what differed, for a terminal.

    Args:
        comparison: Without charts is enough.
        width: Characters of a line of the terminal; without it nothing is cut.
    """
    lines = [*_table("WHAT CAME OF THEM", comparison.outcomes, comparison.names, width), ""]
    if comparison.differences:
        lines += _table("WHAT DIFFERED", comparison.differences, comparison.names, width)
    else:
        lines.append("Nothing differed that the folders tell of.")
    return [*lines, *(f"left out: {sentence}" for sentence in comparison.left_out)]


def compare(folders: Sequence[Path], out: Path | None, width: int | None) -> Iterator[str]:
    """Yield the lines of a comparison; with ``out``, write its page first and tell where it is.

    Raises:
        JobError: A folder is no run, or the page cannot be written.
    """
    if out is not None and out.exists():
        raise JobError(f"--out {out}: is there already; name a file that is not")
    comparison = compare_runs(folders, charts=out is not None)
    yield from comparison_lines(comparison, width)
    if out is not None:
        try:
            write_text(out, comparison_page(comparison))
        except OSError as error:
            raise JobError(f"--out {out}: cannot be written: {explain_disk(error)}") from error
        yield f"page  {out}"


def comparison_page(comparison: Comparison) -> str:
    """Return the page."""
    return fill(
        "comparison.html",
        names=comparison.names,
        statuses=comparison.statuses,
        outcomes=comparison.outcomes,
        differences=comparison.differences,
        charts=comparison.charts,
        left_out=comparison.left_out,
    )


def _table(title: str, rows: Sequence[Row], names: Sequence[str], width: int | None) -> list[str]:
    """Return rows in columns; the best of a row is marked."""
    cells = [[title, *names]]
    for row in rows:
        marked = [f"{value} *" if place in row.best else value for place, value in enumerate(row.values)]
        cells.append([row.key, *marked])
    # They come from folders of anybody's: a line end would make a row of its own.
    cells = [[one_line(shorten(cell, _LONGEST_CELL)) for cell in row] for row in cells]
    if width is not None:
        first = max(len(row[0]) for row in cells)
        room = max((width - min(first, width // 3)) // len(names) - 2, _LEAST_CELL)
        cells = [
            [shorten(row[0], max(width // 3, _LEAST_CELL)), *(shorten(cell, room) for cell in row[1:])]
            for row in cells
        ]
    return table(cells)
