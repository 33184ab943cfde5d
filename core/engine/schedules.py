"""Learning-rate schedules: pure functions of the step.

``factor(step, steps_total)`` multiplies the learning rate of the optimizer
plugin; steps count from 0. During warm-up it rises linearly, ``(step + 1) /
warmup_steps``; the shape that the name says follows, over the steps that are left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


class Schedule(Protocol):
    """Step to factor."""

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up, >= 0."""

    def factor(self, step: int, steps_total: int) -> float:
        """Return what to multiply the learning rate by in ``step``, >= 0."""


def warmup(step: int, warmup_steps: int) -> float | None:
    """Return the factor during warm-up, None after it."""
    return (step + 1) / warmup_steps if step < warmup_steps else None


def progress(step: int, steps_total: int, warmup_steps: int) -> float:
    """Return the share of the steps after warm-up that lie before ``step``, in [0, 1)."""
    return (step - warmup_steps) / (steps_total - warmup_steps)


@dataclass(frozen=True, slots=True)
class Constant:
    """Keep the learning rate.

    Attributes:
        warmup_steps: Steps of the linear rise at the start.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check(self.warmup_steps)

    def factor(self, step: int, steps_total: int) -> float:  # noqa: ARG002 - every schedule's signature
        """Return 1 after warm-up."""
        rising = warmup(step, self.warmup_steps)
        return 1.0 if rising is None else rising


@dataclass(frozen=True, slots=True)
class Linear:
    """Fall along a line from 1 to ``final_factor``.

    Attributes:
        warmup_steps: Steps of the linear rise at the start.
        final_factor: Where the fall ends, from 0 to 1.
    """

    warmup_steps: int = 0
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup_steps, final_factor=self.final_factor)

    def factor(self, step: int, steps_total: int) -> float:
        """Return ``1 - (1 - final_factor) * progress`` after warm-up."""
        rising = warmup(step, self.warmup_steps)
        if rising is not None:
            return rising
        return 1.0 - (1.0 - self.final_factor) * progress(step, steps_total, self.warmup_steps)


@dataclass(frozen=True, slots=True)
class Cosine:
    """Fall along half a cosine from 1 to ``final_factor``.

    Attributes:
        warmup_steps: Steps of the linear rise at the start.
        final_factor: Where the fall ends, from 0 to 1.

    Source: Loshchilov & Hutter 2017, equation 5 without restarts, arXiv:1608.03983.
    """

    warmup_steps: int = 0
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        _check(self.warmup_steps, final_factor=self.final_factor)

    def factor(self, step: int, steps_total: int) -> float:
        """Return the cosine's value after warm-up."""
        rising = warmup(step, self.warmup_steps)
        if rising is not None:
            return rising
        return _cosine(1.0, self.final_factor, progress(step, steps_total, self.warmup_steps))


@dataclass(frozen=True, slots=True)
class StepDecay:
    """Multiply by ``gamma`` every ``every_steps`` steps after warm-up.

    Attributes:
        every_steps: Steps from one multiplication to the next.
        gamma: What it is multiplied by, from 0 to 1.
        warmup_steps: Steps of the linear rise at the start.
    """

    every_steps: int
    gamma: float = 0.1
    warmup_steps: int = 0

    def __post_init__(self) -> None:
        _check(self.warmup_steps, gamma=self.gamma)
        if self.every_steps < 1:
            raise ValueError(f"every_steps is {self.every_steps}; it must be at least 1")

    def factor(self, step: int, steps_total: int) -> float:  # noqa: ARG002 - every schedule's signature
        """Return ``gamma ** floor(steps after warm-up / every_steps)``."""
        rising = warmup(step, self.warmup_steps)
        if rising is not None:
            return rising
        return float(self.gamma ** ((step - self.warmup_steps) // self.every_steps))


@dataclass(frozen=True, slots=True)
class Exponential:
    """Fall by the same ratio each step after warm-up, from 1 to ``final_factor`` at the end of the run.

    Attributes:
        warmup_steps: Steps of the linear rise at the start.
        final_factor: Where the fall ends, above 0 and at most 1.
    """

    warmup_steps: int = 0
    final_factor: float = 0.01

    def __post_init__(self) -> None:
        _check(self.warmup_steps, final_factor=self.final_factor)
        if self.final_factor == 0:
            raise ValueError("final_factor is 0, which no ratio reaches; choose a small positive number")

    def factor(self, step: int, steps_total: int) -> float:
        """Return ``final_factor ** progress`` after warm-up."""
        rising = warmup(step, self.warmup_steps)
        if rising is not None:
            return rising
        return float(self.final_factor ** progress(step, steps_total, self.warmup_steps))


@dataclass(frozen=True, slots=True)
class OneCycle:
    """Rise along half a cosine from ``initial_factor`` to 1, then fall to ``final_factor``.

    Attributes:
        warmup_steps: Steps of the rise; 0 means three tenths of the run.
        initial_factor: Where the rise starts.
        final_factor: Where the fall ends, at the last step.

    Source: Smith & Topin 2018, arXiv:1708.07120; the two-phase form and the defaults are those of
    torch's ``OneCycleLR``.
    """

    warmup_steps: int = 0
    initial_factor: float = 0.04
    final_factor: float = 4e-6

    def __post_init__(self) -> None:
        _check(self.warmup_steps, initial_factor=self.initial_factor, final_factor=self.final_factor)

    def factor(self, step: int, steps_total: int) -> float:
        """Return the cycle's value; the peak lies at the end of the rise."""
        peak = (self.warmup_steps or 0.3 * steps_total) - 1
        if step <= peak:
            return _cosine(self.initial_factor, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, self.final_factor, (step - peak) / max(steps_total - 1 - peak, 1e-9))


#: Names in a job to schedules; the options are the fields.
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "exponential": Exponential,
    "linear": Linear,
    "one_cycle": OneCycle,
    "step": StepDecay,
}


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0


def _check(warmup_steps: int, **factors: float) -> None:
    if warmup_steps < 0:
        raise ValueError(f"warmup_steps is {warmup_steps}; it must be at least 0")
    for name, value in factors.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name} is {value}; it must lie between 0 and 1")
