"""Owners of what outlives a killed trainer, written into its names."""

from __future__ import annotations

import os
import re
from pathlib import Path

_PROC = Path("/proc")
_PREFIX = "ringfence"
_STALE = re.compile(rf"{_PREFIX}-(?P<pid>\d+)-(?P<started>\d+)-")


def owner_prefix() -> str:
    """Return how names of things begin that outlive this process if it is killed."""
    return f"{_PREFIX}-{os.getpid()}-{_started(os.getpid())}-"


def has_owner(name: str) -> bool:
    """Tell whether ``name`` begins with the ``owner_prefix`` of any process."""
    return _STALE.match(name) is not None


def is_stale(name: str) -> bool:
    """Tell whether ``name`` begins with the ``owner_prefix`` of a process that no longer runs."""
    match = _STALE.match(name)
    return match is not None and _started(int(match["pid"])) != int(match["started"])


def _started(pid: int) -> int:
    """Return when process ``pid`` was started, in clock ticks since boot; -1 when it is gone."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return -1
    # Field 22, counted after the name: the name may hold spaces.
    return int(stat.rpartition(")")[2].split()[19])
