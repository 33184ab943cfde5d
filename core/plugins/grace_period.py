"""How long what is under way may still take, once the user wants a run to end."""

from __future__ import annotations

import math
import time

from ..hooks.errors import CutOffError


class GracePeriod:
    """The time that is left to calls of plugins; without end until ``begin``.

    One object is shared by all that wait in a run. It may be begun from any thread and in a
    signal handler: whoever waits looks at it every ``LOOK_S`` seconds.
    """

    #: The longest that anybody may wait before looking again.
    LOOK_S = 0.25

    def __init__(self) -> None:
        self._until = math.inf

    def begin(self, seconds: float) -> None:
        """Let it end in ``seconds``; one that ends earlier already is left as it is."""
        self._until = min(self._until, time.monotonic() + seconds)

    @property
    def has_begun(self) -> bool:
        """Whether the run is to end."""
        return self._until < math.inf

    @property
    def is_over(self) -> bool:
        """Whether nothing is waited for any more."""
        return time.monotonic() >= self._until

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
