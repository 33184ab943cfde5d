"""Samples in a table of text: one a line, numbers between commas."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from ...hooks.errors import DataError, visible
from .sample_form import SampleForm
from .source import Chunk

#: Between numbers, by the ending of the file's name.
DELIMITERS = {".csv": ",", ".tsv": "\t"}
_MARK = "\ufeff"
#: Of one number with all its digits, a comma, and blanks.
_NUMBER_BYTES = 64
_SHOWN = 60


class TableSource:
    """The rows of a file of numbers.

    The first line may have names in place of numbers. Empty lines are passed over.

    Args:
        path: May be anybody's.
        form: What the model takes; a row has as many numbers as a sample.

    Raises:
        DataError: It cannot be read, or its first row does not fit the model.
    """

    def __init__(self, path: Path, form: SampleForm) -> None:
        self._path, self._form = path, form
        self._delimiter = DELIMITERS[path.suffix.lower()]
        self._numbers = math.prod(form.shape)
        self._arrange = form.arranging((self._numbers,), str(path))
        self.count: int | None = None
        self.notes: list[str] = []
        # What is wrong with the whole is wrong with its first row.
        first = next(self._rows(), None)
        if first is None:
            raise DataError(f"{path}: holds no row of numbers; the model takes samples of {form}")
        self._parse([first])

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the rows in order.

        Raises:
            DataError: A row does not fit the model; the message names its line.
        """
        rows, done = self._rows(), 0
        while part := list(itertools.islice(rows, batch_size)):
            values = torch.from_numpy(self._parse(part))
            inputs = self._form.convert(self._arrange(values), done, str(self._path))
            yield Chunk(inputs, range(done, done + len(part)))
            done += len(part)

    def _rows(self) -> Iterator[tuple[int, str]]:
        """Yield number and text of each line with numbers."""
        most = max(self._numbers, 1024) * _NUMBER_BYTES
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(_lines(file, most, self._path), 1):
                    text = line.decode().strip()
                    text = text.removeprefix(_MARK) if number == 1 else text
                    if text and not (number == 1 and self._is_header(text)):
                        yield number, text
        except UnicodeDecodeError as error:
            raise DataError(f"{self._path}: is no text in UTF-8; save it as that") from error
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from error

    def _is_header(self, text: str) -> bool:
        """Tell whether no cell of a line is a number."""
        return not any(_is_number(cell) for cell in self._cells(text))

    def _cells(self, text: str) -> list[str]:
        return next(csv.reader([text], delimiter=self._delimiter))

    def _parse(self, rows: list[tuple[int, str]]) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Return the numbers of rows, (B, F) float64."""
        texts = [text for _, text in rows]
        try:
            values = np.loadtxt(texts, delimiter=self._delimiter, ndmin=2, comments=None, quotechar='"')
        except ValueError as error:
            raise self._fault(rows) or DataError(f"{self._path}: {error}") from error
        if values.shape != (len(rows), self._numbers):
            raise self._fault(rows) or DataError(f"{self._path}: has rows of {values.shape[1]} numbers")
        return values

    def _fault(self, rows: list[tuple[int, str]]) -> DataError | None:
        """Return what is wrong with the first row that is."""
        for number, text in rows:
            cells = self._cells(text)
            wrong = next((cell for cell in cells if not _is_number(cell)), None)
            if wrong is not None:
                return DataError(
                    f"{self._path}: line {number}: '{visible(wrong[:_SHOWN])}' is no number; only the first "
                    "line may have names"
                )
            if len(cells) != self._numbers:
                return DataError(
                    f"{self._path}: line {number}: holds {len(cells):,} numbers; the model needs "
                    f"{self._numbers:,} for {self._form}. Leave out what is no input, such as targets"
                )
        return None


def _lines(file: BinaryIO, most: int, path: Path) -> Iterator[bytes]:
    """Yield the lines of a file, none of which may be longer than numbers can be."""
    number = 0
    while line := file.readline(most + 1):
        number += 1
        if len(line) > most:
            raise DataError(
                f"{path}: line {number}: is longer than {most:,} bytes; expected one sample a line"
            )
        yield line


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
