"""Losses by name, and how a plugin's change to the loss is joined to the graph."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..hooks.types import LossScale, LossTerm
from ..tensors.first_wrong import first_wrong


class Loss(ABC):
    """A loss, which training minimises."""

    __slots__ = ()

    #: True if targets are classes, False if they are numbers of the outputs' shape.
    classes: ClassVar[bool]

    @abstractmethod
    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""

    @abstractmethod
    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""

    def weight(self, targets: Tensor) -> float:
        """Return what the mean over a batch was divided by, by which means of batches are averaged."""
        return len(targets)

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - for those that need them
        """Say why it cannot be computed for such targets, or return ``""``."""
        return ""

    @property
    def is_by_sample(self) -> bool:
        """Whether a batch weighs as many as it has samples, whatever they are."""
        return type(self).weight is Loss.weight


@dataclass(frozen=True, slots=True)
class CrossEntropy(Loss):
    """Cross entropy of logits (B, K) with class numbers (B,) or class probabilities (B, K).

    Attributes:
        label_smoothing: Share of each target that is spread over all classes, in [0, 1).
        class_weights: By how much the samples of each class count, one number above 0 a class; the mean
            is over these, as torch's is. By default each counts 1.
    """

    classes: ClassVar[bool] = True
    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")
        _check_weights("class_weights", self.class_weights)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.cross_entropy(
            outputs, targets, _weights(self.class_weights, outputs), label_smoothing=self.label_smoothing
        )

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,), times the weight of its class."""
        return functional.cross_entropy(
            outputs,
            targets,
            _weights(self.class_weights, outputs),
            label_smoothing=self.label_smoothing,
            reduction="none",
        )

    def weight(self, targets: Tensor) -> float:
        """Return the sum of the weights of the batch's classes; its size, of class probabilities."""
        if self.class_weights is None or targets.is_floating_point():
            return len(targets)
        return float(torch.tensor(self.class_weights, dtype=torch.float64)[targets.cpu()].sum())

    @property
    def is_by_sample(self) -> bool:
        """Whether no class has a weight of its own."""
        return self.class_weights is None

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - of the classes alone
        """Say so if there are other classes than weights."""
        given = self.class_weights
        if given is None or len(given) == num_classes:
            return ""
        return f"has class_weights for {len(given)} classes, and the data have {num_classes}; name one each"


@dataclass(frozen=True, slots=True)
class Focal(Loss):
    """Cross entropy in which a sample counts the less, the surer the model is of its class.

    Attributes:
        gamma: Power of the probability that is missing, by which it counts; 0 is plain cross entropy.

    Source: Lin et al. 2017, equation 4, arXiv:1708.02002.
    """

    classes: ClassVar[bool] = True
    gamma: float = 2.0

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}; it must be at least 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return self.per_sample(outputs, targets).mean()

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        logs = outputs.log_softmax(1)
        # As logarithms: what is missing from a probability close to one has no digits left as a difference.
        losses = -(self.gamma * _log_of_rest(logs)).exp() * logs
        if targets.is_floating_point():
            return (targets * losses).sum(1)
        return losses.gather(1, targets[:, None]).squeeze(1)


@dataclass(frozen=True, slots=True)
class BCE(Loss):
    """Binary cross entropy of logits (B, K) with as many labels, each from 0 to 1: a sample may have several.

    Attributes:
        pos_weight: By how much a label that is there counts, one number above 0 a label. By default 1.
    """

    classes: ClassVar[bool] = False
    pos_weight: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _check_weights("pos_weight", self.pos_weight)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch and its labels, shape ()."""
        return functional.binary_cross_entropy_with_logits(
            outputs, targets, pos_weight=_weights(self.pos_weight, outputs)
        )

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(
            functional.binary_cross_entropy_with_logits(
                outputs, targets, pos_weight=_weights(self.pos_weight, outputs), reduction="none"
            )
        )

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - of the labels alone
        """Say so if targets are no labels, or not as many as weights."""
        outside = (targets < 0) | (targets > 1)
        if outside.any():
            sample, number = first_wrong(targets, outside)
            return f"needs targets from 0 to 1, and sample {sample}, counted from 0, has {number:g}"
        labels = targets.shape[-1]
        if self.pos_weight is not None and len(self.pos_weight) != labels:
            return f"has pos_weight for {len(self.pos_weight)} labels, and the data have {labels}"
        return ""


@dataclass(frozen=True, slots=True)
class MSE(Loss):
    """Mean squared error."""

    classes: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.mse_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.mse_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class L1(Loss):
    """Mean absolute error."""

    classes: ClassVar[bool] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.l1_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return _by_sample(functional.l1_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class Huber(Loss):
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
class SmoothL1(Loss):
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
    "bce": BCE,
    "cross_entropy": CrossEntropy,
    "focal": Focal,
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


def _check_weights(name: str, weights: Sequence[float] | None) -> None:
    if weights is None:
        return
    if not weights or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"{name} is {list(weights)}; it must be one number above 0 for each")


def _weights(weights: Sequence[float] | None, outputs: Tensor) -> Tensor | None:
    return None if weights is None else outputs.new_tensor(weights)


def _log_of_rest(logs: Tensor) -> Tensor:
    """Return the logarithms of one less the numbers that ``logs`` are of, each below 0.

    Source: Maechler 2012, "Accurately computing log(1 - exp(-|a|))".
    """
    below = logs.clamp(max=-torch.finfo(logs.dtype).tiny)
    near_one = below > -math.log(2)
    # Each branch is given numbers of its own only: the gradient of the other would not be finite.
    of_small = torch.log(-torch.expm1(torch.where(near_one, below, -1.0)))
    of_large = torch.log1p(-torch.exp(torch.where(near_one, -1.0, below)))
    return torch.where(near_one, of_small, of_large)


def _by_sample(losses: Tensor) -> Tensor:
    return losses.reshape(len(losses), -1).mean(1)
