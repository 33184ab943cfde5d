"""Losses by name, and how a plugin's change to the loss is joined to the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from ..hooks.trees import tensors_of
from ..hooks.types import IGNORED, LossScale, LossTerm
from ..tensors.first_wrong import first_wrong
from ..tensors.tree_form import tensors_within
from .loss import Loss, by_sample
from .model_loss import ModelLoss
from .task_losses import CTC, Cosine, Dice, InfoNCE


class _OfClasses(Loss):
    """A loss of classes, one a sample or one at each position of it."""

    __slots__ = ()
    classes: ClassVar[bool | None] = True
    ignore_index: int
    class_dim: int

    def weight(self, targets: Tensor) -> float:
        """Return how many samples or positions count."""
        if self.is_by_sample(targets):
            return len(targets)
        return float(self._counted(targets).sum())

    def is_by_sample(self, targets: Tensor) -> bool:
        """Whether all samples count as much, which positions that do not count would change."""
        return targets.is_floating_point() or (targets.dim() == 1 and self.ignore_index == IGNORED)

    def outputs_shape(self, outputs: Tensor, targets: Tensor, num_classes: int | None) -> tuple[int, ...]:
        """Return (B, K, …) or, where classes come last, (B, …, K)."""
        if targets.is_floating_point():
            return tuple(targets.shape)
        first, *positions = targets.shape
        classes = num_classes or (outputs.shape[self.class_dim] if outputs.dim() > 1 else 1)
        return (first, classes, *positions) if self.class_dim == 1 else (first, *positions, classes)

    def hint(self, outputs: Tensor, targets: Tensor, num_classes: int | None) -> str:
        """Name the option that tells where the classes lie, if they lie there."""
        other = replace(self, class_dim=-self.class_dim)  # type: ignore[type-var]
        if tuple(outputs.shape) != other.outputs_shape(outputs, targets, num_classes):
            return ""
        place = "last" if self.class_dim == 1 else "second"
        return f"Its classes come {place}: say so by the option class_dim: {other.class_dim}"

    def _counted(self, targets: Tensor) -> Tensor:
        return targets != self.ignore_index

    def _mean_of_samples(self, losses: Tensor, targets: Tensor) -> Tensor:
        """Return the mean of each sample over the positions that count, (B,) of (B, …)."""
        if losses.dim() == 1:
            return losses
        if targets.is_floating_point():
            return by_sample(losses)
        counts = self._counted(targets).flatten(1).sum(1)
        return losses.flatten(1).sum(1) / counts.clamp(min=1)

    def _check_class_dim(self) -> None:
        if self.class_dim not in {1, -1}:
            raise ValueError(f"class_dim is {self.class_dim}; it must be 1 or -1")


@dataclass(frozen=True, slots=True)
class CrossEntropy(_OfClasses):
    """Cross entropy of logits (B, K, …) with class numbers (B, …) or class probabilities (B, K, …).

    The mean is over all samples, or all of their positions, that count.

    Attributes:
        label_smoothing: Share of each target that is spread over all classes, in [0, 1).
        class_weights: By how much the samples of each class count, one number above 0 a class; the mean
            is over these, as torch's is. By default each counts 1.
        ignore_index: Class number of positions that do not count.
        class_dim: Where the classes lie in the outputs: 1, or -1 for (B, …, K), as language models return.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None
    ignore_index: int = IGNORED
    class_dim: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is {self.label_smoothing}; it must lie in [0, 1)")
        _check_weights("class_weights", self.class_weights)
        self._check_class_dim()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        if self.class_dim == -1:
            outputs, targets = _in_rows(outputs, targets)
        return functional.cross_entropy(
            outputs,
            targets,
            _weights(self.class_weights, outputs),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
        )

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,), times the weight of its class."""
        if self.class_dim == -1:
            outputs = outputs.movedim(-1, 1)
            targets = targets.movedim(-1, 1) if targets.is_floating_point() else targets
        losses = functional.cross_entropy(
            outputs,
            targets,
            _weights(self.class_weights, outputs),
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        return self._mean_of_samples(losses, targets)

    def weight(self, targets: Tensor) -> float:
        """Return the sum of the weights of the classes that count; the number of those without weights."""
        if self.class_weights is None or targets.is_floating_point():
            return _OfClasses.weight(self, targets)
        targets = targets.cpu()
        counted = targets[self._counted(targets)]
        return float(torch.tensor(self.class_weights, dtype=torch.float64)[counted].sum())

    def is_by_sample(self, targets: Tensor) -> bool:
        """Whether all samples count as much: no class has a weight, and no position is left out."""
        return self.class_weights is None and _OfClasses.is_by_sample(self, targets)

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - of the classes alone
        """Say so if there are other classes than weights."""
        given = self.class_weights
        if given is None or num_classes is None or len(given) == num_classes:
            return ""
        return f"has class_weights for {len(given)} classes, and the data have {num_classes}; name one each"


@dataclass(frozen=True, slots=True)
class Focal(_OfClasses):
    """Cross entropy in which a sample counts the less, the surer the model is of its class.

    Attributes:
        gamma: Power of the probability that is missing, by which it counts; 0 is plain cross entropy.
        ignore_index: Class number of positions that do not count.
        class_dim: Where the classes lie in the outputs: 1, or -1 for (B, …, K).

    Source: Lin et al. 2017, equation 4, arXiv:1708.02002.
    """

    gamma: float = 2.0
    ignore_index: int = IGNORED
    class_dim: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"gamma is {self.gamma}; it must be at least 0")
        self._check_class_dim()

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        losses = self._losses(outputs, targets)
        if self.is_by_sample(targets):
            return losses.mean()
        return losses.sum() / self._counted(targets).sum().clamp(min=1)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return self._mean_of_samples(self._losses(outputs, targets), targets)

    def _losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample or position, (B, …)."""
        dim = self.class_dim
        logs = outputs.log_softmax(dim)
        # As logarithms: what is missing from a probability close to one has no digits left as a difference.
        losses = -(self.gamma * _log_of_rest(logs)).exp() * logs
        if targets.is_floating_point():
            return (targets * losses).sum(dim)
        if self.is_by_sample(targets):
            return losses.gather(dim, targets.unsqueeze(dim)).squeeze(dim)
        counted = self._counted(targets)
        chosen = losses.gather(dim, targets.where(counted, 0).unsqueeze(dim)).squeeze(dim)
        return chosen.where(counted, 0.0)


