"""Fill `.types/ringfence` with links, so that type checkers see the package under its import name.

setuptools maps `core/` to `ringfence` through an import hook, which type checkers
do not follow. Run from anywhere: `python tools/link_types.py`.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
#: Folder in the clone to its name inside the package; the entries of `core/` come first.
MOUNTED = {"plugins_builtin": "builtin", "plugin_template": "_template", "docs/rules": "_rules"}


def wanted(root: Path) -> dict[str, Path]:
    """Return name inside `ringfence` to the path in the clone `root` that it links to."""
    links = {entry.name: entry for entry in (root / "core").iterdir() if entry.name != "__pycache__"}
    return links | {name: root / folder for folder, name in MOUNTED.items() if (root / folder).is_dir()}


def link(root: Path = ROOT) -> Path:
    """Make the links, remove those that lead nowhere, and return the folder that holds them."""
    package = root / ".types" / "ringfence"
    package.mkdir(parents=True, exist_ok=True)
    links = wanted(root)
    for stale in package.iterdir():
        if stale.name not in links:
            stale.unlink()
    for name, target in links.items():
        path = package / name
        if not path.is_symlink() or path.readlink() != target:
            path.unlink(missing_ok=True)
            path.symlink_to(target)
    return package


if __name__ == "__main__":
    sys.stdout.write(f"{link()}\n")
