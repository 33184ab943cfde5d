"""Write docs/measurements.md from the results of two runs: ``python bench/publish.py DIR DIR``."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import Goal

_PAGE = Path(__file__).resolve().parent.parent / "docs" / "measurements.md"
_HEAD = """# Measurements

Two separate runs of `make bench` on one machine, one after the other. [performance.md](performance.md) says
what they mean, and why a goal was missed. Written by `python bench/publish.py DIR DIR`.
"""


def _rows(folder: Path) -> list[dict[str, Any]]:
    """Return what each row of a run found, in order."""
    paths = sorted(folder.glob("row-*.json"), key=lambda path: int(path.stem.partition("-")[2]))
    rows = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    quick = [row["row"] for row in rows if row["quick"]]
    if quick or not rows:
        raise SystemExit(f"{folder}: {'quick looks are no figures to keep' if quick else 'no results'}")
    return rows


def _conditions(machine: Mapping[str, Any], seconds: Sequence[float]) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    took = " and ".join(f"{each:.0f} s" for each in seconds)
    return (
        f"{machine['processor']}, {machine['cores']} cores, Linux {machine['kernel'].partition('-')[0]}, "
        f"Python {machine['python']}; {packages}. The runs took {took}.\n"
    )


def _goals(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Return all goals with what each run came to."""
    lines = ["| row | goal | run 1 | run 2 |", "| --- | --- | --- | --- |"]
    for rows in zip(*runs, strict=True):
        tables = [[goal for table in row["tables"] for goal in table["goals"]] for row in rows]
        for goals in zip(*tables, strict=True):
            cells = [_measured(goal) for goal in goals]
            lines.append(f"| {rows[0]['row']} | {goals[0]['text']} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _measured(record: Mapping[str, Any]) -> str:
    goal = Goal(**{name: value for name, value in record.items() if name != "met"})
    return f"{str(goal).rpartition('measured ')[2]}, {'met' if goal.met else '**missed**'}"


def main() -> None:
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs=2, type=Path, metavar="DIR")
    folders = parser.parse_args().folders
    runs = [_rows(folder) for folder in folders]
    parts = [_HEAD, _conditions(runs[0][0]["machine"], [sum(row["seconds"] for row in run) for run in runs])]
    parts += ["## Goals\n", _goals(runs)]
    for number, folder in enumerate(folders, start=1):
        text = (folder / "results.md").read_text(encoding="utf-8")
        # One level down: each run is a part of the page.
        parts += [f"## Run {number}\n", re.sub("^#", "##", text, flags=re.MULTILINE)]
    _PAGE.write_text("\n".join(parts).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
