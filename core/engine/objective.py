"""What a run minimises and what it is judged by, and whether model and data fit them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.errors import DataError, JobError
from .data import Data, Dataset, Normalise
from .losses import LOSSES, Loss
from .metrics import METRICS, Metric
from .rng import kept


@dataclass(frozen=True, slots=True)
class Objective:
    """The loss and the metric of a run.

    Attributes:
        loss: What training minimises.
        metric_name: Key of ``METRICS``.

    Raises:
        JobError: There is no such metric.
    """

    loss: Loss
    metric_name: str

    def __post_init__(self) -> None:
        if self.metric_name not in METRICS:
            raise JobError(f"there is no metric '{self.metric_name}'; choose one of {', '.join(METRICS)}")

    @property
    def loss_name(self) -> str:
        """Name of the loss as a job spells it."""
        return next((name for name, cls in LOSSES.items() if type(self.loss) is cls), "loss")

    @property
    def metric(self) -> Metric:
        """The metric."""
        return METRICS[self.metric_name]

    def check_data(self, dataset: Dataset) -> None:
        """Check that loss and metric can be computed for ``dataset``.

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
        if dataset.num_classes is not None and dataset.num_classes < self.metric.min_classes:
            raise DataError(
                f"metric '{self.metric_name}' needs at least {self.metric.min_classes} classes; "
                f"the data have {dataset.num_classes}"
            )

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
        expected = tuple(targets.shape) if num_classes is None else (len(targets), num_classes)
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


#: What a user's forward raises when something does not fit it; anything else is no matter of shapes.
_MODEL_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def check_fit(
    model: nn.Module, data: Data, objective: Objective, *, samples: int, device: torch.device
) -> None:
    """Check with one forward pass that model, data, loss and metric fit together.

    The pass runs in training mode, where batch norm refuses a batch that is too
    small, and leaves no trace: random states and buffers are put back.

    Args:
        model: On ``device``.
        data: Its first samples are used.
        objective: Loss and metric.
        samples: Size of the smallest batch that training will see.
        device: Where the model is.

    Raises:
        DataError: They do not fit; nothing has been trained.
    """
    objective.check_data(data.train)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise DataError("the model has no parameter that requires a gradient; there is nothing to train")
    batch = data.train.batch(torch.arange(samples))
    normalise = Normalise(data, device)
    with _no_trace(model, device):
        try:
            outputs = model(normalise(batch.inputs.to(device)))
        except _MODEL_FAULTS as error:
            raise DataError(
                f"the model failed on a batch of {samples} with inputs of shape "
                f"{tuple(batch.inputs.shape)}: {type(error).__name__}: {error}. "
                f"{type(model).__name__} does not take this shape: choose a model that does"
                f"{_too_small(samples)}"
            ) from error
    objective.check_outputs(outputs, batch.targets, batch.num_classes)


def _too_small(samples: int) -> str:
    return ", or a batch_size that leaves no batch of one sample at the end" if samples == 1 else ""


@contextlib.contextmanager
def _no_trace(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Run without gradients, then put back random states and buffers."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    try:
        with kept(device), torch.no_grad():
            yield
    finally:
        for name, buffer in model.named_buffers():
            # Constant buffers may be expanded views, which cannot be written to.
            if name in before and not torch.equal(buffer, before[name]):
                buffer.copy_(before[name])
