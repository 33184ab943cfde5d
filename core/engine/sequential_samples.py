"""Samples of an iterable data set, by their place in what it gives pass after pass."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from ..hooks.errors import DataError
from ..hooks.types import derive_seed
from ..imports.user_frames import user_frame
from ..reproducibility.seeding import seed_everything
from ..tensors import pytree

#: Passes begun before a place, and what the data set said of itself there.
Mark = tuple[int, Any]
#: Of one state's tensors: it is taken after each batch.
_MAX_BYTES = 16 << 20


class SequentialSamples:
    """A data set of unknown length, read in order; an earlier place begins it anew, a later one skips.

    Where it ends the next pass begins: its places go on. A data set with ``set_epoch`` is told its passes.
    One with ``state_dict`` and ``load_state_dict`` begins anew at the last place whose state is known.

    Args:
        iterable: Gives samples; each ``iter`` of it is a pass, or the rest of that whose state it was given.

    Attributes:
        marks: Place to what was known there; of a data set without a state there are none.
    """

    def __init__(self, iterable: Iterable[Any]) -> None:
        self.iterable = iterable
        self.marks: dict[int, Mark] = {}
        self._reader: Iterator[Any] = iter(())
        self._next = self._passes = 0
        self._owner = -1
        self._first = self.mark()

    @property
    def keeps_state(self) -> bool:
        """Whether the data set says where it stands, and goes on from there."""
        return all(callable(getattr(self.iterable, name, None)) for name in ("state_dict", "load_state_dict"))

    def take(self, place: int, seed: int) -> Any:
        """Return the sample at ``place``, from 0; what is drawn for each follows from ``seed`` and its place.

        Raises:
            DataError: A pass has no sample, or the data set does not take its own state.
        """
        if place != self._next or os.getpid() != self._owner:
            self._go_to(place)
        while True:
            sample = self._advance(seed)
            if self._next > place:
                return sample

    def mark(self) -> Mark | None:
        """Return what is to be known to go on from the next place; None of a data set without a state.

        Raises:
            DataError: The state is no plain data.
        """
        return (self._passes, self._state()) if self.keeps_state else None

    def nearest(self, place: int) -> tuple[int, Mark | None]:
        """Return the last place up to ``place`` whose state is known, and that; the first one at least."""
        known = max((each for each in self.marks if each <= place), default=0)
        return known, self.marks.get(known, self._first)

    def keep(self, place: int, mark: Mark | None) -> None:
        """Remember what ``mark`` has returned, in this process or another one, before ``place`` was read."""
        if mark is not None:
            self.marks[place] = mark

    def _go_to(self, place: int) -> None:
        """Come to a place as near before ``place`` as can be."""
        known, mark = self.nearest(place)
        if os.getpid() == self._owner and known <= self._next <= place:
            return
        # One that another process began may read a file on where that one stands.
        self._owner, self._next, self._passes = os.getpid(), known, 0
        self._reader = iter(())
        if mark is None:
            return
        self._passes, state = mark
        if self._passes and hasattr(self.iterable, "set_epoch"):
            self.iterable.set_epoch(self._passes - 1)
        try:
            # A copy: it may be gone back to.
            self.iterable.load_state_dict(pytree.copied(state))  # type: ignore[attr-defined]
        except Exception as error:
            whose = type(self.iterable).__name__
            raise DataError(
                f"load_state_dict() of {whose} raised {type(error).__name__}: {error}, "
                f"at {user_frame(error)}; it was given what its state_dict() had returned. "
                "Mend it, or leave both out: a resumed run then reads the data from their start"
            ) from error
        if self._passes:
            self._reader = iter(self.iterable)

    def _state(self) -> Any:
        whose = f"state_dict() of {type(self.iterable).__name__}"
        try:
            state = self.iterable.state_dict()  # type: ignore[attr-defined]
        except Exception as error:
            raise DataError(
                f"{whose} raised {type(error).__name__}: {error}, at {user_frame(error)}; mend it, or leave "
                "it out: a resumed run then reads the data from their start"
            ) from error
        try:
            return pytree.copied(state, pytree.at_most(_MAX_BYTES))
        except pytree.PlainDataError as error:
            raise DataError(f"{whose} returned what cannot be saved: {error}") from error

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
