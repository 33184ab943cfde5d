"""A loss of the user's: a function of what the model returned and of the targets."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..hooks.errors import DataError, JobError, shorten, visible
from ..hooks.trees import map_tensors, tensors_of
from ..tensors.precision import map_within, to_single
from ..tensors.tree_form import tensors_within
from .loss import Loss
from .losses import CrossEntropy

_SHOWN = 60


@dataclass(frozen=True, slots=True)
class GivenLoss(Loss):
    """The mean over a batch as the function computes it, in float32: it may hold weights of that kind.

    Attributes:
        function: Takes what the model returned, and the targets.
        counted: Returns of targets what the mean was divided by; None: their number.
    """

    classes: ClassVar[bool | None] = None
    takes_any: ClassVar[bool] = True
    function: Callable[[Any, Any], Tensor]
    counted: Callable[[Any], Any] | None = None

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean over the batch, shape ()."""
        loss = self.function(map_within(to_single, outputs), map_within(to_single, targets))
        if not isinstance(loss, Tensor) or loss.shape != ():
            found = (
                f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            )
            raise DataError(
                f"the loss returned {found}; expected the mean over the batch, a tensor of shape ()"
            )
        return loss

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each sample, shape (B,), asked for one by one."""
        rows = [slice(i, i + 1) for i in range(len(tensors_of(targets)[0]))]
        return torch.stack([self(_taken(outputs, row), _taken(targets, row)) for row in rows])

    def weight(self, targets: Any) -> float:
        """Return what the function says that it divides by."""
        if self.counted is None:
            return len(targets)
        found = self.counted(targets)
        try:
            weight = float(found)
        except (TypeError, ValueError, RuntimeError):
            weight = math.nan
        if not 0 <= weight < math.inf:
            said = shorten(visible(str(found)), _SHOWN)
            raise DataError(
                f"weight(targets) of the loss returned {said}; expected a number of at least 0, which the "
                "mean over the batch was divided by"
            )
        return weight

    def is_by_sample(self, targets: Any) -> bool:  # noqa: ARG002 - it is known of the function
        """Whether the function has no word on what it divides by."""
        return self.counted is None


def given_loss(value: Callable[[Any, Any], Tensor], device: torch.device) -> GivenLoss:
    """Return a loss that calls ``value(outputs, targets)`` for the mean over a batch.

    Args:
        value: Any callable, such as a loss module of torch; moved to the device if it is a module. It may
            have a method ``weight(targets)``, which tells what its mean was divided by.
        device: Where the loop runs.

    Raises:
        JobError: It has parameters, which nobody would train.
    """
    if isinstance(value, nn.Module):
        trained = [name for name, parameter in value.named_parameters() if parameter.requires_grad]
        if trained:
            raise JobError(
                f"the loss {visible(type(value).__name__)} has parameters that nothing would train: "
                f"{shorten(', '.join(trained), _SHOWN)}; make them part of the model, or call "
                "requires_grad_(False) on it"
            )
        value.to(device)
    counted = getattr(value, "weight", None)
    if type(value) is nn.CrossEntropyLoss:
        counted = _counted_by_torch(value)
    return GivenLoss(value, counted if callable(counted) and not isinstance(counted, Tensor) else None)


def _counted_by_torch(loss: nn.CrossEntropyLoss) -> Callable[[Any], float] | None:
    """Return what torch's own mean is divided by, where that is not the number of samples."""
    weights = None if loss.weight is None else loss.weight.tolist()
    try:
        like = CrossEntropy(class_weights=weights, ignore_index=loss.ignore_index)
    except ValueError:
        # A weight of 0, which ours does not take.
        return None
    return like.weight


def _taken(values: Any, row: slice) -> Any:
    """Return some samples of a tree, or of the tensors of whatever else a model returned."""
    tree = values if isinstance(values, Tensor) or type(values) in {dict, list} else tensors_within(values)
    return map_tensors(lambda tensor: tensor[row], tree)
