"""Read tables: columns of numbers and of categories, and one to predict."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from pydantic import Field
from torch import Tensor

from ..engine.data import Dataset
from ..engine.preprocessing import damaged, read_state
from ..hooks.errors import DataError, shorten, visible
from ..hooks.trees import Tree
from ..plugins.number_words import counted
from .arrays import Task
from .classes import are_too_many
from .convert import to_float32
from .preparation import Fraction, Limit, Parts, SplitSeed
from .row_file import Rows, is_missing, to_text
from .row_parts import read_row_parts
from .target_column import TargetColumn, find_target

#: What inputs are called that hold both.
CATEGORIES, NUMBERS = "categories", "numbers"
#: Number of whatever is missing, or was not seen in training.
_UNKNOWN = 0
_SHOWN = 60
_LISTED = 5
Columns = tuple[Annotated[str, Field(min_length=1, max_length=1000)], ...]
_Name = Annotated[str, msgspec.Meta(max_length=1000)]


class NumberColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of numbers: what is taken off them, and what they are divided by then; > 0."""

    name: _Name
    mean: float
    std: float


class CategoryColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column of categories: its values, of which the first has number 1."""

    name: _Name
    values: tuple[str, ...]


class TableState(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of a table to make samples of its rows.

    Attributes:
        numbers: Columns, in order.
        categories: Likewise.
        target: The column to predict.
    """

    numbers: Annotated[tuple[NumberColumn, ...], msgspec.Meta(max_length=10_000)]
    categories: Annotated[tuple[CategoryColumn, ...], msgspec.Meta(max_length=10_000)]
    target: TargetColumn


def table(
    *,
    path: Path,
    target: str,
    numbers: Columns | None = None,
    categories: Columns | None = None,
    ignore: Columns = (),
    standardize: bool = True,
    task: Task = "auto",
    validation_path: Path | None = None,
    test_path: Path | None = None,
    test_fraction: Fraction = 0.2,
    split_seed: SplitSeed = 0,
    limit: Limit = None,
) -> Parts:
    """Read a CSV, TSV, JSON lines or Parquet file with a row a sample, or a folder of one for each part.

    Inputs are ``numbers``, (F,) float32, and ``categories``, (C,) int64, where 0 is whatever is missing or
    was not seen in training; one tensor, where there are only numbers.

    Args:
        path: The file, or a folder with ``train.csv`` and ``val.csv`` or ``test.csv``.
        target: Column to predict.
        numbers: Columns of numbers; by default those that hold nothing else.
        categories: Columns of categories; by default all others.
        ignore: Columns that are not read.
        standardize: Bring each column of numbers to mean 0 and standard deviation 1, by the rows that are
            trained on; what is missing becomes their mean.
        task: ``auto`` is what the job's loss is for; without a loss, fractions are numbers, all else classes.
        validation_path: File to judge by.
        test_path: File to test on at the end.
        test_fraction: Share of the test samples, if there are no parts.
        split_seed: Which samples these are.
        limit: At most so many samples of each part.

    Raises:
        DataError: A file, column or cell is missing, or does not fit.
    """
    found = read_row_parts(path, validation_path, test_path)
    rows, train = found.rows, found.ranges["train"]
    column = find_target(rows, target, task, train)
    kinds = _kinds(rows, target, numbers, categories, ignore, train)
    learner = TableLearner(rows, column, kinds, standardize=standardize)
    return found.for_learner(
        learner, column, source=path, test_fraction=test_fraction, split_seed=split_seed, limit=limit
    )


