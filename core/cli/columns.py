"""A table for people: whole where it is piped, within the terminal where there is one."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "
#: One long cell may take this part of a terminal, and not widen every row beyond it.
_PART = 5


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        title: What stands above it.
        floor: Characters that it needs to be of use; None if its cells are not to be cut.
        rank: Which goes first where there is no room: the highest.
    """

    title: str
    floor: int | None = None
    rank: int = 0


def terminal_width() -> int | None:
    """Return the characters of a line of the terminal, or None if the output is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def fit_columns(columns: Sequence[Column], rows: Sequence[Sequence[str]], width: int) -> dict[str, int]:
    """Return the columns that a terminal has room for, each with the characters that it gets.

    Args:
        columns: Those that there are, in order.
        rows: Their cells, without the titles.
        width: Characters of a line.
    """
    natural = {
        column.title: max(len(column.title), *(len(row[place]) for row in rows), 1)
        for place, column in enumerate(columns)
    }
    floors = {
        column.title: natural[column.title]
        if column.floor is None
        else min(natural[column.title], max(column.floor, len(column.title)))
        for column in columns
    }
    shown = list(columns)
    while len(shown) > 1 and _total([floors[column.title] for column in shown]) > width:
        shown.remove(max(shown, key=lambda column: column.rank))
    widths = {column.title: floors[column.title] for column in shown}
    spare = width - _total(list(widths.values()))
    *first, last = sorted(shown, key=lambda column: column.rank)
    for column in first:
        wanted = min(natural[column.title], width // _PART)
        more = max(0, min(spare, wanted - widths[column.title]))
        widths[column.title] += more
        spare -= more
    widths[last.title] = min(natural[last.title], widths[last.title] + max(0, spare))
    return widths


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows, the titles among them, in columns as wide as their longest cell."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        _GAP.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + len(_GAP) * (len(widths) - 1)
