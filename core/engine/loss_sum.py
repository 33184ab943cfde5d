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
        pairs = list(zip(self.summed, self._factors, strict=True))
        # The gradient of a mean over nothing may be no number: it is left out, unless there is nothing else.
        counted = [pair for pair in pairs if pair[1]] or pairs
        return _sum(_times(term.loss(*term.of(outputs, targets)), factor) for term, factor in counted)

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
        columns = [self._weights(term, targets, sizes) for term in self.summed]
        # A batch of which nothing counts for any term is none.
        kept = [size if any(row) else 0 for size, row in zip(sizes, zip(*columns, strict=True), strict=True)]
        total = sum(kept)
        shares = [
            [_share(w, sum(column), total, s) for w, s in zip(column, kept, strict=True)]
            for column in columns
        ]
        return [replace(self, shares=row) for row in zip(*shares, strict=True)], kept

    @staticmethod
    def _weights(term: Term, targets: Sequence[Any], sizes: Sequence[int]) -> Sequence[float]:
        """Return what each batch counts for a term."""
        parts = [part_of(each, term.target, "target") for each in targets]
        return sizes if term.loss.is_by_sample(parts[0]) else [term.loss.weight(part) for part in parts]

    @property
    def _factors(self) -> Sequence[float]:
        if not self.shares:
            return [term.factor for term in self.summed]
        return [term.factor * share for term, share in zip(self.summed, self.shares, strict=True)]


def _share(weight: float, counted: float, total: int, size: int) -> float:
    """Return how much more a batch counts for a term than its samples say; 1 where that is what counts."""
    if not weight:
        return 0.0
    return 1.0 if (weight, counted) == (size, total) else weight / counted * (total / size)


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
