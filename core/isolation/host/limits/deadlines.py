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

    Attributes:
        caller: The thread that calls plugins, by its native id.
    """

    def __init__(self) -> None:
        self.caller = threading.get_native_id()
        self._lost_s = 0.0
        self._runnable_s: dict[int | None, float] = {}

    def now(self) -> float:
        """Return what ``time.monotonic`` does, less the time for which the process was stopped."""
        return time.monotonic() - self._lost_s

    def slept(self, asked_s: float, took_s: float, runnable_s: float = 0.0) -> None:
        """Note how long a thread that asked for ``asked_s`` of sleep got; for one thread only.

        Args:
            asked_s: Of sleep.
            took_s: Until it went on.
            runnable_s: What ``runnable_s`` returns: on a busy machine a thread is late as well.
        """
        lost_s = took_s - asked_s - runnable_s
        if lost_s > _STOPPED_S:
            self._lost_s += lost_s

    def runnable_s(self) -> float:
        """Return how long the thread that asks, the main one and the caller were runnable since it last did.

        The others too, as each may hold Python's lock meanwhile. Of a process that is stopped none is.
        """
        threads = {threading.get_native_id(), threading.main_thread().native_id, self.caller}
        before, self._runnable_s = self._runnable_s, {each: _runnable_seconds(each) for each in threads}
        # One that is new counts whole and one that has ended not at all: neither is to look like a stop.
        return sum(max(s - before.get(each, 0.0), 0.0) for each, s in self._runnable_s.items())


def _runnable_seconds(thread: int | None) -> float:
    """Return how long a thread has run, or been ready to and not been let, in all.

    Source: proc_pid_schedstat(5); 0 where the kernel does not tell.
    """
    with contextlib.suppress(OSError):
        told = Path(f"/proc/self/task/{thread}/schedstat").read_text().split()
        return (int(told[0]) + int(told[1])) / 1e9
    return 0.0


def is_ready_by(poll: select.poll, due: float, stop: StopRequest, clock: HostClock) -> bool:
    """Wait until there is something to read, or room to write.

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
        # This process may have been stopped until now.
        if poll.poll(_LAST_LOOK_MS):
            return True
        if clock.now() >= due:
            return False
