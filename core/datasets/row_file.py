"""Rows with named columns, of CSV, TSV, JSON lines or Parquet files or a saved data set; may be anybody's."""

from __future__ import annotations

import contextlib
import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import Tensor

from ..hooks.errors import DataError, shorten, visible
from ..job.problems import suggest, with_period
from ..plugins.machine_memory import machine_bytes
from .pyarrow_library import import_pyarrow
from .saved_dataset import SUFFIX, SavedDataset, cells_of, has_splits, holds_saved, is_saved, plain_bytes

#: What is between the cells of text files, by the ending of their names.
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = frozenset((".jsonl", ".ndjson"))
_PARQUET = ".parquet"
_WITH_ROWS = frozenset((_PARQUET, SUFFIX))
SUFFIXES = frozenset((*_DELIMITERS, *_JSON_LINES, _PARQUET))
#: Of a line; a longer one is no row of anybody's.
_LINE_BYTES = 1 << 20
_MOST_COLUMNS = 10_000
#: The part of this machine's memory that a file may take: as objects of Python it takes some ten times as
#: much.
_SHARE = 16
_SHOWN = 60
#: That float32 can be.
_LARGEST = 3.4028234663852886e38
#: What stands for no value, in lower case.
_MISSING = frozenset(("", "na", "n/a", "nan", "none", "null"))
_AT_ONCE = 4096


@dataclass(slots=True)
class Rows:
    """Rows of one file or several, by columns.

    Attributes:
        columns: Name to the cells: text, numbers, whatever JSON holds, or None.
        places: File and line (of Parquet and Arrow the row) of each.
    """

    columns: dict[str, list[Any]] = field(default_factory=dict)
    places: list[tuple[Path, int]] = field(default_factory=list)
    _numbers: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.places)

    def where(self, row: int) -> str:
        """Return file and line of a row, for messages."""
        path, number = self.places[row]
        return f"{path}: {'row' if path.suffix.lower() in _WITH_ROWS else 'line'} {number}"

    def column(self, name: str, option: str) -> list[Any]:
        """Return the cells of a column.

        Args:
            name: Its name.
            option: Which names it, for messages.

        Raises:
            DataError: There is none.
        """
        if name not in self.columns:
            raise DataError(
                f"{self.places[0][0]}: has no column '{visible(name)}', which option '{option}' names; "
                f"{with_period(suggest(name, self.columns))}"
            )
        return self.columns[name]

    def numbers(self, name: str) -> Tensor:
        """Return the cells of a column that is there as numbers, (N,) float64.

        What is missing is NaN, what is no finite number that float32 can be infinite.
        """
        if name not in self._numbers:
            self._numbers[name] = _to_numbers(self.columns[name])
        return self._numbers[name]

    def extend(self, others: Rows) -> None:
        """Take the rows of another file, whose columns are the same.

        Raises:
            DataError: One lacks a column of the other.
        """
        if self.places and others.columns.keys() != self.columns.keys():
            lacking = min(self.columns.keys() ^ others.columns.keys())
            first, second = (self, others) if lacking in self.columns else (others, self)
            raise DataError(
                f"{second.places[0][0]}: has no column '{visible(lacking)}', which {first.places[0][0]} has"
            )
        self._numbers.clear()
        for name, cells in others.columns.items():
            self.columns.setdefault(name, []).extend(cells)
        self.places += others.places


def holds_rows(path: Path) -> bool:
    """Tell whether a file is of a kind that holds rows, or a folder a saved data set, or splits of one."""
    return path.suffix.lower() in SUFFIXES or holds_saved(path)


def read_rows(path: Path) -> Rows:
    """Read a whole file, or a saved data set.

    Raises:
        DataError: It is of no such kind, damaged, or too large for this machine; the message names the line.
    """
    rows = Rows()
    for part in stream_rows(path, _AT_ONCE):
        # Of JSON lines one may lack what others have.
        for name in dict.fromkeys([*rows.columns, *part.columns]):
            cells = rows.columns.setdefault(name, [None] * len(rows))
            cells += part.columns.get(name) or [None] * len(part)
        rows.places += part.places
    if not rows.places:
        raise DataError(f"{path}: holds no rows")
    return rows


def stream_rows(path: Path, at_once: int) -> Iterator[Rows]:
    """Yield the rows of a file in order, at most ``at_once`` a part; raises as ``read_rows``."""
    if path.is_dir():
        yield from _read_saved(path, at_once)
        return
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: ends in '{suffix}'; expected {', '.join(sorted(SUFFIXES))}")
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    size, most = path.stat().st_size, machine_bytes() // _SHARE
    if size > most:
        raise DataError(
            f"{path}: has {size:,} bytes, and at most {most:,}, a sixteenth of this machine's memory, are "
            "read"
        )
    read: Callable[[Path, int], Iterator[Rows]] = _read_text
    if suffix == _PARQUET:
        read = _read_parquet
    elif suffix in _JSON_LINES:
        read = _read_json_lines
    try:
        yield from read(path, at_once)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is no text in UTF-8; save it as that") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error


