"""A loss that is a function of the user's: of outputs and targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..hooks.errors import DataError
from .losses import Loss


@dataclass(frozen=True, slots=True)
class _GivenLoss(Loss):
    """The mean over a batch as the function computes it, in float32: it may hold weights of that kind."""

    classes: ClassVar[bool] = True
    function: Callable[[Tensor, Tensor], Tensor]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean over the batch, shape ()."""
        loss = self.function(_single(outputs), _single(targets))
        if not isinstance(loss, Tensor) or loss.shape != ():
            found = (
                f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
            )
            raise DataError(
                f"the loss returned {found}; expected the mean over the batch, a tensor of shape ()"
            )
        return loss

    def per_sample(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the loss of each sample, shape (B,), asked for one by one."""
        pairs = zip(outputs.split(1), targets.split(1), strict=True)  # type: ignore[no-untyped-call]
        return torch.stack([self(output, target) for output, target in pairs])


@dataclass(frozen=True, slots=True)
class _GivenLossOfNumbers(_GivenLoss):
    classes: ClassVar[bool] = False


def given_loss(function: Callable[[Tensor, Tensor], Tensor], *, classes: bool) -> Loss:
    """Return a loss that calls ``function(outputs, targets)`` for the mean over a batch.

    Args:
        function: Any callable, such as a loss module of torch.
        classes: Whether targets are classes.
    """
    return (_GivenLoss if classes else _GivenLossOfNumbers)(function)


def _single(values: Tensor) -> Tensor:
    return values.float() if values.dtype == torch.float64 else values
