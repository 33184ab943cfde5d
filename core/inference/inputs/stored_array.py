"""An array that lies in a file, read from its beginning to its end in pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

import torch
from torch import Tensor

from ...hooks.errors import DataError
from .sample_form import SampleForm
from .source import Chunk

#: What unpacks to more than this has to be of a plausible share of that on disk.
_LARGE_BYTES = 1 << 30
#: Photos, drawings and tables are packed to a half or a tenth; emptiness to a thousandth.
_PLAUSIBLE_RATIO = 100


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Where an array lies and what it is made of; nothing of its numbers was read.

    Attributes:
        source: File and key, for messages.
        shape: (N, …).
        dtype: What ``decode`` makes.
        itemsize: Bytes of one number in the file.
        open: Opens the file at the first number, as often as it is asked to.
        decode: Makes (B, …) of the bytes of B samples.
        packed_bytes: How many it takes on disk.
        is_last: Nothing comes after it in what ``open`` gives.
    """

    source: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    itemsize: int
    open: Callable[[], AbstractContextManager[BinaryIO]]
    decode: Callable[[bytearray], Tensor]
    packed_bytes: int
    is_last: bool = True

    @property
    def sample_bytes(self) -> int:
        """Bytes of one sample in the file."""
        return math.prod(self.shape[1:]) * self.itemsize

    def read(self, file: BinaryIO, begin: int, count: int) -> bytearray:
        """Read the next ``count`` samples, of which the first is number ``begin``.

        Raises:
            DataError: The file ends before, or goes on behind its last sample.
        """
        data = bytearray(count * self.sample_bytes)
        if _read_into(file, memoryview(data)) < len(data):
            raise DataError(f"{self.source}: is cut short at sample {begin}; fetch it again")
        # Only at its end does a file that was packed tell whether it is whole.
        if self.is_last and begin + count == self.shape[0] and file.read(1):
            raise DataError(f"{self.source}: has more than its header says; fetch it again")
        return data

    def check_plausible(self) -> None:
        """Check that what it says of its size is in proportion to what it takes on disk.

        Raises:
            DataError: It is a bomb by all appearance.
        """
        unpacked = math.prod(self.shape) * self.itemsize
        if unpacked > max(_LARGE_BYTES, _PLAUSIBLE_RATIO * self.packed_bytes):
            raise DataError(
                f"{self.source}: {self.packed_bytes:,} bytes claim to unpack to {unpacked:,}, over "
                f"{_PLAUSIBLE_RATIO} times as many, as only emptiness or a bomb does; if it is meant, save "
                "it unpacked, as np.savez does"
            )


class StoredSource:
    """The samples of an array in a file.

    Args:
        array: What is known of it.
        form: What the model takes.
        notes: What the user should know of the choice.

    Raises:
        DataError: It does not fit the model, or claims to be far larger than it can be.
    """

    def __init__(self, array: StoredArray, form: SampleForm, notes: list[str]) -> None:
        self._arrange = fit_array(form, array.shape, array.dtype, array.source)
        array.check_plausible()
        self._array, self._form = array, form
        self.count: int | None = array.shape[0]
        self.notes = notes

    def chunks(self, batch_size: int) -> Generator[Chunk, None, None]:
        """Yield the samples as they lie.

        Raises:
            DataError: The file is cut short or damaged, or a number does not fit the model.
        """
        array = self._array
        with array.open() as file:
            for begin in range(0, array.shape[0], batch_size):
                count = min(batch_size, array.shape[0] - begin)
                values = array.decode(array.read(file, begin, count)).reshape(count, *array.shape[1:])
                inputs = self._form.convert(self._arrange(values), begin, array.source)
                yield Chunk(inputs, range(begin, begin + count))


def fit_array(
    form: SampleForm, shape: tuple[int, ...], dtype: torch.dtype, source: str
) -> Callable[[Tensor], Tensor]:
    """Return what brings an array's samples into a model's form; see ``SampleForm.arranging``.

    Raises:
        DataError: The array does not fit, or is empty.
    """
    if not shape:
        raise DataError(f"{source}: is a single number; expected (N, …), the model takes samples of {form}")
    if shape == form.shape:
        raise DataError(f"{source}: is of shape {shape}, one sample; give (1, {', '.join(map(str, shape))})")
    if shape[0] == 0 or 0 in shape:
        raise DataError(f"{source}: is empty, of shape {shape}")
    form.check_dtype(dtype, source)
    return form.arranging(shape[1:], source)


def _read_into(file: BinaryIO, target: memoryview) -> int:
    """Fill ``target`` as far as the file goes; returns how far."""
    done = 0
    while done < len(target):
        part = file.read(len(target) - done)
        if not part:
            break
        target[done : done + len(part)] = part
        done += len(part)
    return done
