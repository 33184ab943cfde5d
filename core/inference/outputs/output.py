"""What every kind of file of predictions is to whoever predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import BinaryIO

from .predictions import OutputMeaning, Predictions


class Output(ABC):
    """Writes predictions as they come.

    Args:
        file: Where to.
        meaning: What outputs stand for.
        probabilities: Write those of all classes.
    """

    def __init__(self, file: BinaryIO, meaning: OutputMeaning, *, probabilities: bool) -> None:
        self.file, self.meaning = file, meaning
        self.probabilities = probabilities and meaning.is_classes

    @abstractmethod
    def write(self, part: Predictions) -> None:
        """Take some more, in order."""

    def finish(self) -> None:  # noqa: B027 - most have written all by then
        """Write what could not be written before all were there."""

    def close(self) -> None:  # noqa: B027 - most need nothing
        """Let go of what was needed meanwhile, however it ended."""