def _lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file, with their ends."""
    with path.open("rb") as file:
        number = 0
        while line := file.readline(_LINE_BYTES + 1):
            number += 1
            if len(line) > _LINE_BYTES:
                raise DataError(f"{path}: line {number}: is longer than {_LINE_BYTES:,} bytes")
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")


def _read_text(path: Path, at_once: int) -> Iterator[Rows]:
    reader = csv.reader(_lines(path), delimiter=_DELIMITERS[path.suffix.lower()])
    names: list[str] = []
    rows = Rows()
    try:
        for cells in reader:
            if not cells:
                continue
            if not names:
                names = _checked_names(cells, path)
                rows = _empty(names)
                continue
            if len(cells) != len(names):
                raise DataError(
                    f"{path}: line {reader.line_num}: has {len(cells)} cells, the first line {len(names)}"
                )
            for name, cell in zip(names, cells, strict=True):
                rows.columns[name].append(cell)
            rows.places.append((path, reader.line_num))
            if len(rows) == at_once:
                yield rows
                rows = _empty(names)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}") from error
    if len(rows):
        yield rows


def _checked_names(cells: Sequence[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = next((name for i, name in enumerate(names) if name in names[:i]), None)
    if twice is not None or len(names) > _MOST_COLUMNS or "" in names:
        raise DataError(
            f"{path}: line 1: holds the names of the columns, each once, at most {_MOST_COLUMNS:,}; "
            + ("one is empty" if twice is None and "" in names else f"there are {len(names):,}")
            + (f", and '{visible(shorten(twice, _SHOWN))}' twice" if twice else "")
        )
    return names


def _empty(names: Sequence[str]) -> Rows:
    return Rows({name: [] for name in names})


def _read_json_lines(path: Path, at_once: int) -> Iterator[Rows]:
    rows = Rows()
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
        except (msgspec.MsgspecError, RecursionError) as error:
            raise DataError(
                f"{path}: line {number}: is no object of JSON: {shorten(str(error), _SHOWN)}"
            ) from error
        if len(found) > _MOST_COLUMNS or len(found.keys() | rows.columns.keys()) > _MOST_COLUMNS:
            raise DataError(f"{path}: line {number}: makes more than {_MOST_COLUMNS:,} columns")
        for name in dict.fromkeys([*rows.columns, *found]):
            rows.columns.setdefault(name, [None] * len(rows)).append(found.get(name))
        rows.places.append((path, number))
        if len(rows) == at_once:
            yield rows
            rows = Rows()
    if len(rows):
        yield rows


def _read_parquet(path: Path, at_once: int) -> Iterator[Rows]:
    pyarrow = import_pyarrow(path)
    from pyarrow import parquet  # noqa: PLC0415 - of the extra

    try:
        with parquet.ParquetFile(path) as file:
            unpacked = sum(
                file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups)
            )
            if unpacked > machine_bytes() // _SHARE:
                raise DataError(
                    f"{path}: claims to unpack to {unpacked:,} bytes, more than a sixteenth of this "
                    "machine's memory"
                )
            names = _checked_names(file.schema_arrow.names, path)
            done = 0
            for batch in file.iter_batches(at_once):
                columns = {name: batch.column(i).to_pylist() for i, name in enumerate(names)}
                places = [(path, done + i + 1) for i in range(batch.num_rows)]
                done += batch.num_rows
                yield Rows(columns, places)
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: cannot be read as Parquet: {shorten(str(error), 200)}") from error


def _read_saved(path: Path, at_once: int) -> Iterator[Rows]:
    if has_splits(path):
        raise DataError(f"{path}: is a data set with splits; name the folder of one, as in {path / 'test'}")
    if not is_saved(path):
        raise DataError(f"{path}: is a folder, and none that save_to_disk of Hugging Face's datasets wrote")
    data, size, most = SavedDataset.opened(path), 0, machine_bytes() // _SHARE
    _checked_names(list(data.features), path)
    for part in data.rows(at_once):
        size += plain_bytes(part)
        if size > most:
            raise DataError(
                f"{path}: has more than {most:,} bytes of numbers and texts, a sixteenth of this "
                "machine's memory"
            )
        yield Rows(cells_of(data, part), [(part.file, part.begin + i) for i in range(part.batch.num_rows)])


def is_missing(cell: Any) -> bool:
    """Tell whether a cell stands for no value."""
    if isinstance(cell, str):
        return cell.strip().lower() in _MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def to_number(cell: Any) -> float | None:
    """Return a cell as a finite number that float32 can be, None where it is none."""
    if isinstance(cell, bool | int | float):
        number = float(cell) if abs(cell) <= _LARGEST else math.inf
    elif isinstance(cell, str):
        try:
            number = float(cell)
        except ValueError:
            return None
    else:
        return None
    return number if abs(number) <= _LARGEST else None


def _to_numbers(cells: list[Any]) -> Tensor:
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        # A column of nothing but numbers, at once.
        return _checked(np.array(cells, dtype=np.float64))
    gaps = [None if is_missing(cell) else cell for cell in cells]
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return _checked(np.array(gaps, dtype=np.float64))
    found = [math.nan if cell is None else to_number(cell) for cell in gaps]
    return _checked(np.array([math.inf if number is None else number for number in found]))


def _checked(numbers: np.ndarray[Any, np.dtype[np.float64]]) -> Tensor:
    if numbers.ndim != 1:
        raise ValueError("cells are lists")
    numbers[np.abs(numbers) > _LARGEST] = math.inf
    return torch.from_numpy(numbers)


def to_text(cell: Any) -> str | None:
    """Return a cell as text, None where it is no text, number or truth value."""
    if isinstance(cell, str):
        return cell
    if isinstance(cell, bool):
        return str(cell).lower()
    if isinstance(cell, int):
        return str(cell)
    return repr(cell) if isinstance(cell, float) else None
