"""Metrics by name: torchmetrics', on numbers in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

TOP_K = 5
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, by which evaluation and early stopping judge.

    Attributes:
        higher_is_better: Direction.
        classes: True if it compares classes, False if it compares numbers.
        build: Makes an empty object of torchmetrics' interface; takes the number of classes, or None.
        min_classes: Fewest classes that it makes sense for.
        labels: True if it compares labels, of which a sample may have several: of logits above 0, or targets
            of at least 0.5.
    """

    higher_is_better: bool
    classes: bool
    build: Callable[[Any], Any]
    min_classes: int = 2
    labels: bool = False

    def better(self, value: float, than: float | None, min_delta: float = 0.0) -> bool:
        """Tell whether ``value`` gains more than ``min_delta`` on ``than``; NaN never does."""
        if than is None:
            return value == value  # noqa: PLR0124 - false for NaN only
        gain = value - than if self.higher_is_better else than - value
        return gain > min_delta

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch to what ``build`` made."""
        if self.labels:
            state.update((outputs > 0).flatten(), (targets >= _HALF).flatten())
        elif self.classes:
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


class _R2:
    """Coefficient of determination, the mean over columns.

    Not torchmetrics': the sum of squares that it subtracts from loses all digits where the numbers have an
    offset, and a spread below 1e-4 is none to it. Here the first sample is subtracted before anything is
    summed: it lies as near to the others as they lie to each other.
    """

    def __init__(self) -> None:
        self._count = 0
        self._first: Tensor | None = None
        self._sum = self._squares = self._residual = torch.zeros((), dtype=torch.float64)

    def to(self, device: torch.device) -> _R2:
        """Count on ``device``."""
        self._sum = self._squares = self._residual = self._sum.to(device)
        return self

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


# torchmetrics takes 0.4 s to import, most of it for matplotlib, and where there is a scipy 0.6 s more: so it
# is imported by the runs that evaluate, not by every command.


def _accuracy(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415

    return MulticlassAccuracy(num_classes, average="micro", validate_args=False)


def _top5_accuracy(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415

    return MulticlassAccuracy(num_classes, top_k=TOP_K, average="micro", validate_args=False)


def _binary_accuracy(_: None) -> Any:
    from torchmetrics.classification import BinaryAccuracy  # noqa: PLC0415

    return BinaryAccuracy(validate_args=False)


def _binary_f1(_: None) -> Any:
    from torchmetrics.classification import BinaryF1Score  # noqa: PLC0415

    return BinaryF1Score(validate_args=False)


def _f1(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassF1Score  # noqa: PLC0415

    return MulticlassF1Score(num_classes, average="macro", validate_args=False)


def _mse(_: None) -> Any:
    from torchmetrics.regression import MeanSquaredError  # noqa: PLC0415

    return MeanSquaredError().set_dtype(torch.float64)


def _mae(_: None) -> Any:
    from torchmetrics.regression import MeanAbsoluteError  # noqa: PLC0415

    return MeanAbsoluteError().set_dtype(torch.float64)


def _r2(_: None) -> Any:
    return _R2()


#: Names in a job to metrics.
METRICS: dict[str, Metric] = {
    "accuracy": Metric(higher_is_better=True, classes=True, build=_accuracy),
    "binary_accuracy": Metric(higher_is_better=True, classes=False, build=_binary_accuracy, labels=True),
    "binary_f1": Metric(higher_is_better=True, classes=False, build=_binary_f1, labels=True),
    "f1": Metric(higher_is_better=True, classes=True, build=_f1),
    "mae": Metric(higher_is_better=False, classes=False, build=_mae),
    "mse": Metric(higher_is_better=False, classes=False, build=_mse),
    "r2": Metric(higher_is_better=True, classes=False, build=_r2),
    "top5_accuracy": Metric(higher_is_better=True, classes=True, build=_top5_accuracy, min_classes=TOP_K + 1),
}


def _columns(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.reshape(len(values), -1).squeeze(1)
