"""Processor time: what a worker may take, what it takes, and what becomes of one that takes more.

A plugin that keeps to what its job allows pays nothing for this. One that does not goes
last for good: its threads then get only the processor time that nobody else wants. Two schedulers' ideas
of a share have to be met for that. Where the kernel weighs threads one by one, ``SCHED_IDLE`` gives
each a weight of 3, where any other has 1024. Where it weighs sessions first (autogroup, on desktops and most
distributions), the worker's session gets a weight of 15. A plugin's control group, where it has
one of its own with the processor in it, is set to go last too.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

#: Processor time beyond what calls in hand allow, before a plugin goes last.
SLACK_S = 0.5
#: Part of a core that a worker may use while no call is in hand, for threads that tidy up.
BACKGROUND = 0.2

_PROC = Path("/proc")
_LOWEST_NICE = 19
#: Looks at a worker's threads in a row, until one shows none that is not last.
_PASSES = 5
_CLOCK_OF_A_PROCESS = 2


class CallClock:
    """The clock of a worker's call in hand, read by another thread than the one that calls."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        # One tuple, replaced as a whole: a reader never sees half of a change.
        self._state: tuple[float, float | None] = (0.0, None)

    def begin(self) -> None:
        """Note that it has a call in hand, if it had none."""
        total, since = self._state
        if since is None:
            self._state = (total, time.monotonic())

    def end(self) -> None:
        """Note that it has none any more."""
        total, since = self._state
        if since is not None:
            self._state = (total + time.monotonic() - since, None)

    def seconds(self, now: float) -> float:
        """Return how long it has had one, in all, at ``time.monotonic()`` = ``now``."""
        total, since = self._state
        return total if since is None else total + max(now - since, 0.0)


@dataclass(slots=True)
class Meter:
    """The meter of a worker's processor time beyond what it was allowed.

    Debt is paid back by time in which it could have used more and did not, and never turns into
    credit: a worker that waits for a minute may not take the minute later.

    Attributes:
        threads: Cores that it may keep busy while a call is in hand.
        debt_s: Processor time taken beyond that, above zero once it is behind.
        used_s: Processor time taken in all.
        in_hand_s: Time with a call in hand in all.
    """

    threads: int
    debt_s: float = 0.0
    used_s: float = 0.0
    in_hand_s: float = 0.0
    _looked_at: float = 0.0

    def look(self, pid: int, calls: CallClock) -> bool:
        """Bring the books up to now; tell whether it owes more than the slack.

        Args:
            pid: The worker's; one that is gone takes nothing.
            calls: Its clock.
        """
        now = time.monotonic()
        in_hand = calls.seconds(now)
        used = processor_seconds(pid)
        if used is None:
            return False
        elapsed = now - self._looked_at if self._looked_at else 0.0
        allowed = self.threads * (in_hand - self.in_hand_s) + BACKGROUND * elapsed
        self.debt_s = max(self.debt_s + (used - self.used_s) - allowed, 0.0)
        self.used_s, self.in_hand_s, self._looked_at = used, in_hand, now
        return self.debt_s > SLACK_S


def processor_seconds(pid: int) -> float | None:
    """Return the processor time of all threads that process ``pid`` has or had; None when it is gone.

    Source: the kernel numbers the clocks of processes so (clock_getcpuclockid(3)); costs a microsecond
    and asks for no permission, where ``/proc/pid/stat`` counts in hundredths of a second.
    """
    try:
        return time.clock_gettime(~pid << 3 | _CLOCK_OF_A_PROCESS)
    except OSError:
        return None


def put_last(pid: int) -> bool:
    """Let process ``pid`` have only the processor time that nobody else wants.

    Called again as long as it lives: a thread that was started meanwhile by one not yet
    reached is not last. Threads of those that are last start so.

    Returns:
        Whether all its threads are last; False if it starts them faster than they can be reached.

    Raises:
        PermissionError: It belongs to another user.
    """
    put_session_last(pid)
    return any(_put_threads_last(pid) for _ in range(_PASSES))


def _put_threads_last(pid: int) -> bool:
    """Reach each thread once; tell whether all were last already."""
    try:
        threads = os.listdir(_PROC / str(pid) / "task")  # noqa: PTH208 - names are all that is wanted
    except (FileNotFoundError, ProcessLookupError):
        return True
    were = True
    for thread in threads:
        try:
            if os.sched_getscheduler(int(thread)) != os.SCHED_IDLE:
                were = False
                os.sched_setscheduler(int(thread), os.SCHED_IDLE, os.sched_param(0))
        except ProcessLookupError:
            were = False  # it may have left one behind
    return were


def put_session_last(pid: int) -> bool:
    """Weigh the worker's session least, where the kernel weighs sessions; tell whether that is done.

    Never our own, which is all that was started from the user's terminal: it would stay last after the run.
    """
    path = _PROC / str(pid) / "autogroup"
    try:
        session, _, weight = path.read_text().partition(" ")
        if session == (_PROC / "self" / "autogroup").read_text().partition(" ")[0]:
            return False
        if weight.strip() != f"nice {_LOWEST_NICE}":
            path.write_text(str(_LOWEST_NICE))
    except (FileNotFoundError, ProcessLookupError, BlockingIOError):
        # No such kernel, no such process, or asked too soon after another: then at the next look.
        return False
    return True
