"""A source of samples: what every kind of data is to whoever predicts."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ...hooks.trees import Tree


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some samples, in order.

    Attributes:
        inputs: (B, …) in the form of the model, B at least 1; a tree of such where it takes one.
        indices: Place of each among all samples of the source, from 0; what was passed over leaves a gap.
        files: Name of each one's file, fit for a terminal; None where samples have no files.
    """

    inputs: Tree
    indices: Sequence[int]
    files: Sequence[str] | None = None


class Source(Protocol):
    """Samples that are read as they are asked for."""

    @property
    def count(self) -> int | None:
        """How many there are; None where only reading will tell."""

    @property
    def notes(self) -> list[str]:
        """What the user should know of how they are read, as sentences; complete once all were read."""

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield all samples in chunks of at most ``batch_size``.

        Raises:
            DataError: One cannot be read, or does not fit the model.
        """
