"""Record how many instructions a step and a call take: ``python tests/bench/record_instructions.py``."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_name("instructions.json")
COMMAND = "python tests/bench/record_instructions.py"
#: The least of LAYOUTS counts of the same code differed by half of this, single ones by 6 %.
TOLERANCE = 0.05
#: Where objects lie in memory, for which the lengths of paths count too, decides which attributes share an
#: entry in the interpreter's cache of them, and each that misses it costs instructions, never saves any. So
#: code is counted in several layouts, and the least is what it takes.
LAYOUTS = 5
#: A count is what these make of our code, so a record holds for them only.
_PACKAGES = ("torch", "numpy", "msgspec")
_LONGEST_S = 390.0
_VALGRIND = ("--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes", "--trace-children=no")


def conditions() -> dict[str, str]:
    """Return what must be as it was when the counts were recorded."""
    packages = {name: version(name) for name in _PACKAGES}
    return {
        "machine": platform.machine(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **packages,
    }


def cannot_count() -> str:
    """Say why nothing can be counted here, or return ``""``."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    return "" if platform.machine() == "x86_64" else "callgrind is asked with code for x86-64"


def least(recorded: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return conditions and the least counts of all layouts, or of the first that have no excess."""
    found = count(0)
    for layout in range(1, LAYOUTS):
        if recorded is not None and not excess(found, recorded):
            break
        other = count(layout)
        found = {what: min(number, other[what]) for what, number in found.items()}
    return found


def count(layout: int) -> dict[str, Any]:
    """Return conditions and counts in one layout of memory; takes half a minute."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"PYTHONHASHSEED": str(layout), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            [
                "valgrind",
                *_VALGRIND,
                f"--callgrind-out-file={folder}/callgrind.%p",
                sys.executable,
                str(Path(__file__).with_name("counted.py")),
                folder,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=_LONGEST_S,
            env={**os.environ, **settings},
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {**conditions(), **json.loads(done.stdout)}


def excess(found: dict[str, Any], recorded: dict[str, Any]) -> list[str]:
    """Say of each count that is more than was recorded by how much, and what to do."""
    return [
        f"{what} takes {found[what]:,} instructions, and {count:,} were recorded. Find out what became "
        f"slower (callgrind_annotate); if it is worth that, record it anew: {COMMAND}"
        for what, count in recorded.items()
        if isinstance(count, int) and found[what] > count * (1 + TOLERANCE)
    ]


def main() -> None:
    """Write the record."""
    RECORD.write_text(json.dumps(least(), indent=2) + "\n")
    sys.stdout.write(RECORD.read_text())


if __name__ == "__main__":
    main()
