"""Predictions as CSV: a row for each sample."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from ...hooks.errors import JobError
from ...tracking.metrics_csv import text_cell
from .output import Output
from .predictions import OutputMeaning, Predictions

#: Of one path; the kernel takes no longer one.
_MAX_NAME = 4096
_QUOTE = '"'


class TableOutput(Output):
    """Writes ``index, file, class, probability``, or ``index, file`` and the numbers that are predicted."""

    def __init__(self, file: BinaryIO, meaning: OutputMeaning, *, probabilities: bool) -> None:
        super().__init__(file, meaning, probabilities=probabilities)
        if meaning.is_any or meaning.varies:
            raise JobError(
                "a row of a table holds numbers of which each sample has as many; what this model returns "
                "is written as .jsonl, or as .npz where all are of one size"
            )
        # A class may be called '=1+1'.
        self._names = [_cell(name) for name in (*meaning.names, "")]
        file.write(f"{','.join(('index', 'file', *self._columns()))}\n".encode())

    def write(self, part: Predictions) -> None:
        """Write rows."""
        files = [""] * len(part) if part.files is None else [_cell(file) for file in part.files]
        rows = zip(map(str, part.indices.tolist()), files, *self._cells(part), strict=True)
        self.file.write("".join([f"{row}\n" for row in map(",".join, rows)]).encode())

    def _columns(self) -> Iterator[str]:
        if not self.meaning.is_classes:
            count = math.prod(self.meaning.shape)
            yield from (["value"] if count == 1 else (f"value_{i}" for i in range(count)))
            return
        yield from ("class", "probability")
        if self.probabilities:
            yield from (_cell(f"probability of {name}") for name in self.meaning.names)

    def _cells(self, part: Predictions) -> Iterator[list[str]]:
        """Yield the cells of each column."""
        if not self.meaning.is_classes:
            yield from _numbers(part.outputs.flatten(1).T.tolist(), "%.9g")
            return
        yield [self._names[i] for i in part.classes.tolist()]
        yield from _numbers([part.probabilities.amax(1).tolist()], "%.6g")
        if self.probabilities:
            yield from _numbers(part.probabilities.T.tolist(), "%.6g")


def _cell(text: str) -> str:
    """Return a stranger's text as a cell: on one line, and no formula."""
    cell = text_cell(text, _MAX_NAME)
    # The module csv takes several times as long for rows that are mostly numbers.
    return f'"{cell.replace(_QUOTE, 2 * _QUOTE)}"' if "," in cell or _QUOTE in cell else cell


def _numbers(columns: Iterable[list[float]], form: str) -> Iterator[list[str]]:
    # Six digits of a probability say all that it knows; nine give back a float32 to the bit.
    return ([form % number for number in column] for column in columns)
