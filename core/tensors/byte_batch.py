"""Batches of images as the data have them, in bytes, and the numbers that plugins and the model see.

Bytes are a quarter of the numbers that are made of them, so that they stay bytes for as long as nobody looks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..hooks.types import Batch
from .buffer_pool import BufferPool

_LARGEST = 255


class ByteBatch(Batch):
    """A batch whose inputs are uint8; whoever is to see it is given what ``in_numbers`` returns."""

    __slots__ = ()


def to_numbers(inputs: Tensor, place: Tensor) -> Tensor:
    """Write uint8 ``inputs`` to ``place``, float32 of their shape, as numbers from 0 to 1; returns that."""
    return place.copy_(inputs).div_(_LARGEST)


def in_numbers(batch: Batch, spares: BufferPool) -> Batch:
    """Return the batch as it is seen, in memory of ``spares`` if it has to be made."""
    if not isinstance(batch, ByteBatch):
        return batch
    place = spares.take(tuple(batch.inputs.shape), torch.float32)
    return Batch(to_numbers(batch.inputs, place), batch.targets, batch.indices, batch.num_classes)


def as_seen(batch: Batch) -> Batch:
    """Return a batch that is as ``in_numbers`` makes it, but for the numbers of its inputs: it has none."""
    if not isinstance(batch, ByteBatch):
        return batch
    inputs = torch.empty(batch.inputs.shape, dtype=torch.float32, device="meta")
    return Batch(inputs, batch.targets, batch.indices, batch.num_classes)
