"""What takes the numbers of one run, whoever keeps them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from .follow import Numbers


class Logger(ABC):
    """Takes the numbers of one run. What raises in its context makes the run there one that failed."""

    _ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._ended:
            self.end(is_good=False)

    def end(self, *, is_good: bool) -> None:
        """Write all, and note how the run ended."""
        self._ended = True
        self._end(is_good=is_good)

    @abstractmethod
    def log(self, numbers: Iterable[Numbers]) -> None:
        """Take numbers; steps need not come in order."""

    @abstractmethod
    def where(self) -> str:
        """Return where it is kept, for the user."""

    @abstractmethod
    def _end(self, *, is_good: bool) -> None:
        """Note how the run ended, once."""
