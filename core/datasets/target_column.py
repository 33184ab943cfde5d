"""The column of a table that is to be predicted: classes, or numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import msgspec
import torch
from torch import Tensor

from ..engine.data import Dataset
from ..hooks.errors import DataError, shorten, visible
from ..hooks.trees import Tree
from .arrays import Task
from .classes import are_too_many
from .convert import to_float32
from .row_file import Rows, is_missing, to_number, to_text
from .row_samples import placeholder

_SHOWN = 60
_MOST_CLASSES = 100_000


class TargetColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is known of the column.

    Attributes:
        name: Of the column.
        classes: Text of each class, in the order of their numbers; None: it holds numbers.
    """

    name: str
    classes: Annotated[tuple[str, ...], msgspec.Meta(max_length=_MOST_CLASSES)] | None

    def placeholder(self, rows: Rows, chosen: range) -> Dataset:
        """Return a part of rows that are not yet samples; raises as ``encode``."""
        targets = self.encode(rows, torch.arange(chosen.start, chosen.stop))
        return placeholder(chosen, targets, None if self.classes is None else len(self.classes))

    def dataset(
        self, inputs: Tree, rows: Rows, indices: Tensor, kind: Callable[..., Dataset] = Dataset
    ) -> Dataset:
        """Return ``inputs`` with the targets of their rows, as ``kind`` makes it; raises as ``encode``."""
        count = None if self.classes is None else len(self.classes)
        return kind(inputs, self.encode(rows, indices), count, self.classes or ())

    def encode(self, rows: Rows, indices: Tensor) -> Tensor:
        """Return (M,) int64 class numbers, or (M, 1) float32 numbers.

        Args:
            rows: Where from.
            indices: Which, (M,) int64.

        Raises:
            DataError: A cell is empty, no number, or no class that is known; the message names its line.
        """
        cells, known = rows.column(self.name, "target"), indices.tolist()
        if self.classes is None:
            numbers = [_number(cells[i], rows, i, self.name) for i in known]
            values = torch.tensor(numbers, dtype=torch.float64)[:, None]
            return to_float32(values, f"{rows.places[0][0]}: column '{self.name}'")
        number = {text: i for i, text in enumerate(self.classes)}
        found = []
        for i in known:
            text = _text(cells[i], rows, i, self.name)
            if text not in number:
                raise DataError(
                    f"{rows.where(i)}: column '{self.name}' holds the class "
                    f"'{visible(shorten(text, _SHOWN))}', which is none of those that are trained on"
                )
            found.append(number[text])
        return torch.tensor(found, dtype=torch.int64)


def find_target(rows: Rows, name: str, task: Task, train: range) -> TargetColumn:
    """Return what the column of targets holds.

    Args:
        rows: All.
        name: Of the column.
        task: ``auto``: fractions are numbers, all else classes.
        train: The rows to train on, which tell the classes.

    Raises:
        DataError: There is no such column, a cell is empty, or there are far more classes than in proportion.
    """
    cells = rows.column(name, "target")
    found = [to_number(cells[i]) for i in train]
    numbers = [number for number in found if number is not None]
    if task == "regression" or (
        task == "auto" and len(numbers) == len(found) and any(number != int(number) for number in numbers)
    ):
        return TargetColumn(name, None)
    texts = {_text(cells[i], rows, i, name) for i in train}
    if are_too_many(len(texts), len(train)) or len(texts) > _MOST_CLASSES:
        raise DataError(
            f"{rows.places[0][0]}: column '{name}' makes {len(texts):,} classes of {len(train):,} rows; to "
            "predict numbers write loss: mse (l1, huber or smooth_l1) and metric: mse (mae or r2)"
        )
    # Numbers in their order: class 10 comes after class 9.
    by_number = all(to_number(text) is not None for text in texts)
    return TargetColumn(
        name, tuple(sorted(texts, key=lambda text: (to_number(text) or 0.0, text) if by_number else text))
    )


def _text(cell: object, rows: Rows, row: int, name: str) -> str:
    text = None if is_missing(cell) else to_text(cell)
    if text is None:
        raise DataError(
            f"{rows.where(row)}: column '{name}' holds {'nothing' if is_missing(cell) else 'no text'}, "
            "and is the target; remove the row, or fill it in"
        )
    return text.strip()


def _number(cell: object, rows: Rows, row: int, name: str) -> float:
    number = to_number(cell)
    if number is None:
        raise DataError(
            f"{rows.where(row)}: column '{name}' holds '{visible(shorten(str(cell), _SHOWN))}', which is "
            "no finite number, and is the target; remove the row, or fill it in"
        )
    return number
