"""Rows of a table or texts as samples, made as those of training were."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import torch

from ...datasets.row_file import stream_rows
from ...datasets.row_samples import Encoder
from ...hooks.errors import DataError
from .source import Chunk


class RowSource:
    """The rows of a CSV, TSV, JSON lines or Parquet file or a saved data set; what is no input is not read.

    Args:
        path: May be anybody's.
        make: Gives what makes samples as those of the run were, which counts what it could not take.

    Raises:
        DataError: It cannot be read, holds no rows, or its first one does not fit.
    """

    def __init__(self, path: Path, make: Callable[[], Encoder]) -> None:
        self._path, self._encoder = path, make()
        self.count: int | None = None
        # What is wrong with the whole is wrong with its first row.
        if next(self.chunks(1), None) is None:
            raise DataError(f"{path}: holds no rows")
        self._encoder = make()

    @property
    def notes(self) -> list[str]:
        """What the user should know of how they are read."""
        return [self._encoder.learned, *self._encoder.gaps]

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the rows in order.

        Raises:
            DataError: A row does not fit; the message names its line.
        """
        done = 0
        for rows in stream_rows(self._path, batch_size):
            inputs = self._encoder.inputs(rows, torch.arange(len(rows)))
            yield Chunk(inputs, range(done, done + len(rows)))
            done += len(rows)
