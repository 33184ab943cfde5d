"""Metrics by name: torchmetrics', on numbers in float64."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from ..hooks.types import IGNORED
from .data import Dataset
from .parts import Key

TOP_K = 5
#: The metric that is the loss itself.
LOSS = "loss"
_TABLE_DIMS = 2
_HALF = 0.5


@dataclass(frozen=True, slots=True)
class TargetForm:
    """The form of targets, which metrics are made for.

    Attributes:
        num_classes: Number of classes; None of numbers and labels, and of trees.
        columns: Numbers of a sample, where targets are (N,) or (N, K) of those; 1 elsewhere.
        at_positions: Whether there is a class at each position of a sample.
    """

    num_classes: int | None = None
    columns: int = 1
    at_positions: bool = False

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        """Return that of a data set."""
        targets = dataset.targets
        if not isinstance(targets, Tensor):
            return cls(dataset.num_classes)
        is_table = dataset.num_classes is None and targets.dim() == _TABLE_DIMS
        return cls(dataset.num_classes, targets.shape[1] if is_table else 1, dataset.at_positions)


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric, by which evaluation and early stopping judge.

    Attributes:
        higher_is_better: Direction.
        classes: True if it compares classes, False if it compares numbers, None if it takes either.
        build: Makes an empty object of torchmetrics' interface; takes the form of the targets, and options
            by keyword. None: it is the loss itself.
        min_classes: Fewest classes that it makes sense for.
        labels: True if it compares labels, of which a sample may have several: of logits above 0, or targets
            of at least 0.5.
        output: Which part of the outputs it takes; None: all.
        target: Likewise, of the targets.
    """

    higher_is_better: bool
    classes: bool | None
    build: Callable[..., Any] | None
    min_classes: int = 2
    labels: bool = False
    output: Key = None
    target: Key = None

    def better(self, value: float, than: float | None, min_delta: float = 0.0) -> bool:
        """Tell whether ``value`` gains more than ``min_delta`` on ``than``; what is not finite never does."""
        if than is None or not math.isfinite(value):
            return math.isfinite(value)
        gain = value - than if self.higher_is_better else than - value
        return gain > min_delta

    def made_for(self, form: TargetForm, outputs: Any, targets: Any) -> Any:
        """Return an empty object for outputs and targets as a first batch has them.

        Args:
            form: Of all targets.
            outputs: What ``update`` is given.
            targets: Likewise.
        """
        assert self.build is not None  # noqa: S101 - the loss needs no object
        if self.classes and form.num_classes is None:
            # A part of a tree, of whose classes the data say nothing.
            form = TargetForm(outputs.shape[1], at_positions=targets.dim() > 1)
        return self.build(form)

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch to what ``build`` made.

        Args:
            state: That.
            outputs: Of classes logits (B, K, …), else numbers of the targets' shape.
            targets: Of classes (B, …) int64 or (B, K, …) probabilities.
        """
        if self.labels:
            state.update(*self._labels(outputs, targets))
        elif self.classes:
            rows = _in_rows(outputs, targets.argmax(1) if targets.is_floating_point() else targets)
            # torchmetrics takes no batch of nothing.
            if len(rows[1]):
                state.update(*rows)
        else:
            # One column for each number of a sample, over which is averaged.
            state.update(_columns(outputs).double(), _columns(targets).double())

    def can_judge(self, outputs: Tensor) -> Tensor:
        """Tell whether ``outputs`` can be judged, shape (): numbers must be finite.

        A class may be ruled out by a logit of minus infinity, as long as another is not.
        """
        judged = outputs.amax(1) if self.classes else outputs
        return judged.isfinite().all()

    def value(self, state: Any) -> float:
        """Return what a state has come to; NaN if nothing counted."""
        if getattr(state, "update_called", True) is False:
            return math.nan
        return float(state.compute())

    def _labels(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return (outputs > 0).flatten(), (targets >= _HALF).flatten()


@dataclass(frozen=True, slots=True)
class _Ranked(Metric):
    """One that looks at probabilities: torchmetrics would guess from a batch whether logits are such."""

    def update(self, state: Any, outputs: Tensor, targets: Tensor) -> None:
        """Add one batch."""
        chances = outputs.double().sigmoid() if self.labels else outputs.double().softmax(1)
        Metric.update(self, state, chances, targets)

    def _labels(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        return outputs.flatten(), (targets >= _HALF).long().flatten()


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


Average = Literal["macro", "micro", "weighted"]


def _accuracy(form: TargetForm, *, top_k: Annotated[int, Field(ge=1)] = 1) -> Any:
    """Make it.

    Args:
        form: Of the targets.
        top_k: Among so many classes with the largest logits the right one must be.
    """
    from torchmetrics.classification import MulticlassAccuracy  # noqa: PLC0415

    return MulticlassAccuracy(form.num_classes, top_k=top_k, average="micro", validate_args=False)


def _top5_accuracy(form: TargetForm) -> Any:
    return _accuracy(form, top_k=TOP_K)


def _binary(name: str) -> Callable[[TargetForm], Any]:
    def build(_: TargetForm) -> Any:
        from torchmetrics import classification  # noqa: PLC0415

        return getattr(classification, name)(validate_args=False)

    return build


def _multiclass(name: str) -> Callable[..., Any]:
    def build(form: TargetForm, *, average: Average = "macro") -> Any:
        """Make it.

        Args:
            form: Of the targets.
            average: Over classes alike, over all samples or positions, or over classes by their share.
        """
        from torchmetrics import classification  # noqa: PLC0415

        return getattr(classification, name)(form.num_classes, average=average, validate_args=False)

    return build


def _auroc(form: Any, *, thresholds: Annotated[int, Field(ge=2)] | None = None) -> Any:
    """Make it.

    Args:
        form: Of the targets.
        thresholds: At so many the curve is known, which takes little memory; by default at all that differ.
    """
    from torchmetrics.classification import MulticlassAUROC  # noqa: PLC0415

    return MulticlassAUROC(form.num_classes, thresholds=thresholds, validate_args=False)


def _binary_auroc(form: TargetForm, *, thresholds: Annotated[int, Field(ge=2)] | None = None) -> Any:  # noqa: ARG001 - as the others
    """Make it.

    Args:
        form: Of the targets.
        thresholds: At so many the curve is known, which takes little memory; by default at all that differ.
    """
    from torchmetrics.classification import BinaryAUROC  # noqa: PLC0415

    return BinaryAUROC(thresholds=thresholds, validate_args=False)


class _Perplexity:
    """Two to the mean cross entropy in bits. Not torchmetrics': it takes the logarithm of probabilities.

    Those of a token that a model rules out are 0 in float64 already, which is no number any more.
    """

    def __init__(self) -> None:
        self._sum, self._count = torch.zeros((), dtype=torch.float64), 0

    def to(self, device: torch.device) -> _Perplexity:
        """Count on ``device``."""
        self._sum = self._sum.to(device)
        return self

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Add logits (N, K) and class numbers (N,)."""
        self._sum = self._sum + functional.cross_entropy(outputs.double(), targets, reduction="sum")
        self._count += len(targets)

    def compute(self) -> Tensor:
        """Return it; NaN of no tokens."""
        return (self._sum / self._count).exp() if self._count else self._sum / 0


