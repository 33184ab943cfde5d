"""Samples that a Python program has: a tensor, an array, or batches as they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...datasets.convert import to_tensor
from ...hooks.errors import DataError
from ...hooks.trees import Tree
from ...tensors.tree_form import TreeError, conform, grow, named_tensors
from .sample_form import SampleForm, leaf_form
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


class TreeSource:
    """The samples of several arrays in memory, which are inputs beside each other.

    Args:
        values: Arrays (N, …) by the names of the inputs, or in their order, as the model was trained on.
        form: What the model takes.
        source: For messages.

    Raises:
        DataError: They do not fit the model, or each other.
    """

    def __init__(self, values: Any, form: SampleForm, source: str) -> None:
        try:
            expected = grow((leaf.path, torch.empty(0)) for leaf in form.tree)
            tree = conform(_to_tensors(values, source), expected, source)
        except TreeError as error:
            raise DataError(f"{error}; the model takes {form}") from error
        self._paths = [leaf.path for leaf in form.tree]
        named = zip(form.tree, named_tensors(tree, source), strict=True)
        self._leaves = [ArraySource(tensor, leaf_form(leaf), name) for leaf, (name, tensor) in named]
        counts = {leaf.count or 0 for leaf in self._leaves}
        if len(counts) > 1:
            found = ", ".join(map(str, sorted(counts)))
            raise DataError(f"{source}: hold {found} samples; give as many of each")
        self.count: int | None = self._leaves[0].count
        self.notes: list[str] = []

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the samples in order.

        Raises:
            DataError: A number does not fit the model.
        """
        for chunks in zip(*(leaf.chunks(batch_size) for leaf in self._leaves), strict=True):
            inputs = grow(zip(self._paths, (chunk.inputs for chunk in chunks), strict=True))
            yield Chunk(inputs, chunks[0].indices)


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
            for chunk in self._source(batch, f"batch {number}").chunks(batch_size):
                yield Chunk(chunk.inputs, range(done, done + len(chunk.indices)))
                done += len(chunk.indices)
        if not done:
            raise DataError("the data are empty: there was not one batch")

    def _source(self, batch: Any, source: str) -> ArraySource | TreeSource:
        first = batch[0] if isinstance(batch, tuple | list) and batch else batch
        if not self._form.tree:
            return ArraySource(as_tensor(first, source), self._form, source)
        # Inputs that are a list are the batch, or the first of it beside targets.
        is_list = isinstance(self._form.tree[0].path[0], int) and not isinstance(first, tuple | list)
        return TreeSource(batch if is_list else first, self._form, source)


def _to_tensors(value: Any, source: str) -> Tree:
    if isinstance(value, Mapping):
        return {str(name): _to_tensors(item, f"{source}['{name}']") for name, item in value.items()}
    if isinstance(value, tuple | list):
        return [_to_tensors(item, f"{source}[{i}]") for i, item in enumerate(value)]
    return as_tensor(value, source)


def as_tensor(value: Any, source: str, *, is_targets: bool = False) -> Tensor:
    """Return a tensor of what can be an array, such as a table of pandas or an image of Pillow.

    Raises:
        DataError: It is no array of numbers.
    """
    if not isinstance(value, Tensor | np.ndarray) and hasattr(value, "__array__"):
        value = np.asarray(value)
    return to_tensor(value, source, is_targets=is_targets)
