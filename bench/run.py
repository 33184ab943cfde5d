"""Measure ringfence beside what does the same without isolation.

    python bench/run.py [ROW …] [--quick] [--out DIR]

Each row runs in a process tree of its own, one after the other, and measures both sides in it. Tables go to
standard output and to DIR/results.md, figures to DIR/row-N.json and DIR/row-N.png. The exit status is 1 if a
row failed; a goal that was missed is told, and is no failure: clocks here are noisy.
"""  # fmt: skip

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from harness import Row, machine, say, write

#: Module of ``rows`` by the row's number.
ROWS = {
    1: "step",
    2: "full_job",
    3: "call",
    4: "augmentation",
    5: "optimizer",
    6: "start",
    7: "scaling",
    8: "own_loop",
}
#: A row that takes longer than this hangs.
_LONGEST_S = 300.0
#: What every process is started with. Nobody may reach out for newer versions or tell what is used here,
#: and pools of threads are as large on both sides.
_ENVIRONMENT = {
    "ACCELERATE_DISABLE_RICH": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "NO_ALBUMENTATIONS_UPDATE": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONWARNINGS": "ignore",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


def measure(number: int, out: Path, *, quick: bool) -> None:
    """Measure one row in this process."""
    row: Row = importlib.import_module(f"rows.{ROWS[number]}").ROW
    conditions = machine()
    started = time.monotonic()
    tables = row.measure(quick)
    took_s = time.monotonic() - started
    text = "\n".join([f"## {number}. {row.title}", "", *(table.text() for table in tables)])
    say(text)
    (out / f"row-{number}.md").write_text(text)
    write(
        out,
        f"row-{number}",
        {
            "row": number,
            "title": row.title,
            "quick": quick,
            "seconds": took_s,
            "machine": conditions,
            "tables": [table.record() for table in tables],
        },
    )
    from plots import draw  # noqa: PLC0415 - not before what is measured

    draw(tables, out / f"row-{number}.png")


def _in_a_process(number: int, out: Path, *, quick: bool) -> bool:
    """Measure one row in a process tree of its own; tell whether that came to its end."""
    command = [sys.executable, __file__, str(number), "--here", "--out", str(out), *["--quick"] * quick]
    process = subprocess.Popen(command, env={**os.environ, **_ENVIRONMENT}, process_group=0)
    try:
        return process.wait(_LONGEST_S) == 0
    except subprocess.TimeoutExpired:
        say(f"row {number} was given up after {_LONGEST_S:.0f} s")
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def main() -> int:
    """Measure the rows that are asked for, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("rows", nargs="*", type=int, metavar="ROW", help=f"of {', '.join(map(str, ROWS))}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a look, no figures to keep")
    parser.add_argument("--out", type=Path, default=Path("bench-results"), metavar="DIR")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    for number in asked.rows:
        if number not in ROWS:
            parser.error(f"there is no row {number}")
    asked.out.mkdir(parents=True, exist_ok=True)
    if asked.here:
        measure(asked.rows[0], asked.out, quick=asked.quick)
        return 0
    started = time.monotonic()
    failed = [
        number for number in asked.rows or ROWS if not _in_a_process(number, asked.out, quick=asked.quick)
    ]
    parts = [asked.out / f"row-{number}.md" for number in ROWS]
    (asked.out / "results.md").write_text("\n".join(part.read_text() for part in parts if part.exists()))
    say(f"{time.monotonic() - started:.0f} s; figures and plots are in {asked.out}")
    if failed:
        say(f"rows that failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
