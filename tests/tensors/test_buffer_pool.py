"""Memory that is used again: only once nobody holds what lies in it."""

import torch

from ringfence.tensors.buffer_pool import LARGE_BYTES, BufferPool

SHAPE = (LARGE_BYTES // 4, 1)


def test_memory_is_used_again_once_nobody_holds_the_value():
    spares = BufferPool()
    first = spares.take(SHAPE, torch.float32)
    address = first.data_ptr()
    del first

    assert spares.take(SHAPE, torch.float32).data_ptr() == address


def test_memory_is_not_used_again_while_a_view_or_an_array_is_left():
    spares = BufferPool()
    first = spares.take(SHAPE, torch.float32)
    held = [first[1:], first.view(torch.int32), first.numpy()[:1], first.detach()]
    address = first.data_ptr()
    del first

    while held:
        assert spares.take(SHAPE, torch.float32).data_ptr() != address
        held.pop()
    assert spares.take(SHAPE, torch.float32).data_ptr() == address


def test_memory_is_not_used_again_while_a_graph_needs_it():
    spares = BufferPool()
    first = spares.take(SHAPE, torch.float32).fill_(2.0)
    address = first.data_ptr()
    weight = torch.ones(1, requires_grad=True)
    loss = (first * weight).sum()
    del first

    assert spares.take(SHAPE, torch.float32).fill_(7.0).data_ptr() != address
    loss.backward()
    assert weight.grad.item() == 2.0 * SHAPE[0]


def test_values_in_use_are_apart_and_few_are_kept():
    spares = BufferPool()
    held = [spares.take(SHAPE, torch.float32) for _ in range(20)]

    assert len({value.data_ptr() for value in held}) == 20
    assert len(spares._arrays) < 10


def test_other_dtypes_and_small_values_are_new_memory():
    spares = BufferPool()

    assert spares.take(SHAPE, torch.int64).dtype == torch.int64
    assert spares.take((2, 3), torch.float32).shape == (2, 3)
    assert spares._arrays == []
