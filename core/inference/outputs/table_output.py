"""Predictions as CSV: a row for each sample."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ...tracking.metrics_csv import text_cell
from ..one_line import one_line
from .output import Output
from .predictions import OutputMeaning, Predictions

#: Of one path; the kernel takes no longer one.
_MAX_NAME = 4096


class TableOutput(Output):
    """Writes ``index, file, class, probability``, or ``index, file`` and the numbers that are predicted."""

    def __init__(self, file: BinaryIO, meaning: OutputMeaning, *, probabilities: bool) -> None:
        super().__init__(file, meaning, probabilities=probabilities)
        # A class may be called '=1+1'.
        self._names = [_cell(name) for name in (*meaning.names, "")]
        self._buffer = io.StringIO()
        self._writer = csv.writer(self._buffer, lineterminator="\n")
        self._writer.writerow(("index", "file", *self._columns()))

    def write(self, part: Predictions) -> None:
        """Write rows."""
        files = [""] * len(part) if part.files is None else [_cell(file) for file in part.files]
        self._writer.writerows(zip(part.indices.tolist(), files, *self._cells(part), strict=True))
        self._flush()

    def finish(self) -> None:
        """Write the header, where there were no rows."""
        self._flush()

    def _columns(self) -> Iterator[str]:
        if not self.meaning.is_classes:
            yield from columns_of(self.meaning)
            return
        yield from ("class", "probability")
        if self.probabilities:
            yield from (f"probability of {one_line(name)}" for name in self.meaning.names)

    def _cells(self, part: Predictions) -> Iterator[Iterable[object]]:
        """Yield the cells of each column."""
        if not self.meaning.is_classes:
            yield from _numbers(part.outputs.flatten(1).T.tolist(), "%.9g")
            return
        yield [self._names[i] for i in part.classes.tolist()]
        yield from _numbers([part.probabilities.amax(1).tolist()], "%.6g")
        if self.probabilities:
            yield from _numbers(part.probabilities.T.tolist(), "%.6g")

    def _flush(self) -> None:
        self.file.write(self._buffer.getvalue().encode())
        self._buffer.seek(0)
        self._buffer.truncate()


def _cell(text: str) -> str:
    """Return a stranger's text as a cell: on one line, and no formula."""
    return text_cell(one_line(text), _MAX_NAME)


def columns_of(meaning: OutputMeaning) -> list[str]:
    """Return the names of the columns of predicted numbers."""
    count = 1
    for side in meaning.shape:
        count *= side
    return ["value"] if count == 1 else [f"value_{i}" for i in range(count)]


def _numbers(columns: Iterable[list[float]], form: str) -> Iterator[list[str]]:
    # Six digits of a probability say all that it knows; nine give back a float32 to the bit.
    return ([form % number for number in column] for column in columns)
