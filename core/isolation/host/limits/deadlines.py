"""Deadlines: wait for a worker no longer than it may take, nor than the user lets a run end."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from pathlib import Path

from ....plugins.stop_request import StopRequest

#: A thread that wakes up later than asked by more than this, and was not kept waiting, was stopped.
_STOPPED_S = 1.0
#: Time for the watchdog to note that, before a deadline that has passed meanwhile counts.
_LAST_LOOK_MS = 100


class HostClock:
    """Seconds in which this process could run: while it was stopped, no deadline runs.

    A process is stopped by Ctrl-Z, with its whole container, or with the machine. What it waits
    for may have been stopped as well.
    """

    def __init__(self) -> None:
        self._lost_s = 0.0

    def now(self) -> float:
        """Return what ``time.monotonic`` does, less the time for which the process was stopped."""
        return time.monotonic() - self._lost_s

    def slept(self, asked_s: float, took_s: float, runnable_s: float = 0.0) -> None:
        """Note how long a thread that asked for ``asked_s`` of sleep got; for one thread only.

        Args:
            asked_s: Of sleep.
            took_s: Until it went on.
            runnable_s: By how much ``runnable_seconds`` grew: on a busy machine a thread is late as well.
        """
        lost_s = took_s - asked_s - runnable_s
        if lost_s > _STOPPED_S:
            self._lost_s += lost_s


def runnable_seconds() -> float:
    """Return how long this thread and the main one have run, or been ready to and not been let, in all.

    The main one too, as it may hold Python's lock meanwhile. Of a process that is stopped neither is ready.
    Source: proc_pid_schedstat(5); 0 where the kernel does not tell.
    """
    nanoseconds = 0
    for thread in {threading.get_native_id(), threading.main_thread().native_id}:
        with contextlib.suppress(OSError):
            told = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
            nanoseconds += int(told[0]) + int(told[1])
    return nanoseconds / 1e9


def is_ready_by(poll: select.poll, due: float, stop: StopRequest, clock: HostClock) -> bool:
    """Wait until there is something to read.

    Args:
        poll: What to wait for.
        due: Until when, by ``clock``.
        stop: Ends it sooner.
        clock: The host's.

    Returns:
        Whether there is; False once ``due`` has passed or ``stop`` is.
    """
    while True:
        left = due - clock.now()
        # Rounded up: a timeout of under a millisecond must not become a busy loop.
        if poll.poll(int(stop.shortest(max(left, 0.0)) * 1000) + 1):
            return True
        if stop.is_over:
            return False
        if clock.now() < due:
            continue
        if clock.now() < due + _STOPPED_S:
            return False
        # Nobody has looked for long.
        if poll.poll(_LAST_LOOK_MS):
            return True
        if clock.now() >= due:
            return False
