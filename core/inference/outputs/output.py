"""What every kind of file of predictions is to whoever predicts."""

from __future__ import annotations

from typing import BinaryIO

from .predictions import OutputMeaning, Predictions


class Output:
    """Writes predictions as they come.

    Args:
        file: Where to.
        meaning: What outputs stand for.
        probabilities: Write those of all classes.
    """

    def __init__(self, file: BinaryIO, meaning: OutputMeaning, *, probabilities: bool) -> None:
        self.file, self.meaning = file, meaning
        self.probabilities = probabilities and meaning.is_classes

    def write(self, part: Predictions) -> None:
        """Take some more, in order."""
        raise NotImplementedError

    def finish(self) -> None:
        """Write what could not be written before all were there."""

    def close(self) -> None:
        """Let go of what was needed meanwhile, however it ended."""
