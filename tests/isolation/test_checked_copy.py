"""What is copied out of memory that a plugin can write is looked at where it cannot write."""

import threading

import pytest
import torch

from ringfence.hooks.types import TensorMap
from ringfence.isolation.host.calls.checked_copy import CheckedCopy
from ringfence.plugins.result_checks import ResultError
from ringfence.tensors.changeable import PIECE_BYTES

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
SIZES = {"small": 300, "of several pieces": 3 * PIECE_BYTES // 8 + 77}


def copying(tensors):
    """Lay ``tensors`` out in a source; return it as a map, and what copies it."""
    source = TensorMap.like(tensors)
    for name, tensor in tensors.items():
        source[name].copy_(tensor)
    target = torch.zeros_like(source.buffer)
    return source, CheckedCopy(source.specs, source.buffer, target)


def values(dtype, size):
    generator = torch.Generator().manual_seed(1)
    return {name: torch.randn(n, generator=generator).to(dtype) for name, n in (("a", size), ("b", 5))}


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_every_bit_is_copied(dtype, size):
    tensors = values(dtype, SIZES[size])
    source, copy = copying(tensors)
    copied = copy.run("parameter")
    assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())
    assert torch.equal(copied.buffer, source.buffer)
    source["a"].neg_()
    assert copy.run("parameter") is copied
    assert torch.equal(copied["a"], -tensors["a"])


def test_maps_of_several_dtypes_of_integers_and_of_nothing_are_copied():
    for tensors in (
        {"a": torch.randn(7), "b": torch.arange(5), "c": torch.randn(3).double()},
        {"a": torch.arange(5)},
        {"a": torch.empty(0)},
        {},
    ):
        copied = copying(tensors)[1].run("parameter")
        assert copied.keys() == tensors.keys()
        assert all(torch.equal(copied[name], tensor) for name, tensor in tensors.items())


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_a_number_that_is_not_finite_is_found_wherever_it_is(size, dtype, number):
    source, copy = copying(values(dtype, SIZES[size]))
    for name, place in (("a", 0), ("a", SIZES[size] // 2), ("a", -1), ("b", -1)):
        good = source[name][place].clone()
        source[name][place] = number
        with pytest.raises(ResultError, match=f"returned parameter '{name}' with a value that is not finite"):
            copy.run("parameter")
        source[name][place] = good
        copy.run("parameter")


def test_infinities_that_cancel_are_found():
    source, copy = copying(values(torch.float32, 2 * PIECE_BYTES))
    source["a"][3], source["a"][-3] = float("inf"), float("-inf")
    with pytest.raises(ResultError):
        copy.run("gradient")


def test_numbers_of_different_dtypes_are_looked_at_one_tensor_at_a_time():
    source, copy = copying({"a": torch.randn(7), "b": torch.randn(3).double()})
    source["b"][1] = float("nan")
    with pytest.raises(ResultError, match="'b'"):
        copy.run("gradient")


@pytest.mark.parametrize("size", SIZES)
def test_finite_numbers_whose_sum_is_not_are_let_through(size):
    source, copy = copying(values(torch.float32, SIZES[size]))
    source["a"].fill_(3e38)
    assert torch.equal(copy.run("gradient")["a"], source["a"])


@pytest.mark.parametrize("size", SIZES)
def test_what_lies_between_tensors_is_neither_copied_nor_held_against_the_plugin(size):
    source, copy = copying(values(torch.float32, SIZES[size] + 1))
    copied = copy.run("gradient").buffer.clone()
    for spec in source.specs:
        gap = slice(spec.offset_bytes + spec.nbytes, spec.offset_bytes + -(-spec.nbytes // 64) * 64)
        source.buffer[gap] = 0xFF
    assert torch.equal(copy.run("gradient").buffer, copied)


@pytest.mark.parametrize("size", SIZES)
def test_whatever_is_written_meanwhile_no_copy_that_passes_is_not_finite(size):
    source, copy = copying(values(torch.float32, SIZES[size]))
    done, outcomes = threading.Event(), set()

    def write():
        number = float("nan")
        while not done.is_set():
            source["a"][SIZES[size] // 2] = number
            number = 1.0 if number != number else float("nan")  # noqa: PLR0124 - NaN differs from itself

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for _ in range(2000):
            try:
                copied = copy.run("parameter")
            except ResultError:
                outcomes.add("refused")
            else:
                outcomes.add("passed")
                assert bool(torch.isfinite(copied["a"]).all())
            if len(outcomes) > 1:
                break
    finally:
        done.set()
        thread.join()


def test_what_a_layout_lacks_is_neither_copied_nor_listed():
    """A frozen backbone: listing its bytes would take eight times its size."""
    whole = TensorMap.like(
        {"frozen": torch.empty(1 << 20), "head": torch.empty(1000), "bias": torch.empty(3)}
    )
    whole["head"].fill_(2.0)
    whole["bias"].fill_(3.0)
    whole["frozen"].fill_(torch.nan)
    target = torch.zeros_like(whole.buffer)
    copy = CheckedCopy(whole.select(("head", "bias")).specs, whole.buffer, target)
    copied = copy.run("gradient")
    assert copied["head"].unique().tolist() == [2.0]
    assert copied["bias"].tolist() == [3.0] * 3
    assert not target.view(torch.float32)[: 1 << 20].any()
    assert len(copy._gaps) < 64
