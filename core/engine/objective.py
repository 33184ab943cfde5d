"""The objective: the loss that a run minimises, the metric it is judged by, and whether all fits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..hooks.errors import DataError, JobError
from .data import Dataset
from .losses import LOSSES, Loss
from .metrics import METRICS, Metric

_METRIC_TRIAL_SAMPLES = 64


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and the metric of a run.

    Attributes:
        loss: What training minimises.
        metric_name: Key of ``METRICS``, or what ``given_metric`` is called.
        given_metric: One that is none of those.

    Raises:
        JobError: There is no such metric.
    """

    loss: Loss
    metric_name: str
    given_metric: Metric | None = None

    def __post_init__(self) -> None:
        if self.given_metric is None and self.metric_name not in METRICS:
            raise JobError(f"there is no metric '{self.metric_name}'; choose one of {', '.join(METRICS)}")

    @property
    def loss_name(self) -> str:
        """Name of the loss as a job spells it."""
        return next((name for name, cls in LOSSES.items() if type(self.loss) is cls), "loss")

    @property
    def metric(self) -> Metric:
        """The metric."""
        return self.given_metric or METRICS[self.metric_name]

    def check_data(self, dataset: Dataset, part: str = "train", source: str = "") -> None:
        """Check that loss and metric can be computed for ``dataset``.

        Args:
            dataset: Samples.
            part: What they are of the data, for messages.
            source: Where they come from, for messages.

        Raises:
            DataError: They need classes and the data hold numbers, or the reverse.
        """
        for what, name, classes, known in (
            ("loss", self.loss_name, self.loss.classes, {n: c.classes for n, c in LOSSES.items()}),
            ("metric", self.metric_name, self.metric.classes, {n: m.classes for n, m in METRICS.items()}),
        ):
            if classes != (dataset.num_classes is not None):
                fitting = ", ".join(sorted(name for name, c in known.items() if c != classes))
                kind = "classes" if not classes else "a regression"
                raise DataError(f"{what} '{name}' does not fit data of {kind}; choose one of {fitting}")
        if why := self.loss.misfit(dataset.targets, dataset.num_classes):
            raise DataError(f"the {part} data: loss '{self.loss_name}' {why}")
        if dataset.num_classes is not None and dataset.num_classes < self.metric.min_classes:
            if dataset.num_classes == 1:
                # Whatever the metric: there is nothing to learn.
                named = f", '{dataset.class_names[0]}'" if dataset.class_names else ""
                whose = f"'{source}' " if source else ""
                raise DataError(f"data {whose}have one class only{named}; there must be two to tell apart")
            raise DataError(
                f"metric '{self.metric_name}' needs at least {self.metric.min_classes} classes; "
                f"the data have {dataset.num_classes}"
            )

    def try_metric(self, dataset: Dataset) -> None:
        """Compute the metric once for outputs of the right shape; imports what it is made of.

        Raises:
            DataError: It cannot be computed for such data.
        """
        targets = dataset.targets[:_METRIC_TRIAL_SAMPLES]
        outputs = torch.zeros(_outputs_shape(targets, dataset.num_classes))
        try:
            measured = self.metric.build(dataset.num_classes)
            self.metric.update(measured, outputs, targets)
            measured.compute()
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(
                f"metric '{self.metric_name}' cannot be computed for these data: {error}"
            ) from error

    def check_outputs(self, outputs: Any, targets: Tensor, num_classes: int | None) -> None:
        """Check what the model returned for a batch of ``targets``.

        Raises:
            DataError: Type, dtype or shape is not what the loss needs.
        """
        if not isinstance(outputs, Tensor):
            raise DataError(f"the model returned {type(outputs).__name__}; expected one tensor of outputs")
        if not outputs.is_floating_point():
            raise DataError(f"the model returned dtype {outputs.dtype}; expected floating point")
        found = tuple(outputs.shape)
        expected = _outputs_shape(targets, num_classes)
        if found != expected:
            why = (
                "as many outputs as targets"
                if num_classes is None
                else f"one output for each of {num_classes} classes"
            )
            raise DataError(
                f"the model returned shape {found} for a batch of {len(targets)}; loss '{self.loss_name}' "
                f"needs {expected}, {why}. Change the model's last layer or the data's targets"
            )


def _outputs_shape(targets: Tensor, num_classes: int | None) -> tuple[int, ...]:
    return tuple(targets.shape) if num_classes is None else (len(targets), num_classes)
