"""Look for a reply again and again for some microseconds before the kernel puts this process to sleep.

To be woken takes longer than a small call does. It costs nobody anything where a core has nothing else to do;
where that is not known, or spinning has not paid for the hook, nobody spins.
"""

from __future__ import annotations

import os
import select
import time

#: Waking an idle core for the worker takes half of it.
LONGEST_S = 100e-6
#: The most calls in a row that are not spun for after some that it was in vain for.
MOST_SKIPPED = 255


class Spin:
    """Spins for the replies to one hook.

    The reply is the same whether it was spun for or not.
    """

    def __init__(self) -> None:
        self._cores = len(os.sched_getaffinity(0))
        self._in_vain = 0
        self._skip = 0

    def wait(self, poll: select.poll) -> None:
        """Return once there is something to read, and soon in any case; whoever calls waits on by itself."""
        if self._skip:
            self._skip -= 1
        elif self._cores >= runnable() and _is_soon_ready(poll):
            self._in_vain = 0
        else:
            # Twice as many each time: where it does not pay, it costs less and less.
            self._skip = self._in_vain = min(2 * self._in_vain + 1, MOST_SKIPPED)


def runnable() -> float:
    """Return how many threads of this machine run or want to, this one and the worker's among them."""
    try:
        fd = os.open("/proc/loadavg", os.O_RDONLY | os.O_CLOEXEC)
        try:
            fields = os.read(fd, 128).split()
        finally:
            os.close(fd)
        return int(fields[3].partition(b"/")[0])
    except (OSError, IndexError, ValueError):
        return float("inf")  # what cannot be told is not spun for


def _is_soon_ready(poll: select.poll) -> bool:
    until = time.perf_counter() + LONGEST_S
    while not poll.poll(0):
        if time.perf_counter() >= until:
            return False
        os.sched_yield()  # it may be this very core that the worker waits for
    return True
