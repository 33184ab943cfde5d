"""Limit the processor time that is spent on the text of strangers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: For one plugin; one of ten files takes a tenth of a second.
MAX_SECONDS = 5.0
#: For all plugins of one distribution, which may be a hundred that share large files.
MAX_SECONDS_TOGETHER = 60.0
#: Steps between two looks at the clock, which costs more than most steps.
_STEPS = 16


class TooMuchEffortError(ValueError):
    """More time was spent than there was; the message is a clause."""


class Effort:
    """The time for the plugins of one distribution; counts in the thread that reads them.

    No rule on a text bounds what it costs to follow every name in it, so whoever follows one takes a step.
    """

    def __init__(self) -> None:
        self._left = MAX_SECONDS_TOGETHER
        self._given = self._until = float("inf")
        self._steps = 0

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Give one plugin its time, and count what it takes."""
        self._given = min(MAX_SECONDS, self._left)
        began = time.thread_time()
        self._until = began + self._given
        try:
            yield
        finally:
            self._left = max(self._left - (time.thread_time() - began), 0.0)

    def step(self) -> None:
        """Look at the clock now and then; to be called where the length of a text decides how often.

        Raises:
            TooMuchEffortError: No time is left.
        """
        self._steps += 1
        if self._steps % _STEPS == 0:
            self.look()

    def look(self) -> None:
        """Look at the clock; to be called before what takes as long as the text.

        Raises:
            TooMuchEffortError: No time is left.
        """
        if time.thread_time() > self._until:
            alone = f"in it takes more than {MAX_SECONDS:g} s"
            together = f"in all plugins of its distribution takes more than {MAX_SECONDS_TOGETHER:g} s"
            which = together if self._given < MAX_SECONDS else alone
            raise TooMuchEffortError(f"to follow the names {which} of processor time")