def _kinds(
    rows: Rows,
    target: str,
    numbers: Columns | None,
    categories: Columns | None,
    ignore: Columns,
    train: range,
) -> tuple[list[str], list[str]]:
    """Return which columns are numbers, and which categories."""
    for option, names in (("numbers", numbers), ("categories", categories), ("ignore", ignore)):
        for name in names or ():
            rows.column(name, option)
            if name == target:
                raise DataError(
                    f"{rows.places[0][0]}: column '{name}' is the target, and in option '{option}'"
                )
    named = [*(numbers or ()), *(categories or ()), *ignore]
    twice = next((name for i, name in enumerate(named) if name in named[:i]), None)
    if twice is not None:
        raise DataError(f"{rows.places[0][0]}: column '{twice}' is named twice by the options")
    left = [name for name in rows.columns if name not in named and name != target]
    are_numbers = {name for name in left if _is_numeric(rows, name, train)}
    # Whoever names the columns of one kind leaves the rest to the other; of both, nothing is left.
    as_numbers = list(numbers) if numbers is not None else [name for name in left if name in are_numbers]
    taken = {*as_numbers} if categories is None or numbers is None else {*left}
    as_categories = (
        list(categories) if categories is not None else [name for name in left if name not in taken]
    )
    if not as_numbers and not as_categories:
        raise DataError(f"{rows.places[0][0]}: has no column besides the target '{target}'")
    if categories is None:
        for name in as_categories:
            _check_categories(rows, name, train)
    return as_numbers, as_categories


def _is_numeric(rows: Rows, name: str, train: range) -> bool:
    numbers = rows.numbers(name)[train.start : train.stop]
    is_bool = any(type(cell) is bool for cell in rows.columns[name])
    return not is_bool and not numbers.isinf().any() and not numbers.isnan().all()


def _check_categories(rows: Rows, name: str, train: range) -> None:
    """Check that a column that nobody has named is not a name or a text of each row."""
    different = {to_text(rows.columns[name][i]) for i in train}
    if are_too_many(len(different), len(train)):
        raise DataError(
            f"{rows.places[0][0]}: column '{name}' has {len(different):,} different values in "
            f"{len(train):,} rows; if it tells nothing, write ignore: ['{name}']; if they are categories, "
            "name it in 'categories'"
        )


class TableLearner:
    """Learns means, deviations and categories.

    Args:
        rows: All.
        target: The column to predict.
        kinds: Columns of numbers, and of categories.
        standardize: Whether numbers are brought to mean 0 and standard deviation 1.
    """

    reader = "table"

    def __init__(
        self, rows: Rows, target: TargetColumn, kinds: tuple[list[str], list[str]], *, standardize: bool
    ) -> None:
        self.rows, self._target, self._standardize = rows, target, standardize
        self._numbers, self._categories = kinds

    def learn(self, indices: Tensor) -> Mapping[str, Any]:
        """Return a ``TableState`` as plain data."""
        state = TableState(
            tuple(self._learn_numbers(name, indices) for name in self._numbers),
            tuple(self._learn_values(name, indices) for name in self._categories),
            self._target,
        )
        found: dict[str, Any] = msgspec.to_builtins(state)
        return found

    def encoder(self, state: Mapping[str, Any]) -> TableEncoder:
        """Return what makes samples."""
        return TableEncoder(state)

    def _learn_numbers(self, name: str, indices: Tensor) -> NumberColumn:
        numbers = _numbers(self.rows, indices, name)
        found = numbers[~numbers.isnan()]
        # Exact sums: the same to the bit with any number of threads.
        mean = math.fsum(found.tolist()) / max(1, len(found))
        spread = math.sqrt(math.fsum((found - mean).square().tolist()) / max(1, len(found)))
        if not self._standardize:
            return NumberColumn(name, 0.0, 1.0)
        return NumberColumn(name, mean, spread if spread > 0 else 1.0)

    def _learn_values(self, name: str, indices: Tensor) -> CategoryColumn:
        found = {value for value in _categories(self.rows, indices, name) if value is not None}
        return CategoryColumn(name, tuple(sorted(found)))


