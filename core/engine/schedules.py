"""Learning-rate schedules: pure functions of the step.

``factor(step, steps_total)`` multiplies the learning rate of the optimizer
plugin; steps count from 0. During warm-up it rises linearly, ``(step + 1) /
warmup_steps``; the shape that the name says follows, over the steps that are left.

``Plateau`` alone depends on what evaluations come to: what it has seen is kept with the counters of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from ..hooks.errors import JobError

#: Steps at which a schedule of the user's is tried before the start, at most.
_TRIED_STEPS = 10_000
#: Least and greatest value of an option, and whether it counts something.
_AT_LEAST_0, _AT_LEAST_1, _SHARE = (0, math.inf, True), (1, math.inf, True), (0, 1, False)
_RANGES: Mapping[str, tuple[float, float, bool]] = {
    "cooldown": _AT_LEAST_0,
    "every_steps": _AT_LEAST_1,
    "final_factor": _SHARE,
    "first_steps": _AT_LEAST_1,
    "gamma": _SHARE,
    "growth": _AT_LEAST_1,
    "initial_factor": _SHARE,
    "patience": _AT_LEAST_0,
    "power": (0, math.inf, False),
    "threshold": (0, math.inf, False),
    "warmup_steps": _AT_LEAST_0,
}


class Schedule(Protocol):
    """Step to factor."""

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up, >= 0."""

    def factor(self, step: int, steps_total: int) -> float:
        """Return what to multiply the learning rate by in ``step``, >= 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmed:
    """Rise along a line, then follow a shape.

    Attributes:
        warmup_steps: Steps of the linear rise at the start.
    """

    warmup_steps: int = 0

    def __post_init__(self) -> None:
        for name, (least, most, counts) in _RANGES.items():
            value = getattr(self, name, least)
            if isinstance(value, bool) or not isinstance(value, int if counts else int | float):
                raise ValueError(f"{name} is {value!r}; it must be a {'whole ' * counts}number")  # noqa: TRY004 - one kind for all
            if not least <= value <= most:
                bounds = f"be at least {least}" if most == math.inf else f"lie between {least} and {most}"
                raise ValueError(f"{name} is {value}; it must {bounds}")

    def factor(self, step: int, steps_total: int) -> float:
        """Return the share of the warm-up that is done, and after it what the shape says."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        return self._shape(step - self.warmup_steps, steps_total - self.warmup_steps)

    def _shape(self, step: int, steps: int) -> float:  # noqa: ARG002 - every shape's signature
        """Return the factor in ``step`` of the ``steps`` after warm-up."""
        return 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant(Warmed):
    """Keep the learning rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linear(Warmed):
    """Fall along a line from 1 to ``final_factor``.

    Attributes:
        final_factor: Where the fall ends, from 0 to 1.
    """

    final_factor: float = 0.0

    def _shape(self, step: int, steps: int) -> float:
        return 1.0 - (1.0 - self.final_factor) * _share(step, steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Polynomial(Warmed):
    """Fall from 1 to ``final_factor`` with a power of the steps that are left.

    Attributes:
        power: 1 is a line; more falls faster at first.
        final_factor: Where the fall ends, from 0 to 1.
    """

    power: float = 1.0
    final_factor: float = 0.0

    def _shape(self, step: int, steps: int) -> float:
        left: float = (1.0 - _share(step, steps)) ** self.power
        return self.final_factor + (1.0 - self.final_factor) * left


@dataclass(frozen=True, slots=True, kw_only=True)
class Cosine(Warmed):
    """Fall along half a cosine from 1 to ``final_factor``.

    Attributes:
        final_factor: Where the fall ends, from 0 to 1.

    Source: Loshchilov & Hutter 2017, equation 5 without restarts, arXiv:1608.03983.
    """

    final_factor: float = 0.0

    def _shape(self, step: int, steps: int) -> float:
        return _cosine(1.0, self.final_factor, _share(step, steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class CosineRestarts(Warmed):
    """Fall along half a cosine from 1 to ``final_factor``, again and again.

    Attributes:
        first_steps: Steps of the first fall.
        growth: How many times as long each fall is as the one before, a whole number.
        final_factor: Where each fall ends, from 0 to 1.

    Source: Loshchilov & Hutter 2017, equation 5, arXiv:1608.03983.
    """

    first_steps: int
    growth: int = 1
    final_factor: float = 0.0

    def _shape(self, step: int, steps: int) -> float:  # noqa: ARG002 - every shape's signature
        length = self.first_steps
        if self.growth == 1:
            step %= length
        while step >= length:
            step, length = step - length, length * self.growth
        return _cosine(1.0, self.final_factor, step / length)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepDecay(Warmed):
    """Multiply by ``gamma`` every ``every_steps`` steps after warm-up.

    Attributes:
        every_steps: Steps from one multiplication to the next.
        gamma: What it is multiplied by, from 0 to 1.
    """

    every_steps: int
    gamma: float = 0.1

    def _shape(self, step: int, steps: int) -> float:  # noqa: ARG002 - every shape's signature
        return float(self.gamma ** (step // self.every_steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class MultiStep(Warmed):
    """Multiply by ``gamma`` at each of the steps that are named.

    Attributes:
        milestones: Those steps, counted from the end of warm-up; rising.
        gamma: What it is multiplied by, from 0 to 1.
    """

    milestones: list[int]
    gamma: float = 0.1

    def __post_init__(self) -> None:
        Warmed.__post_init__(self)
        stones = self.milestones
        whole = isinstance(stones, list) and all(type(stone) is int and stone > 0 for stone in stones)
        if not whole or not stones or sorted(set(stones)) != stones:
            raise ValueError(
                f"milestones is {stones}; it must be a list of steps from 1 on, each after the last"
            )

    def _shape(self, step: int, steps: int) -> float:  # noqa: ARG002 - every shape's signature
        return float(self.gamma ** sum(stone <= step for stone in self.milestones))


@dataclass(frozen=True, slots=True, kw_only=True)
class Exponential(Warmed):
    """Fall by the same ratio each step after warm-up, from 1 to ``final_factor`` at the end of the run.

    Attributes:
        final_factor: Where the fall ends, above 0 and at most 1.
    """

    final_factor: float = 0.01

    def __post_init__(self) -> None:
        Warmed.__post_init__(self)
        if self.final_factor == 0:
            raise ValueError("final_factor is 0, which no ratio reaches; choose a small positive number")

    def _shape(self, step: int, steps: int) -> float:
        return float(self.final_factor ** _share(step, steps))


@dataclass(frozen=True, slots=True, kw_only=True)
class OneCycle(Warmed):
    """Rise along half a cosine from ``initial_factor`` to 1, then fall to ``final_factor``.

    Attributes:
        warmup_steps: Steps of the rise; 0 means three tenths of the run.
        initial_factor: Where the rise starts.
        final_factor: Where the fall ends, at the last step.

    Source: Smith & Topin 2018, arXiv:1708.07120; the two-phase form and the defaults are those of
    torch's ``OneCycleLR``.
    """

    initial_factor: float = 0.04
    final_factor: float = 4e-6

    def factor(self, step: int, steps_total: int) -> float:
        """Return the cycle's value; the peak lies at the end of the rise."""
        peak = (self.warmup_steps or 0.3 * steps_total) - 1
        if step <= peak:
            return _cosine(self.initial_factor, 1.0, step / peak if peak > 0 else 1.0)
        return _cosine(1.0, self.final_factor, _share(step - peak, max(steps_total - 1 - peak, 1e-9)))


