"""The place for scratch folders: on a disk if there is one, because a file in memory is memory."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from ...policy.procfs import mounts

_IN_MEMORY = ("tmpfs", "ramfs", "devtmpfs", "hugetlbfs")


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


def is_in_memory(path: Path | str) -> bool:
    """Tell whether what is written to a folder stays in memory; one of a device unknown is taken for a disk.

    Raises:
        OSError: There is no such folder.
    """
    number = Path(path).stat().st_dev
    device = f"{os.major(number)}:{os.minor(number)}"
    return any(mount.kind in _IN_MEMORY for mount in mounts() if mount.device == device)


def _is_writable(path: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
