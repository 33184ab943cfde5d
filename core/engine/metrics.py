"""Metrics by name, computed by torchmetrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

TOP_K = 5


@dataclass(frozen=True, slots=True)
class Metric:
    """What evaluation and early stopping judge by.

    Attributes:
        higher_is_better: Direction.
        classes: True if it compares classes, False if it compares numbers.
        build: Makes an empty torchmetrics object; takes the number of classes, or None.
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
        """Add one batch to the torchmetrics object ``state``."""
        if self.classes:
            state.update(outputs, targets.argmax(1) if targets.is_floating_point() else targets)
        else:
            # One column for each number of a sample; torchmetrics averages over columns.
            state.update(_columns(outputs), _columns(targets))


# torchmetrics takes 1.6 s to import, so it is imported by the runs that evaluate, not by every command.


def _accuracy(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415

    return MulticlassAccuracy(num_classes, average="micro", validate_args=False)


def _top5_accuracy(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415

    return MulticlassAccuracy(num_classes, top_k=TOP_K, average="micro", validate_args=False)


def _f1(num_classes: int) -> Any:
    from torchmetrics.classification import MulticlassF1Score  # noqa: PLC0415

    return MulticlassF1Score(num_classes, average="macro", validate_args=False)


def _mse(_: None) -> Any:
    from torchmetrics.regression import MeanSquaredError  # noqa: PLC0415

    return MeanSquaredError()


def _mae(_: None) -> Any:
    from torchmetrics.regression import MeanAbsoluteError  # noqa: PLC0415

    return MeanAbsoluteError()


def _r2(_: None) -> Any:
    from torchmetrics.regression import R2Score  # noqa: PLC0415

    return R2Score()


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