@dataclass(frozen=True, slots=True)
class Watched:
    """What ``Plateau`` has seen of a run.

    Attributes:
        factor: What the learning rate has come to by now, from 0 to 1.
        best: The best value of the metric so far, by the threshold; None before the first.
        waited: Evaluations since then that count.
        resting: Evaluations that do not count after a reduction.
    """

    factor: float = 1.0
    best: float | None = None
    waited: int = 0
    resting: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plateau(Warmed):
    """Multiply by ``gamma`` whenever the metric that judges the run no longer improves.

    What runs ahead of the loop is told the factor without these reductions.

    Attributes:
        gamma: What it is multiplied by, from 0 to 1.
        patience: Evaluations in a row without a gain that are let pass.
        threshold: Gain that counts: a share of the best value, or in units of the metric.
        threshold_mode: Which of the two, ``rel`` or ``abs``.
        cooldown: Evaluations after a reduction that do not count.
        final_factor: The least that it falls to, from 0 to 1.

    Source: torch's ``ReduceLROnPlateau``.
    """

    gamma: float = 0.1
    patience: int = 10
    threshold: float = 1e-4
    threshold_mode: Literal["rel", "abs"] = "rel"
    cooldown: int = 0
    final_factor: float = 0.0

    def __post_init__(self) -> None:
        Warmed.__post_init__(self)
        if self.threshold_mode not in {"rel", "abs"}:
            raise ValueError(f"threshold_mode is {self.threshold_mode!r}; it must be 'rel' or 'abs'")

    def after(self, seen: Watched, value: float, *, higher_is_better: bool) -> Watched:
        """Return what has been seen with one more evaluation, which may have reduced the factor.

        Args:
            seen: Before it.
            value: What the metric came to.
            higher_is_better: Its direction.
        """
        if self._is_gain(value, seen.best, 1.0 if higher_is_better else -1.0):
            seen = replace(seen, best=value, waited=0)
        else:
            seen = replace(seen, waited=seen.waited + 1)
        if seen.resting:
            seen = replace(seen, resting=seen.resting - 1, waited=0)
        if seen.waited <= self.patience:
            return seen
        factor = max(seen.factor * self.gamma, self.final_factor)
        return replace(seen, factor=factor, resting=self.cooldown, waited=0)

    def _is_gain(self, value: float, best: float | None, sign: float) -> bool:
        if best is None:
            return not math.isnan(value)
        least = self.threshold * (abs(best) if self.threshold_mode == "rel" else 1.0)
        return sign * value > sign * best + least


