"""Where the folders of a run lie: on a disk if there is one, because a file in memory is memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")
_MOUNTS = Path("/proc/self/mountinfo")


def scratch_parent() -> Path:
    """Return the folder in which a run's folder is made.

    The one for temporary files, unless it lies in memory, as on many distributions, and another
    that is meant for files of one's own lies on a disk.
    """
    usual = Path(tempfile.gettempdir())
    return next((path for path in scratch_parents() if _is_writable(path) and not is_in_memory(path)), usual)


def scratch_parents() -> tuple[Path, ...]:
    """Return all folders in which a run's folder may have been made, the likeliest first."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - raises nothing where there is no home
    return tuple(dict.fromkeys((Path(tempfile.gettempdir()), Path("/var/tmp"), Path(cache))))  # noqa: S108 - a safe name is made in it


def is_in_memory(path: Path | str, mounts: Path = _MOUNTS) -> bool:
    """Tell whether what is written to ``path`` stays in memory.

    Args:
        path: A folder that exists.
        mounts: Where this process's mounts are told.

    Raises:
        OSError: There is no such folder.
    """
    device = Path(path).stat().st_dev
    return _kinds(mounts).get(f"{os.major(device)}:{os.minor(device)}", "") in _IN_MEMORY


def _kinds(mounts: Path) -> dict[str, str]:
    """Return the kind of file system by device; one whose device is told nowhere is taken for a disk."""
    kinds = {}
    for line in mounts.read_text(errors="replace").splitlines():
        before, _, after = line.partition(" - ")
        kinds[before.split()[2]] = after.split()[0]
    return kinds


def _is_writable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
