"""Samples that a Python program has: a tensor, an array, or batches as they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from ...datasets.convert import to_tensor
from ...hooks.errors import DataError
from .sample_form import SampleForm
from .source import Chunk
from .stored_array import fit_array


class ArraySource:
    """The samples of an array in memory.

    Args:
        values: (N, …).
        form: What the model takes.
        source: For messages.
        notes: What the user should know.

    Raises:
        DataError: It does not fit the model.
    """

    def __init__(self, values: Tensor, form: SampleForm, source: str, notes: list[str] | None = None) -> None:
        self._arrange = fit_array(form, tuple(values.shape), values.dtype, source)
        self._values, self._form, self._source = values, form, source
        self.count: int | None = len(values)
        self.notes = notes or []

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the samples in order.

        Raises:
            DataError: A number does not fit the model.
        """
        for begin in range(0, len(self._values), batch_size):
            values = self._arrange(self._values[begin : begin + batch_size])
            inputs = self._form.convert(values, begin, self._source)
            yield Chunk(inputs, range(begin, begin + len(inputs)))


class BatchSource:
    """The samples of batches that somebody makes, such as a ``DataLoader``.

    Args:
        batches: Each a tensor or array (B, …), or a tuple or list that begins with one: what comes after it,
            such as targets, is not looked at.
        form: What the model takes.
    """

    def __init__(self, batches: Iterable[Any], form: SampleForm) -> None:
        self._batches, self._form = batches, form
        self.count: int | None = None
        self.notes: list[str] = []

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the samples batch by batch; larger ones are parted.

        Raises:
            DataError: A batch does not fit the model, or there is none.
        """
        done = 0
        for number, batch in enumerate(self._batches):
            source = f"batch {number}"
            values = as_tensor(batch[0] if isinstance(batch, tuple | list) and batch else batch, source)
            for chunk in ArraySource(values, self._form, source).chunks(batch_size):
                yield Chunk(chunk.inputs, range(done, done + len(chunk.inputs)))
                done += len(chunk.inputs)
        if not done:
            raise DataError("the data are empty: there was not one batch")


def as_tensor(value: Any, source: str, *, is_targets: bool = False) -> Tensor:
    """Return a tensor of what can be an array, such as a table of pandas or an image of Pillow.

    Raises:
        DataError: It is no array of numbers.
    """
    if not isinstance(value, Tensor | np.ndarray) and hasattr(value, "__array__"):
        value = np.asarray(value)
    return to_tensor(value, source, is_targets=is_targets)