@dataclass(frozen=True, slots=True)
class GivenSchedule:
    """A function of the user's.

    Attributes:
        name: As the job names it.
        function: Called with the step, from 0, and the number of steps, and with ``options``.
        options: Keyword arguments.
        warmup_steps: None that are known of.
    """

    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    warmup_steps: int = 0

    def factor(self, step: int, steps_total: int) -> float:
        """Return what the function does.

        Raises:
            JobError: It is no finite number of at least 0.
        """
        value = self.function(step, steps_total, **self.options)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise JobError(
                f"schedule '{self.name}': returned {value!r:.80} at step {step} of {steps_total}; it must be "
                "a finite number of at least 0, which multiplies the learning rate"
            )
        return float(value)


#: Names in a job to schedules; the options are the fields.
SCHEDULES: dict[str, type[Schedule]] = {
    "constant": Constant,
    "cosine": Cosine,
    "cosine_restarts": CosineRestarts,
    "exponential": Exponential,
    "linear": Linear,
    "multistep": MultiStep,
    "one_cycle": OneCycle,
    "plateau": Plateau,
    "polynomial": Polynomial,
    "step": StepDecay,
}
#: Those that are the same whatever the length of the run.
WITHOUT_LENGTH = frozenset({"constant", "cosine_restarts", "multistep", "plateau", "step"})


def make_schedule(name: str, **options: Any) -> Schedule:
    """Return a schedule by the name that jobs use, for an optimizer whose groups have schedules of their own.

    Its ``factor(step.global_step, step.steps_total)`` is what to multiply a learning rate by.

    Args:
        name: Such as ``cosine``.
        options: As in a job, for example ``warmup_steps``.

    Raises:
        ValueError: There is none, an option does not fit, or it needs evaluations, which no plugin sees.
    """
    cls: Any = SCHEDULES.get(name)
    if cls is None or cls is Plateau:
        known = ", ".join(known for known in SCHEDULES if known != "plateau")
        why = "needs evaluations, of which an optimizer sees nothing" if cls else "is unknown"
        raise ValueError(f"schedule {name!r:.80} {why}; choose one of {known}")
    taken = [each.name for each in fields(cls)]
    for option in options:
        if option not in taken:
            raise ValueError(
                f"schedule '{name}' has no option '{option}'; it has: {', '.join(sorted(taken))}"
            )
    try:
        made: Schedule = cls(**options)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule '{name}': {error}") from error
    return made


def try_schedule(schedule: Schedule, steps_total: int) -> None:
    """Ask a schedule for its factors before the run does, at no more steps than take a moment.

    Raises:
        JobError: One of them is none.
    """
    stride = max(1, steps_total // _TRIED_STEPS)
    for step in (*range(0, steps_total, stride), steps_total - 1):
        schedule.factor(step, steps_total)


def _share(step: float, steps: float) -> float:
    """Return the share of the steps that lie before ``step``; a loop of others may go on beyond them."""
    return min(step / steps, 1.0)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) * (1.0 + math.cos(math.pi * share)) / 2.0
