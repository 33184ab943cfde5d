"""Seed a worker's random generators for each call, as far as possible before it comes."""

from __future__ import annotations

from threading import active_count as active_threads

from ...hooks.types import StepInfo, derive_seed
from ...reproducibility.seeding import seed_everything

#: The plugin's seed, global step, batch and pass of a call: all that its generators depend on.
_Place = tuple[int, int, int, int]


class Generators:
    """Seeds torch, numpy and random for each call, so that a plugin that uses them is repeatable.

    That takes as long as all else that a small call costs. A run calls the same methods in the same
    order at every step, so that the next call is foreseen, and seeded for while nobody waits. Where
    the plugin has threads, which may draw meanwhile, and where it comes otherwise, it is seeded for when
    it is there.
    """

    def __init__(self) -> None:
        #: The call that the generators are seeded for, while nobody has drawn from them.
        self._ready: _Place | None = None
        self._last: tuple[str, _Place] | None = None
        #: From a call of a method to the next call, as it was the last time.
        self._strides: dict[str, tuple[int, ...]] = {}

    def seed(self, step: StepInfo) -> None:
        """Seed for a call that is there."""
        if self._ready != _place(step) or active_threads() > 1:
            seed_everything(step.call_seed)
        self._ready = None

    def seed_with(self, seed: int) -> None:
        """Seed for what is no call."""
        seed_everything(seed)
        self._ready = None

    def prepare(self, method: str, step: StepInfo) -> None:
        """Seed for the call that is likely to come after this one, which has been answered."""
        here = _place(step)
        if self._last is not None:
            before, there = self._last
            self._strides[before] = tuple([n - m for n, m in zip(here, there, strict=True)])
        self._last = method, here
        stride = self._strides.get(method)
        if stride is None or active_threads() > 1:
            return
        seed, global_step, micro_batch, pass_index = [n + m for n, m in zip(here, stride, strict=True)]
        seed_everything(derive_seed(seed, global_step, micro_batch, pass_index))
        self._ready = seed, global_step, micro_batch, pass_index


def _place(step: StepInfo) -> _Place:
    return step.seed, step.global_step, step.micro_batch, step.pass_index
