"""Losses by name, and how a plugin's change to the loss is joined to the graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ..hooks.types import LossScale, LossTerm


class Loss(Protocol):
    """A loss, which training minimises."""

    #: True if targets are classes, False if they are numbers of the outputs' shape.
    classes: ClassVar[bool]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """Cross entropy of logits (B, K) with class numbers (B,) or class probabilities (B, K).

    Attributes:
        label_smoothing: Share of each target that is spread over all classes, in [0, 1).
    """

    classes: ClassVar[bool] = True
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return functional.cross_entropy(
            outputs, targets, label_smoothing=self.label_smoothing, reduction="none"
        )


@dataclass(frozen=True, slots=True)
class MSE:
    """Mean squared error."""

    classes: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.mse_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.mse_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class L1:
    """Mean absolute error."""

    classes: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.l1_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.l1_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class Huber:
    """Squared error up to ``delta``, absolute error beyond.

    Attributes:
        delta: Error at which the one becomes the other, above 0.

    Source: Huber 1964, doi:10.1214/aoms/1177703732.
    """

    classes: ClassVar[bool] = False
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"delta is {self.delta}; it must be above 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.huber_loss(outputs, targets, delta=self.delta)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.huber_loss(outputs, targets, delta=self.delta, reduction="none"))


@dataclass(frozen=True, slots=True)
class SmoothL1:
    """Huber's loss divided by ``beta``, so that large errors keep slope 1.

    Attributes:
        beta: Error at which it stops being squared, above 0.

    Source: Girshick 2015, equation 3, arXiv:1504.08083.
    """

    classes: ClassVar[bool] = False
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.smooth_l1_loss(outputs, targets, beta=self.beta)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.smooth_l1_loss(outputs, targets, beta=self.beta, reduction="none"))


#: Names in a job to losses; the options are the fields.
LOSSES: dict[str, type[Loss]] = {
    "cross_entropy": CrossEntropy,
    "huber": Huber,
    "l1": L1,
    "mse": MSE,
    "smooth_l1": SmoothL1,
}


def apply_changes(changes: Iterable[LossTerm | LossScale], loss: Tensor, outputs: Tensor) -> Tensor:
    """Return ``loss`` as plugins changed it, joined to the graph of ``outputs``.

    Args:
        changes: In order, each on the result of the one before.
        loss: Shape (), on the graph.
        outputs: What the terms' gradients refer to, on the graph.
    """
    for change in changes:
        if isinstance(change, LossScale):
            loss = loss * change.factor
        else:
            gradient = change.gradient.to(outputs.device, non_blocking=True)
            loss = _AddTerm.apply(loss, outputs, change.value, gradient)  # type: ignore[no-untyped-call]
    return loss


class _AddTerm(torch.autograd.Function):
    """``loss + value``, whose gradient with respect to the outputs is given."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, outputs: Tensor, value: float, gradient: Tensor) -> Tensor:  # noqa: ARG004 - outputs ties the term to the graph
        ctx.save_for_backward(gradient)
        return loss + value

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        (grad_loss,) = grad_outputs
        (gradient,) = ctx.saved_tensors
        return grad_loss, gradient * grad_loss, None, None


def _by_sample(losses: Tensor) -> Tensor:
    return losses.reshape(len(losses), -1).mean(1)
