"""Output that a plugin prints: its first lines are shown, and the last before it fails; all are counted."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..hooks.errors import visible

#: Lines of one plugin that are shown, in one run, all its workers together.
MAX_LINES = 20
#: Characters of all of them.
MAX_CHARACTERS = 4000
#: Lines that are shown of those before a fault, of what was only counted until then.
MAX_LAST = 10
_MAX_LINE = 500


class Output:
    """The first lines of one plugin, and how many there were; any thread may add to them.

    Attributes:
        count: Lines printed so far.
        shown: The first of them, without control characters, within both bounds.
        is_cut: There are lines that are not shown.
        last: What was printed last before a fault, of lines that were not shown.
    """

    def __init__(self) -> None:
        self.count = 0
        self.shown: list[str] = []
        self.is_cut = False
        self.last: list[str] = []
        self._left = MAX_CHARACTERS
        self._lock = threading.Lock()

    def add(self, lines: Sequence[str], count: int) -> None:
        """Take the next ``count`` lines.

        Args:
            lines: The first of them; at least ``MAX_LINES`` and one, if there are so many.
            count: How many there are.
        """
        with self._lock:
            for line in () if self.is_cut else (each[:_MAX_LINE] for each in lines):
                self._left -= len(line)
                self.is_cut = len(self.shown) == MAX_LINES or self._left < 0
                if self.is_cut:
                    break
                self.shown.append(visible(line))
            # Last: who sees that there are more finds them.
            self.count += count

    def note_last(self, lines: Sequence[str]) -> None:
        """Take the end of what a worker has printed that has failed.

        Args:
            lines: Its last ones, without control characters.
        """
        with self._lock:
            unseen = min(self.count - len(self.shown), MAX_LAST)
            self.last = list(lines[-unseen:]) if unseen > 0 else []
