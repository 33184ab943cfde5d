"""The kernel's limits on the memory of one worker, moved by the host while it runs.

A worker may neither raise nor lower them (seccomp refuses); the host lowers the soft
limit by what it gives the worker in result buffers, so that both together stay within
one budget by the kernel's own count, whatever the worker does in the meantime.
"""

from __future__ import annotations

import resource

from ...policy.procfs import held_bytes


class Ceiling:
    """The limits of one worker that has been locked up.

    Args:
        pid: Its process id; the worker must not have been collected.

    Raises:
        ProcessLookupError: It is gone.
        PermissionError: Its limits are another user's to change.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._data, self._data_hard = resource.prlimit(pid, resource.RLIMIT_DATA)
        self._space, self._space_hard = resource.prlimit(pid, resource.RLIMIT_AS)

    def reserve(self, nbytes: int) -> int:
        """Keep ``nbytes`` of its budget for result buffers, all of them together.

        Returns:
            0; or, if it holds so much already that they do not fit, the bytes that it holds. Its
            limit is then what it was.
        """
        before = resource.prlimit(self._pid, resource.RLIMIT_DATA)[0]
        limit = self._data - nbytes
        # First the limit, then the look: what it holds cannot grow past the limit in between.
        self._limit_data(max(limit, 0))
        held = held_bytes(self._pid)
        if held > limit:
            self._limit_data(before)
            return held
        return 0

    def widen(self, nbytes: int) -> None:
        """Let it map ``nbytes`` more of the host's memory, or fewer if negative."""
        if self._space == resource.RLIM_INFINITY:
            return
        self._space += nbytes
        hard = self._space_hard
        limit = self._space if hard == resource.RLIM_INFINITY else min(self._space, hard)
        resource.prlimit(self._pid, resource.RLIMIT_AS, (limit, hard))

    def _limit_data(self, limit: int) -> None:
        resource.prlimit(self._pid, resource.RLIMIT_DATA, (limit, self._data_hard))
