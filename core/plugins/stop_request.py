"""A request to stop: whether the user wants a run to end, and how long what is under way may still take."""

from __future__ import annotations

import math
import time

from ..hooks.errors import CutOffError


class StopRequest:
    """The user's wish that a run ends; not there until ``make``.

    One object is shared by all that train and wait in a run. It may be made from any thread and in a
    signal handler: whoever waits looks at it every ``LOOK_S`` seconds.
    """

    #: The longest that anybody may wait before looking again.
    LOOK_S = 0.25

    def __init__(self) -> None:
        self._is_made = False
        self._until = math.inf

    def make(self, within_s: float = math.inf) -> None:
        """Ask the run to end, and what is under way to end ``within_s`` from now; an earlier end stays."""
        self._until = min(self._until, time.monotonic() + within_s)
        self._is_made = True

    def is_made(self) -> bool:
        """Tell whether the run is to end."""
        return self._is_made

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for any more."""
        return self._is_made and time.monotonic() >= self._until

    def shortest(self, seconds: float) -> float:
        """Return how long to wait at once, of ``seconds`` in all: 0 once it is over."""
        return max(min(seconds, self.LOOK_S, self._until - time.monotonic()), 0.0)

    def check(self, what: str) -> None:
        """Go on if there is time left.

        Args:
            what: What is cut off otherwise, as the subject of a sentence.

        Raises:
            CutOffError: There is none.
        """
        if self.is_over:
            raise CutOffError(what)
