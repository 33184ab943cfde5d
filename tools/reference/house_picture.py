"""Draw the rooms of the core and what they import of each other, as the files say it."""

from __future__ import annotations

import ast
import math
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

CORE = Path(__file__).resolve().parents[2] / "core"
_WIDTH, _FLOOR, _BOX, _HEIGHT, _GAP, _MARGIN = 860, 92, 150, 44, 60, 20
_STYLE = """
  .room { fill: #eef1fb; stroke: #4051b5; }
  .name { font: 600 14px sans-serif; fill: #1c2340; text-anchor: middle; }
  .what { font: 10px sans-serif; fill: #4a5068; text-anchor: middle; }
  .arrow { stroke: #8a93b8; fill: none; marker-end: url(#head); }
  .head { fill: #8a93b8; }
  @media (prefers-color-scheme: dark) {
    .room { fill: #262b3f; stroke: #8f9ae0; }
    .name { fill: #e7eaf6; }
    .what { fill: #b6bcd4; }
  }
"""
#: What a room is for, in the words that fit into its box.
_WHAT = {
    "cli": "the command line",
    "testing": "the kit for authors",
    "run": "job to finished run",
    "report": "the page of a run",
    "tracking": "what a run writes",
    "models": "models of a job",
    "datasets": "data of a job",
    "discovery": "which plugins there are",
    "engine": "the training loop",
    "isolation": "the sandbox",
    "job": "the job file, typed",
    "plugins": "order, results, faults",
    "compat": "fits three series?",
    "tensors": "as bytes and buffers",
    "reproducibility": "seeds and generators",
    "imports": "who may import what",
    "hooks": "THE CONTRACT",
}


def text() -> str:
    """Return the picture, as SVG."""
    arrows = rooms()
    floors = _floors(arrows)
    across = _across(floors, arrows)
    places = {
        room: (across[room], _MARGIN + row * _FLOOR) for row, floor in enumerate(floors) for room in floor
    }
    height = 2 * _MARGIN + (len(floors) - 1) * _FLOOR + _HEIGHT
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img">',
            "<title>The rooms of the core: each imports from floors below its own only</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" markerHeight="7"',
            ' orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
            *(_arrow(places[a], places[b]) for a in sorted(arrows) for b in sorted(_direct(a, arrows))),
            *(_room(room, *places[room]) for floor in floors for room in floor),
            "</svg>\n",
        )
    )


def rooms() -> dict[str, set[str]]:
    """Return room to the rooms that its files import."""
    names = {path.parent.name for path in CORE.glob("*/__init__.py")}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in CORE.rglob("*.py"):
        parts = ("ringfence", *path.relative_to(CORE).parent.parts)
        if parts[1:]:
            found[parts[1]] |= {room for room in _imported(path, parts) if room in names - {parts[1]}}
    return found


def _imported(path: Path, package: tuple[str, ...]) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = (*package[: len(package) - node.level + 1], *(node.module or "").split("."))
            yield from (base[1:2] if base[1] else [alias.name for alias in node.names])


def _floors(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Return the rooms, the ground floor last; a room stands right above the highest that it imports."""
    height: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((of(below) for below in arrows[room]), default=-1)
        return height[room]

    rows: dict[int, list[str]] = {}
    for room in sorted(arrows):
        rows.setdefault(of(room), []).append(room)
    return [rows[row] for row in sorted(rows, reverse=True)]


def _across(floors: list[list[str]], arrows: dict[str, set[str]]) -> dict[str, float]:
    """Return where the middle of each room is: above those that it imports, so that few arrows cross."""
    place: dict[str, float] = {}
    for floor in reversed(floors):
        wanted = {
            room: _mean([place[below] for below in _direct(room, arrows)] or [_WIDTH / 2]) for room in floor
        }
        row = sorted(floor, key=lambda room: (wanted[room], room))
        left = -math.inf
        for room in row:
            place[room] = left = max(wanted[room], left + _BOX + _GAP)
        middle = _mean([place[room] - wanted[room] for room in row])
        low, high = _BOX / 2 - place[row[0]], _WIDTH - _BOX / 2 - place[row[-1]]
        for room in row:
            place[room] += min(max(-middle, low), high)
    return place


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _direct(room: str, arrows: dict[str, set[str]]) -> set[str]:
    """Return what a room imports and reaches by no way around: the others would hide the picture."""
    around: set[str] = set()
    ahead = [further for below in arrows[room] for further in arrows[below]]
    while ahead:
        if (next_room := ahead.pop()) not in around:
            around.add(next_room)
            ahead += arrows[next_room]
    return arrows[room] - around


def _arrow(start: tuple[float, float], end: tuple[float, float]) -> str:
    x, y, to_x, to_y = start[0], start[1] + _HEIGHT, end[0], end[1] - 2
    # One that leads past a floor goes around what may stand there.
    aside = 0 if to_y - y < _FLOOR else math.copysign(0.8 * _BOX, to_x - x)
    return (
        f'<path class="arrow" d="M{x:.0f} {y:.0f} C{x + aside:.0f} {y + 40:.0f} '
        f'{to_x + aside:.0f} {to_y - 40:.0f} {to_x:.0f} {to_y:.0f}"/>'
    )


def _room(name: str, x: float, y: float) -> str:
    return (
        f'<rect class="room" x="{x - _BOX / 2:.0f}" y="{y:.0f}" width="{_BOX}" height="{_HEIGHT}" rx="6"/>'
        f'<text class="name" x="{x:.0f}" y="{y + 19:.0f}">{escape(name)}</text>'
        f'<text class="what" x="{x:.0f}" y="{y + 34:.0f}">{escape(_WHAT.get(name, ""))}</text>'
    )
