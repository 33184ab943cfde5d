"""Metrics by name, on numbers in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP_K = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """What evaluation and early stopping judge by.

    Attributes:
        higher_is_better: Direction.
        classes: True if it compares classes, False if it compares numbers.
        build: Makes what is updated by batches and then computed; takes the number of classes, or None.
        min_classes: Fewest classes that it makes sense for.
    """

    higher_is_better: bool
    classes: bool
    build: Callable[[Any], Any]
    min_classes: int = 2

    def better(self, value: float, than: float | None, min_delta: float = 0.0) -> bool:
        """Tell whether ``value`` gains more than ``min_delta`` on ``than``; NaN never does."""
        if than is None:
            return value == value  # noqa: PLR0124 - false for NaN only
        gain = value - than if self.higher_is_better else than - value
        return gain > min_delta

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch to what ``build`` made."""
        if self.classes:
            state.update(outputs, targets.argmax(1) if targets.is_floating_point() else targets)
        else:
            # One column for each number of a sample, over which is averaged.
            state.update(_columns(outputs).double(), _columns(targets).double())

    def can_judge(self, outputs: Tensor) -> Tensor:
        """Tell whether ``outputs`` can be judged, shape (): numbers must be finite.

        A class may be ruled out by a logit of minus infinity, as long as another is not.
        """
        judged = outputs.amax(1) if self.classes else outputs
        return judged.isfinite().all()


class _Summed:
    """A metric of what each batch gives, summed.

    Args:
        of_batch: Outputs and targets to what is summed.
        result: The sum to the metric.
    """

    def __init__(
        self, of_batch: Callable[[Tensor, Tensor], Tensor], result: Callable[[Tensor], Tensor]
    ) -> None:
        self._of_batch, self._result = of_batch, result
        self._sum: Tensor | None = None

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch."""
        found = self._of_batch(outputs, targets)
        self._sum = found if self._sum is None else self._sum + found

    def compute(self) -> Tensor:
        """Return the metric over all batches."""
        if self._sum is None:
            raise RuntimeError("no batch was added")
        return self._result(self._sum)


class _R2:
    """Coefficient of determination, the mean over columns.

    A sum of squares loses all digits where the numbers have an offset. So the first sample is subtracted
    before anything is summed: it lies as near to the others as they lie to each other.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: Tensor | None = None
        self._sum = self._squares = self._residual = torch.zeros((), dtype=torch.float64)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add a batch, (B,) or (B, K) float64 each."""
        if self._first is None:
            self._first = targets[0].clone()
        shifted = targets - self._first
        self._count += len(targets)
        self._sum = self._sum + shifted.sum(0)
        self._squares = self._squares + shifted.square().sum(0)
        self._residual = self._residual + (targets - outputs).square().sum(0)

    def compute(self) -> Tensor:
        """Return what the targets' spread is explained to; without any spread 1 if all is right, or 0."""
        spread = self._squares - self._sum.square() / self._count
        without = (self._residual == 0).double()
        return torch.where(spread > 0, 1 - self._residual / spread, without).mean()


def _of_counted(counted: Callable[[Tensor, Tensor], Tensor]) -> _Summed:
    """Return the mean over all numbers that ``counted`` gives for a batch."""

    def of_batch(outputs: Tensor, targets: Tensor) -> Tensor:
        found = counted(outputs, targets)
        total = found.sum()
        return torch.stack([total, torch.full_like(total, found.numel())])

    def mean(total: Tensor) -> Tensor:
        # Whole numbers become float32, in which shares of samples have always been told.
        total = total if total.is_floating_point() else total.float()
        return total[0] / total[1]

    return _Summed(of_batch, mean)


def _accuracy(_: int) -> _Summed:
    return _of_counted(lambda outputs, targets: outputs.argmax(1) == targets)


def _top5_accuracy(_: int) -> _Summed:
    return _of_counted(
        lambda outputs, targets: (outputs.topk(TOP_K, dim=1).indices == targets.unsqueeze(1)).any(1)
    )


def _f1(num_classes: int) -> _Summed:
    """Return the mean of the classes' F1, of those that were predicted or are there."""

    def of_batch(outputs: Tensor, targets: Tensor) -> Tensor:
        classes = torch.arange(num_classes, device=outputs.device)
        predicted = outputs.argmax(1, keepdim=True) == classes
        actual = targets.unsqueeze(1) == classes
        return torch.stack([each.sum(0) for each in (predicted & actual, predicted, actual)])

    def mean(total: Tensor) -> Tensor:
        hits, predicted, actual = total
        seen = (predicted + actual > 0).float()
        # Both are 0 where a class was never seen.
        scores = 2.0 * hits / (predicted + actual).float().clamp(min=1.0)
        each: Tensor = seen * scores / seen.sum()
        return each.sum()

    return _Summed(of_batch, mean)


def _mse(_: None) -> _Summed:
    return _of_counted(lambda outputs, targets: ((outputs - targets) * (outputs - targets)).reshape(-1))


def _mae(_: None) -> _Summed:
    return _of_counted(lambda outputs, targets: (outputs - targets).abs().reshape(-1))


def _r2(_: None) -> _R2:
    return _R2()


#: Names in a job to metrics.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(higher_is_better=True, classes=True, build=_accuracy),
    "f1": Metric(higher_is_better=True, classes=True, build=_f1),
    "mae": Metric(higher_is_better=False, classes=False, build=_mae),
    "mse": Metric(higher_is_better=False, classes=False, build=_mse),
    "r2": Metric(higher_is_better=True, classes=False, build=_r2),
    "top5_accuracy": Metric(higher_is_better=True, classes=True, build=_top5_accuracy, min_classes=TOP_K + 1),
}


def _columns(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.reshape(len(values), -1).squeeze(1)
