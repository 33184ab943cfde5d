"""What all rows of the benchmarks share: sides that are measured in turn, figures, goals, tables."""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ringfence.plugins.stop_request import StopRequest

#: Prefixes of units by powers of a thousand, for seconds.
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))
_PACKAGES = (
    *("torch", "albumentations", "torch-optimizer"),
    *("pytorch-lightning", "pytorch-ignite", "accelerate", "transformers", "ray", "loky"),
)


class Asking(StopRequest):
    """A request that is made once ``ask`` says so, which is called between steps and can so note the time.

    Args:
        ask: Tells whether the run is to end.
    """

    def __init__(self, ask: Callable[[], bool]) -> None:
        super().__init__()
        self._ask = ask

    def is_made(self) -> bool:
        """Ask."""
        return self._ask()


@dataclass(frozen=True, slots=True)
class Figure:
    """Repeated measurements of one thing.

    Attributes:
        values: In the order in which they were made.
        unit: ``"s"`` is shown in ms, µs or ns as it fits; anything else as it is.
    """

    values: tuple[float, ...]
    unit: str = "s"

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles; the least and the most of fewer than four."""
        if len(self.values) < 4:  # noqa: PLR2004 - quartiles of three are a guess
            return min(self.values), max(self.values)
        low, _, high = statistics.quantiles(self.values, n=4)
        return low, high

    def __str__(self) -> str:
        scale, unit = scaled(self.median, self.unit)
        middle, low, high = (_digits(value / scale) for value in (self.median, *self.spread))
        return f"{middle} {unit} ({low} to {high})".replace("  ", " ")


def scaled(value: float, unit: str) -> tuple[float, str]:
    """Return by what to divide for ``value`` to be read well, and the unit that it then has."""
    if unit != "s":
        return 1.0, unit
    return next((pair for pair in _UNITS if abs(value) >= pair[0]), _UNITS[-1])


def _digits(value: float) -> str:
    """Return three significant digits, more only where they stand before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004 - three digits


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound that a figure was to keep.

    Attributes:
        text: What is bounded, with the bound.
        value: What was measured.
        bound: Its limit.
        at_least: The bound is a least one, not a greatest.
        unit: As of a figure.
    """

    text: str
    value: float
    bound: float
    at_least: bool = False
    unit: str = ""

    @property
    def met(self) -> bool:
        """Whether it was kept."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def __str__(self) -> str:
        scale, unit = scaled(self.value, self.unit)
        told = "met" if self.met else "MISSED"
        return f"{told}: {self.text}; measured {_digits(self.value / scale)} {unit}".rstrip()


@dataclass(slots=True)
class Table:
    """Rows below one another, and what they were to show.

    Attributes:
        title: What was measured, in which units of work.
        columns: Heads, the first of the row names.
        lines: One a row: its name, then figures or words.
        goals: Bounds on what is in it.
        plot: Series to draw: name to points (x, y); None draws bars of the first column of figures.
        axes: What x and y of the series are.
        notes: Sentences below it.
    """

    title: str
    columns: Sequence[str]
    lines: list[Sequence[Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    plot: Mapping[str, Sequence[tuple[float, float]]] | None = None
    axes: tuple[str, str] = ("", "")
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """Return it for a terminal, which is Markdown as well."""
        cells = [list(self.columns), *([str(cell) for cell in line] for line in self.lines)]
        widths = [max(len(line[i]) for line in cells) for i in range(len(self.columns))]
        lines = [
            "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
        ]
        lines.insert(1, "| " + " | ".join("-" * w for w in widths) + " |")
        tail = [f"- {told}" for told in (*self.goals, *self.notes)]
        return "\n".join([f"### {self.title}", "", *lines, *(["", *tail] if tail else []), ""])

    def record(self) -> dict[str, Any]:
        """Return it as plain data."""
        lines = [[asdict(cell) if isinstance(cell, Figure) else str(cell) for cell in x] for x in self.lines]
        goals = [{**asdict(goal), "met": goal.met} for goal in self.goals]
        return {
            "title": self.title,
            "columns": list(self.columns),
            "lines": lines,
            "goals": goals,
            "series": self.plot,
            "axes": self.axes,
            "notes": self.notes,
        }


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the benchmarks.

    Attributes:
        number: As in the documentation.
        title: What it measures against what.
        measure: Makes its tables; is told whether a quick look is enough.
    """

    number: int
    title: str
    measure: Callable[[bool], list[Table]]


def in_turn(sides: Mapping[str, Callable[[], float]], rounds: int, *, warm: int = 1) -> dict[str, Figure]:
    """Measure every side once a round, in an order that turns, so that what disturbs one disturbs all.

    Args:
        sides: Name to what makes one measurement, and returns it.
        rounds: Measurements of each.
        warm: Rounds before that, which do not count.
    """
    names = list(sides)
    found: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm, rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            gc.collect()
            value = sides[name]()
            if number >= 0:
                found[name].append(value)
    return {name: Figure(tuple(values)) for name, values in found.items()}


def ratio(figures: Mapping[str, Figure], ours: str, theirs: str) -> Figure:
    """Return ours by theirs, round by round: what slows a whole round down cancels out."""
    pairs = zip(figures[ours].values, figures[theirs].values, strict=True)
    return Figure(tuple(a / b for a, b in pairs), "x")


def difference(figures: Mapping[str, Figure], ours: str, theirs: str) -> Figure:
    """Return ours less theirs, round by round."""
    pairs = zip(figures[ours].values, figures[theirs].values, strict=True)
    return Figure(tuple(a - b for a, b in pairs))


def pin_threads(count: int = 1) -> None:
    """Have torch use ``count`` threads, in every process the same."""
    torch.set_num_threads(count)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    packages = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": packages,
        "load_before": os.getloadavg()[0],
    }


def write(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Write ``record`` to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