class TableEncoder:
    """Makes numbers of rows.

    Args:
        state: As ``TableLearner`` gives it; of a run, which may be anybody's.

    Raises:
        DataError: It is no such.
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._state = read_state(state, TableState)
        if not all(math.isfinite(c.mean) and 0 < c.std < math.inf for c in self._state.numbers):
            raise damaged("a mean or std cannot be one")
        if not self._state.numbers and not self._state.categories:
            raise damaged("it tells of no column")
        self._missing: dict[str, int] = {}

    @property
    def values(self) -> Mapping[str, tuple[int, ...]]:
        """The number of values of each column of categories."""
        found = tuple(len(column.values) + 1 for column in self._state.categories)
        return {CATEGORIES: found} if found else {}

    @property
    def learned(self) -> str:
        """Which columns are what."""
        numbers, categories = (
            _join(column.name for column in columns)
            for columns in (self._state.numbers, self._state.categories)
        )
        return f"numbers: {numbers}; categories: {categories}; target: {visible(self._state.target.name)}"

    @property
    def gaps(self) -> tuple[str, ...]:
        """How many cells were missing."""
        if not self._missing:
            return ()
        columns = _join(f"{name} ({count:,})" for name, count in self._missing.items())
        gaps = counted(sum(self._missing.values()), "cell")
        taken = "numbers are taken as the mean, categories as unknown"
        return (f"{gaps} missing, or of a category that was not trained on: {columns}; {taken}",)

    def inputs(self, rows: Rows, indices: Tensor) -> Tree:
        """Return numbers, (M, F), alone, or beside categories, (M, C)."""
        numbers = [self._encode_numbers(rows, indices, column) for column in self._state.numbers]
        if not self._state.categories:
            return torch.stack(numbers, 1)
        categories = [self._encode_values(rows, indices, column) for column in self._state.categories]
        inputs = {CATEGORIES: torch.stack(categories, 1)}
        return {**inputs, NUMBERS: torch.stack(numbers, 1)} if numbers else inputs

    def samples(self, rows: Rows, indices: Tensor) -> Dataset:
        """Return inputs and targets."""
        target = self._state.target
        return target.dataset(self.inputs(rows, indices), rows, indices)

    def _encode_numbers(self, rows: Rows, indices: Tensor, column: NumberColumn) -> Tensor:
        rows.column(column.name, "numbers")
        numbers = _numbers(rows, indices, column.name)
        self._count(column.name, int(numbers.isnan().sum()))
        values = (numbers.nan_to_num(column.mean) - column.mean) / column.std
        return to_float32(values, f"{rows.places[0][0]}: column '{column.name}'")

    def _encode_values(self, rows: Rows, indices: Tensor, column: CategoryColumn) -> Tensor:
        rows.column(column.name, "categories")
        number = {value: i for i, value in enumerate(column.values, _UNKNOWN + 1)}
        found = [number.get(value or "", _UNKNOWN) for value in _categories(rows, indices, column.name)]
        self._count(column.name, found.count(_UNKNOWN))
        return torch.tensor(found, dtype=torch.int64)

    def _count(self, name: str, count: int) -> None:
        if count:
            self._missing[name] = self._missing.get(name, 0) + count


def _numbers(rows: Rows, indices: Tensor, name: str) -> Tensor:
    """Return numbers of a column, (M,) float64, NaN where they are missing."""
    numbers = rows.numbers(name)[indices]
    wrong = numbers.isinf().nonzero().flatten()
    if len(wrong):
        row = int(indices[wrong[0]])
        cell = visible(shorten(str(rows.columns[name][row]), _SHOWN))
        raise DataError(
            f"{rows.where(row)}: column '{name}' holds '{cell}', which is no finite number; correct it, "
            "or name the column in 'categories'"
        )
    return numbers


def _categories(rows: Rows, indices: Tensor, name: str) -> list[str | None]:
    """Return the categories of a column as text, None where they are missing."""
    cells = rows.columns[name]
    known: dict[str, str | None] = {}
    found: list[str | None] = []
    for i in indices.tolist():
        cell = cells[i]
        # Each text is looked at once: there are few of them.
        if type(cell) is not str:
            found.append(_category(cell, rows, i, name))
        else:
            if cell not in known:
                known[cell] = _category(cell, rows, i, name)
            found.append(known[cell])
    return found


def _category(cell: Any, rows: Rows, row: int, name: str) -> str | None:
    if is_missing(cell):
        return None
    text = to_text(cell)
    if text is None:
        raise DataError(
            f"{rows.where(row)}: column '{name}' holds a {type(cell).__name__}, which is no category; leave "
            f"it out with ignore: ['{name}']"
        )
    return text.strip()


def _join(names: Iterable[str]) -> str:
    listed = [visible(name) for name in names]
    more = f" and {len(listed) - _LISTED:,} more" if len(listed) > _LISTED else ""
    return ", ".join(listed[:_LISTED]) + more or "none"
