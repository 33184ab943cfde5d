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
#: Counts of the same code differ by a tenth of this.
TOLERANCE = 0.03
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


def count() -> dict[str, Any]:
    """Return conditions and counts; takes most of a minute."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
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
    RECORD.write_text(json.dumps(count(), indent=2) + "\n")
    sys.stdout.write(RECORD.read_text())


if __name__ == "__main__":
    main()
