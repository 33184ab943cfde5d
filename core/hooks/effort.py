"""Processor time that may be spent on the text of strangers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: For all plugins of one distribution; for one of ten files it takes a tenth of a second.
MAX_SECONDS = 5.0
#: Steps between two looks at the clock, which costs more than most steps.
_STEPS = 16


class TooMuchEffortError(ValueError):
    """More time was spent than there was; the message is a clause."""


class Effort:
    """What is left of the time for the plugins of one distribution; counts in the thread that reads them.

    No rule on a text bounds what it costs to follow every name in it, so whoever follows one takes a step.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._seconds = MAX_SECONDS if seconds is None else seconds
        self._left = self._seconds
        self._until = float("inf")
        self._steps = 0

    @contextmanager
    def spent(self) -> Iterator[None]:
        """Count what is done meanwhile."""
        self._until = time.thread_time() + self._left
        try:
            yield
        finally:
            self._left = self._until - time.thread_time()

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
            raise TooMuchEffortError(
                f"to follow the names in it takes more than {self._seconds:g} s of processor time"
            )
