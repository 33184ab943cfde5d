"""The switch interval of Python: how soon a thread gets its turn while others compute.

A thread of Python asks for its turn and gets it 5 ms later if another is busy, and each
system call gives the turn away. For the watchdog that adds up to tens of milliseconds a look,
in which a plugin can take a hundred MiB.
"""

from __future__ import annotations

import sys
import threading

_SWITCH_INTERVAL_S = 0.0002


class ShortSwitchInterval:
    """Shortens the turns of this process's threads from ``take`` to ``give_back``, however many hold it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._before = _SWITCH_INTERVAL_S

    def take(self) -> None:
        """Shorten them; those that are shorter already stay so."""
        with self._lock:
            if self._holders == 0:
                self._before = sys.getswitchinterval()
                sys.setswitchinterval(min(self._before, _SWITCH_INTERVAL_S))
            self._holders += 1

    def give_back(self) -> None:
        """Let them be as they were, once all have given back."""
        with self._lock:
            self._holders -= 1
            if self._holders == 0:
                sys.setswitchinterval(self._before)


short_turns = ShortSwitchInterval()
