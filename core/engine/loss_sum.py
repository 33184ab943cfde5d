"""The sum of several losses, each with a weight and of a part of outputs and targets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from torch import Tensor

from .loss import Loss, Term
from .parts import part_of


@dataclass(frozen=True, slots=True)
class LossSum(Loss):
    """The sum of the terms' means, each times its factor.

    Where batches count unequally for a term, as by their tokens, each term's means are averaged by what they
    count for it: over the batches of a step as over those of an evaluation.

    Attributes:
        summed: At least one.
        shares: Of one batch of a step, for each term: how much more it counts than its samples say.
    """

    classes: ClassVar[bool | None] = None
    takes_any: ClassVar[bool] = True
    summed: tuple[Term, ...]
    shares: tuple[float, ...] = ()

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum over the batch, shape ()."""
        return _sum(
            _times(term.loss(*term.of(outputs, targets)), factor)
            for term, factor in zip(self.summed, self._factors, strict=True)
        )

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        """Return the sum for each sample, shape (B,)."""
        return _sum(
            _times(term.loss.per_sample(*term.of(outputs, targets)), term.factor) for term in self.summed
        )

    @property
    def terms(self) -> tuple[Term, ...]:
        """The losses that it is the sum of."""
        return self.summed

    def is_by_sample(self, targets: Any) -> bool:
        """Whether it is so for each term."""
        return all(term.loss.is_by_sample(part_of(targets, term.target, "target")) for term in self.summed)

    def over_step(
        self, targets: Sequence[Any], sizes: Sequence[int]
    ) -> tuple[Sequence[Loss], Sequence[float]]:
        """Return the sum for each batch, with shares that make means by samples those of each term."""
        total = sum(sizes)
        columns = [list(self._shares(term, targets, sizes, total)) for term in self.summed]
        return [replace(self, shares=row) for row in zip(*columns, strict=True)], sizes

    @staticmethod
    def _shares(term: Term, targets: Sequence[Any], sizes: Sequence[int], total: int) -> Iterator[float]:
        parts = [part_of(each, term.target, "target") for each in targets]
        if term.loss.is_by_sample(parts[0]):
            yield from [1.0] * len(parts)
            return
        weights = [term.loss.weight(part) for part in parts]
        counted = sum(weights)
        for weight, size in zip(weights, sizes, strict=True):
            yield weight / counted * (total / size) if counted else 0.0

    @property
    def _factors(self) -> Sequence[float]:
        if not self.shares:
            return [term.factor for term in self.summed]
        return [term.factor * share for term, share in zip(self.summed, self.shares, strict=True)]


def _times(loss: Tensor, factor: float) -> Tensor:
    """Return the product; of what counts nothing 0, though the mean over it is no number."""
    if factor == 0:
        return loss.nan_to_num(0.0, 0.0, 0.0) * 0.0
    return loss if factor == 1 else loss * factor


def _sum(values: Iterator[Tensor]) -> Tensor:
    first = next(values)
    for value in values:
        first = first + value
    return first