@dataclass(frozen=True, slots=True)
class BCE(Loss):
    """Binary cross entropy of logits (B, K, …) with as many labels, from 0 to 1: several may be there.

    Attributes:
        pos_weight: By how much a label that is there counts, one number above 0 a label. By default 1.
    """

    classes: ClassVar[bool | None] = False
    pos_weight: Sequence[float] | None = None

    def __post_init__(self) -> None:
        _check_weights("pos_weight", self.pos_weight)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch and its labels, shape ()."""
        return functional.binary_cross_entropy_with_logits(
            outputs, targets, pos_weight=_label_weights(self.pos_weight, outputs)
        )

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return by_sample(
            functional.binary_cross_entropy_with_logits(
                outputs, targets, pos_weight=_label_weights(self.pos_weight, outputs), reduction="none"
            )
        )

    def misfit(self, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - of the labels alone
        """Say so if targets are no labels, or not as many as weights."""
        outside = (targets < 0) | (targets > 1)
        if outside.any():
            sample, number = first_wrong(targets, outside)
            return f"needs targets from 0 to 1, and sample {sample}, counted from 0, has {number:g}"
        labels = targets.shape[1] if targets.dim() > 1 else 1
        if self.pos_weight is not None and len(self.pos_weight) != labels:
            return f"has pos_weight for {len(self.pos_weight)} labels, and the data have {labels}"
        return ""


@dataclass(frozen=True, slots=True)
class MSE(Loss):
    """Mean squared error."""

    classes: ClassVar[bool | None] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.mse_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return by_sample(functional.mse_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class L1(Loss):
    """Mean absolute error."""

    classes: ClassVar[bool | None] = False

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.l1_loss(outputs, targets)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return by_sample(functional.l1_loss(outputs, targets, reduction="none"))


@dataclass(frozen=True, slots=True)
class Huber(Loss):
    """Squared error up to ``delta``, absolute error beyond.

    Attributes:
        delta: Error at which the one becomes the other, above 0.

    Source: Huber 1964, doi:10.1214/aoms/1177703732.
    """

    classes: ClassVar[bool | None] = False
    delta: float = 1.0

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise ValueError(f"delta is {self.delta}; it must be above 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.huber_loss(outputs, targets, delta=self.delta)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return by_sample(functional.huber_loss(outputs, targets, delta=self.delta, reduction="none"))


@dataclass(frozen=True, slots=True)
class SmoothL1(Loss):
    """Huber's loss divided by ``beta``, so that large errors keep slope 1.

    Attributes:
        beta: Error at which it stops being squared, above 0.

    Source: Girshick 2015, equation 3, arXiv:1504.08083.
    """

    classes: ClassVar[bool | None] = False
    beta: float = 1.0

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise ValueError(f"beta is {self.beta}; it must be above 0")

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        return functional.smooth_l1_loss(outputs, targets, beta=self.beta)

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,)."""
        return by_sample(functional.smooth_l1_loss(outputs, targets, beta=self.beta, reduction="none"))


#: Names in a job to losses; the options are the fields.
LOSSES: dict[str, type[Loss]] = {
    "bce": BCE,
    "cosine": Cosine,
    "cross_entropy": CrossEntropy,
    "ctc": CTC,
    "dice": Dice,
    "focal": Focal,
    "huber": Huber,
    "info_nce": InfoNCE,
    "l1": L1,
    "model": ModelLoss,
    "mse": MSE,
    "smooth_l1": SmoothL1,
}


def apply_changes(changes: Iterable[LossTerm | LossScale], loss: Tensor, outputs: Any) -> Tensor:
    """Return ``loss`` as plugins changed it, joined to the graph of ``outputs``.

    Args:
        changes: In order, each on the result of the one before.
        loss: Shape (), on the graph.
        outputs: What the model returned, on the graph; the terms' gradients refer to its tensors.
    """
    for change in changes:
        if isinstance(change, LossScale):
            loss = loss * change.factor
        else:
            value, gradients = change.value, tensors_of(change.gradient)
            for tensor, gradient in zip(tensors_of(tensors_within(outputs)), gradients, strict=True):
                if tensor.requires_grad:
                    there = gradient.to(tensor.device, non_blocking=True)
                    loss = _AddTerm.apply(loss, tensor, value, there)  # type: ignore[no-untyped-call]
                    value = 0.0
            # Of outputs without a gradient there is nothing to join.
            loss = loss + value if value else loss
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


def _label_weights(weights: Sequence[float] | None, outputs: Tensor) -> Tensor | None:
    """Return the weights so that they meet the labels in (B, K, …), whatever comes after them."""
    made = _weights(weights, outputs)
    return made if made is None or outputs.dim() == 1 else made.view(-1, *(1,) * (outputs.dim() - 2))


def _in_rows(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits (N, K) and class numbers (N,), or probabilities (N, K), of ones with the classes last."""
    rows = outputs.reshape(-1, outputs.shape[-1])
    return rows, targets.reshape(rows.shape) if targets.is_floating_point() else targets.reshape(-1)


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
