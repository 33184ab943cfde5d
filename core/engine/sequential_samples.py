"""Samples of an iterable data set, by their place in what it gives pass after pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..hooks.errors import DataError
from ..hooks.types import derive_seed
from ..reproducibility.seeding import seed_everything


class SequentialSamples:
    """A data set of unknown length, read in order; an earlier place begins it anew, a later one skips.

    Where it ends the next pass begins: its places go on. A data set with ``set_epoch`` is told its passes.

    Args:
        iterable: Gives samples; each ``iter`` of it is a pass.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterable = iterable
        self._reader: Iterator[Any] = iter(())
        self._next = self._passes = 0
        self._owner = -1

    def take(self, place: int, seed: int) -> Any:
        """Return the sample at ``place``, from 0; what is drawn for each follows from ``seed`` and its place.

        Raises:
            DataError: A pass has no sample.
        """
        if place < self._next or os.getpid() != self._owner:
            # One that another process began may read a file on where that one stands.
            self._owner, self._next, self._passes = os.getpid(), 0, 0
            self._reader = iter(())
        while True:
            sample = self._advance(seed)
            if self._next > place:
                return sample

    def _advance(self, seed: int) -> Any:
        seed_everything(derive_seed(seed, self._next))
        for sample in self._reader:
            self._next += 1
            return sample
        if hasattr(self.iterable, "set_epoch"):
            self.iterable.set_epoch(self._passes)
        self._reader = iter(self.iterable)
        self._passes += 1
        for sample in self._reader:
            self._next += 1
            return sample
        raise DataError("the data set has come to its end without a sample")
