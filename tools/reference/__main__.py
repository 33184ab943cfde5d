"""Write the pages, the schema and the picture that are made from the code.

    python tools/reference               writes docs/reference/*.md, core/job/job.schema.json,
                                         docs/assets/house.svg
    python tools/reference --check       exits with 1 if one of them is stale, and names it
    python tools/reference --root DIR    does either for another clone

Run it after any change to a hook, to the schema of jobs, to what a model, a reader, a loss or a
schedule takes, to the command line, or to what one room imports of another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import cli_page
import hooks_page
import house_picture
import job_page
import job_schema
import python_page

ROOT = Path(__file__).resolve().parents[2]
#: File in the clone to what it is made by.
MADE: dict[str, Callable[[], str]] = {
    "docs/reference/hooks.md": hooks_page.text,
    "docs/reference/job.md": job_page.text,
    "docs/reference/cli.md": cli_page.text,
    "docs/reference/python.md": python_page.text,
    "core/job/job.schema.json": job_schema.text,
    "docs/assets/house.svg": house_picture.text,
}


def stale(root: Path) -> list[str]:
    """Return the files that are not what the code makes."""
    return [
        name
        for name, make in MADE.items()
        if not (root / name).exists() or (root / name).read_text(encoding="utf-8") != make()
    ]


def main() -> int:
    """Write or check the files; return the exit status."""
    parser = argparse.ArgumentParser(
        description="Write the pages and the schema that are made from the code."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if one is stale")
    parser.add_argument("--root", type=Path, default=ROOT, help="the clone")
    given = parser.parse_args()
    if given.check:
        found = stale(given.root)
        sys.stderr.write("".join(f"{name} is stale; run: python tools/reference\n" for name in found))
        return 1 if found else 0
    for name, make in MADE.items():
        (given.root / name).parent.mkdir(parents=True, exist_ok=True)
        (given.root / name).write_text(make(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
