"""A part of the data whose samples are read as they are asked for."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..hooks.errors import DataError
from ..hooks.trees import Tree
from ..hooks.types import IGNORED, Batch, derive_seed
from ..tensors.buffer_pool import BufferPool
from ..tensors.byte_batch import ByteBatch, in_numbers
from ..tensors.first_wrong import first_wrong
from .data import BatchPlace, Dataset
from .sample_reader import SampleReader, Wanted
from .sequential_samples import SequentialSamples

#: Samples that are read before the start, to know what all of them are like.
_EXAMPLES = 2


@functools.lru_cache(maxsize=8)
def _seed_of_pass(seed: int, epoch: int) -> int:
    return derive_seed(seed, "samples", epoch)


@dataclass(frozen=True, slots=True)
class ReadDataset(Dataset):
    """Samples that ``reader`` reads; ``inputs`` and ``targets`` are those of the first ones, as examples.

    Their sizes may differ from batch to batch.

    Attributes:
        reader: Of all of them; ``rows`` are places among these.
        count: How many there are to read; of a stream as many as the run takes.
    """

    reader: SampleReader = field(kw_only=True)
    count: int = 0

    @classmethod
    def of(
        cls, reader: SampleReader, num_classes: int | None = None, class_names: tuple[str, ...] = ()
    ) -> ReadDataset:
        """Read the first samples, and return the whole as a part of the data.

        Raises:
            DataError: There are none, they cannot be read, or they are not of ``num_classes`` classes.
        """
        samples = reader.samples
        count = _EXAMPLES if isinstance(samples, SequentialSamples) else len(samples)
        if not count:
            raise DataError(f"{reader.source}: the data are empty; at least one sample is needed")
        inputs, targets = reader.read_one(torch.arange(min(_EXAMPLES, count)))
        try:
            return cls(inputs, targets, num_classes, class_names, reader=reader, count=count)
        except DataError as error:
            raise DataError(f"{reader.source}: {error}") from error

    def __len__(self) -> int:
        return self.stored_rows if self.rows is None else len(self.rows)

    @property
    def stored_rows(self) -> int:
        """How many samples there are to read."""
        return self.count

    @property
    def is_stream(self) -> bool:
        """Whether nobody knows how many samples there are, and they come in one order."""
        return isinstance(self.reader.samples, SequentialSamples)

    @property
    def is_read(self) -> bool:
        """Whether samples are read as they are asked for."""
        return True

    def samples_targets(self) -> Tree:
        """Return the targets of the examples: of all the others nobody knows."""
        return self.targets

    def input_range(self) -> tuple[float, float] | None:
        """Return what there can be of bytes; None of others, which nobody has seen."""
        return (0.0, 1.0) if self.in_bytes else None

    def stored(self, indices: Tensor, spares: BufferPool | None = None) -> Batch:
        """Read the samples at ``indices`` in this process."""
        del spares
        return self._as_batch(self.reader.read_one(indices), indices)

    def read(
        self, places: Iterable[BatchPlace], seed: int, *, as_stored: bool = False
    ) -> Iterator[tuple[Batch, BatchPlace]]:
        """Yield the batch at each place, in order; workers read some of them ahead."""
        asked: deque[BatchPlace] = deque()

        def wanted() -> Iterator[Wanted]:
            for place in places:
                asked.append(place)
                _, epoch, _, rows = place
                yield _seed_of_pass(seed, epoch), rows

        spares = BufferPool()
        for trees in self.reader.read(wanted()):
            place = asked.popleft()
            batch = self._as_batch(trees, place[3])
            yield (batch if as_stored else in_numbers(batch, spares)), place

    def _as_batch(self, trees: tuple[Tree, Tree], rows: Tensor) -> Batch:
        inputs, targets = trees
        self._check_classes(targets, rows)
        in_bytes = isinstance(inputs, Tensor) and inputs.dtype == torch.uint8
        batch = (ByteBatch if in_bytes else Batch)(inputs, targets, rows, self.num_classes)
        # As bytes go only batches of one tensor each.
        return batch if isinstance(targets, Tensor) else in_numbers(batch, BufferPool())

    def _check_classes(self, targets: Tree, rows: Tensor) -> None:
        """Check that targets of classes are such; of all that is read only that it is read says so."""
        if self.num_classes is None or not isinstance(targets, Tensor) or targets.is_floating_point():
            return
        wrong = (targets < 0) | (targets >= self.num_classes)
        if targets.dim() > 1:
            wrong &= targets != IGNORED
        if wrong.any():
            row, found = first_wrong(targets, wrong)
            raise DataError(
                f"{self.reader.source}: sample {int(rows[row])} has the class {found}; with "
                f"{self.num_classes} classes they lie in 0 … {self.num_classes - 1}"
            )