def _perplexity(_: TargetForm) -> Any:
    return _Perplexity()


def _mse(_: TargetForm) -> Any:
    from torchmetrics.regression import MeanSquaredError  # noqa: PLC0415

    return MeanSquaredError().set_dtype(torch.float64)


def _mae(_: TargetForm) -> Any:
    from torchmetrics.regression import MeanAbsoluteError  # noqa: PLC0415

    return MeanAbsoluteError().set_dtype(torch.float64)


def _r2(_: TargetForm) -> Any:
    return _R2()


def _of_classes(build: Callable[..., Any], **more: Any) -> Metric:
    return Metric(higher_is_better=True, classes=True, build=build, **more)


def _of_labels(build: Callable[..., Any]) -> Metric:
    return Metric(higher_is_better=True, classes=False, build=build, labels=True)


#: Names in a job to metrics; the options are the keyword parameters of what builds them.
METRICS: dict[str, Metric] = {
    "accuracy": _of_classes(_accuracy),
    "auroc": _Ranked(higher_is_better=True, classes=True, build=_auroc),
    "binary_accuracy": _of_labels(_binary("BinaryAccuracy")),
    "binary_auroc": _Ranked(higher_is_better=True, classes=False, build=_binary_auroc, labels=True),
    "binary_f1": _of_labels(_binary("BinaryF1Score")),
    "binary_precision": _of_labels(_binary("BinaryPrecision")),
    "binary_recall": _of_labels(_binary("BinaryRecall")),
    "dice": _of_classes(_multiclass("MulticlassF1Score")),
    "f1": _of_classes(_multiclass("MulticlassF1Score")),
    "iou": _of_classes(_multiclass("MulticlassJaccardIndex")),
    LOSS: Metric(higher_is_better=False, classes=None, build=None),
    "mae": Metric(higher_is_better=False, classes=False, build=_mae),
    "mse": Metric(higher_is_better=False, classes=False, build=_mse),
    "perplexity": Metric(higher_is_better=False, classes=True, build=_perplexity),
    "precision": _of_classes(_multiclass("MulticlassPrecision")),
    "r2": Metric(higher_is_better=True, classes=False, build=_r2),
    "recall": _of_classes(_multiclass("MulticlassRecall")),
    "top5_accuracy": _of_classes(_top5_accuracy, min_classes=TOP_K + 1),
}


def _in_rows(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits (M, K) and class numbers (M,) of all positions that count."""
    if targets.dim() == 1:
        return outputs, targets
    counted = targets != IGNORED
    return outputs.movedim(1, -1)[counted], targets[counted]


def _columns(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.reshape(len(values), -1).squeeze(1)
