"""Bytes become the numbers that they always became, wherever that is."""

import torch

from ringfence.engine.data import Dataset
from ringfence.hooks.types import Batch
from ringfence.tensors.buffer_pool import BufferPool
from ringfence.tensors.byte_batch import ByteBatch, as_seen, in_numbers

EVERY_BYTE = torch.arange(256, dtype=torch.uint8).view(4, 1, 8, 8)
TARGETS = torch.tensor([0, 1, 2, 0])


def test_every_byte_becomes_a_255th_of_itself():
    batch = ByteBatch(EVERY_BYTE, TARGETS, torch.arange(4), 3)
    made = in_numbers(batch, BufferPool())
    assert type(made) is Batch
    assert made.inputs.equal(EVERY_BYTE.to(torch.float32) / 255)
    assert made.targets is batch.targets


def test_what_is_seen_has_the_form_of_what_is_made_and_takes_no_memory():
    batch = ByteBatch(EVERY_BYTE, TARGETS, torch.arange(4), 3)
    made, seen = in_numbers(batch, BufferPool()), as_seen(batch)
    assert type(seen) is Batch
    assert (seen.inputs.shape, seen.inputs.dtype) == (made.inputs.shape, made.inputs.dtype)
    assert seen.inputs.is_meta


def test_numbers_stay_as_they_are():
    batch = Batch(torch.rand(4, 1, 8, 8), TARGETS, torch.arange(4), 3)
    assert in_numbers(batch, BufferPool()) is as_seen(batch) is batch


def test_a_data_set_of_bytes_gives_them_as_stored_and_one_of_numbers_those():
    indices = torch.tensor([3, 1])
    stored = Dataset(EVERY_BYTE, TARGETS, 3).stored(indices)
    assert type(stored) is ByteBatch
    assert stored.inputs.equal(EVERY_BYTE[indices])
    assert type(Dataset(EVERY_BYTE / 255, TARGETS, 3).stored(indices)) is Batch
