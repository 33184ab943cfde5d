"""Memory budgets of plugins: shares of the memory that is there.

Total is what this process could ever get: physical memory, or the least limit of
a control group above it. A budget is a share of that, never more than 15 %.
"""

from __future__ import annotations

import math
from pathlib import Path

from ....hooks.errors import PluginLoadError
from ....hooks.permissions import MAX_MEMORY_FRACTION
from ....plugins.machine_memory import machine_bytes
from ...policy.procfs import _PROC
from . import cgroup

#: Kernels write "no limit" as the largest multiple of a page; nothing real comes near 2**60 bytes.
NO_LIMIT_BYTES = 1 << 60


class BudgetTooSmallError(PluginLoadError):
    """A plugin's budget is less than what a worker is forked with and needs to start.

    Attributes:
        limit_bytes: What each of its workers may use.
        least_bytes: What each of them needs.
    """

    def __init__(self, cause: str, *, plugin: str, limit_bytes: int, least_bytes: int) -> None:
        super().__init__(cause, plugin=plugin)
        self.limit_bytes = limit_bytes
        self.least_bytes = least_bytes


def total_bytes(proc: Path = _PROC) -> int:
    """Return the memory that is ours to share out, in bytes.

    The least of physical memory and of every limit, of cgroup v1 or v2, set on our
    control group or one above it. Read anew on each call: limits change at run time.

    Args:
        proc: Where the proc file system tells our groups and where they are mounted.

    Raises:
        OSError, ValueError: The machine does not tell its physical memory.
    """
    limits = [limit for group in cgroup.memory_groups(proc) for limit in _limits(group)]
    return min([machine_bytes(), *limits])


def budget_bytes(fraction: float) -> int:
    """Return the budget of one plugin, in bytes: the floor of ``fraction`` of the total.

    Args:
        fraction: Share of ``total_bytes()``, above 0 and at most ``MAX_MEMORY_FRACTION``.

    Raises:
        ValueError: ``fraction`` is out of range.
    """
    if not 0 < fraction <= MAX_MEMORY_FRACTION:
        raise ValueError(
            f"memory_fraction is {fraction}; it must be above 0 and at most {MAX_MEMORY_FRACTION}"
        )
    return math.floor(fraction * total_bytes())


def _limits(group: Path) -> list[int]:
    values = (cgroup.read_limit(group / name) for name in ("memory.max", "memory.limit_in_bytes"))
    return [value for value in values if value is not None and value < NO_LIMIT_BYTES]
