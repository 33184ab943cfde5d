"""The loss that the model itself returns, as those of transformers do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor

from ..hooks.errors import DataError
from ..hooks.trees import tensors_of
from ..hooks.types import IGNORED
from .loss import Loss
from .parts import describe_outputs

#: Key or attribute of what a model returned under which its loss lies.
_LOSS = "loss"


@dataclass(frozen=True, slots=True)
class ModelLoss(Loss):
    """The loss that the model returns: under ``loss``, as a key or an attribute, or first in a tuple.

    The model is given the targets by keyword: a dict by its own keys, anything else under ``argument``.

    Attributes:
        argument: Keyword of the targets.
        mean_over: What the model's mean is over, by which means of batches are averaged: ``samples``, the
            ``targets`` that are not -100, or those ``shifted`` by one, as where the next token is predicted.
        class_dim: Where the classes lie in the outputs that metrics judge: 1 or -1; by default it is told by
            their shape.
    """

    classes: ClassVar[bool | None] = None
    takes_any: ClassVar[bool] = True
    by_model: ClassVar[bool] = True
    argument: str = "labels"
    mean_over: Literal["samples", "targets", "shifted"] = "samples"
    class_dim: int | None = None

    def __post_init__(self) -> None:
        if self.class_dim not in {None, 1, -1}:
            raise ValueError(f"class_dim is {self.class_dim}; it must be 1 or -1")

    def arguments(self, targets: Any) -> Mapping[str, Any]:
        """Return the targets as keyword arguments."""
        return targets if isinstance(targets, dict) else {self.argument: targets}

    def __call__(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ARG002 - the model was given them
        """Return what the model returned as its loss, shape ()."""
        found = outputs.get(_LOSS) if isinstance(outputs, Mapping) else getattr(outputs, _LOSS, None)
        if found is None and isinstance(outputs, tuple) and outputs:
            found = outputs[0]
        if not isinstance(found, Tensor) or found.shape != ():
            raise DataError(
                f"the model returned {describe_outputs(outputs)}; loss 'model' takes the mean over a batch, "
                f"a tensor of shape (), under '{_LOSS}' or first in a tuple"
            )
        return found

    def per_sample(self, outputs: Any, targets: Any) -> Tensor:  # noqa: ARG002 - there is none of any
        """Refuse: a model tells the mean alone."""
        raise DataError(
            "loss 'model' is the mean over a batch, which tells no loss of each sample, and a plugin of the "
            "run learns from those; take a loss of outputs and targets, or leave that plugin out"
        )

    def weight(self, targets: Any) -> float:
        """Return how many targets that are not -100 the mean is over."""
        if isinstance(targets, dict):
            targets = targets.get(self.argument, targets)
        (first, *_) = tensors_of(targets)
        counted = first[:, 1:] if self.mean_over == "shifted" else first
        return float((counted != IGNORED).sum())

    def is_by_sample(self, targets: Any) -> bool:  # noqa: ARG002 - it is said by the job
        """Whether the model's mean is over samples."""
        return self.mean_over == "samples"
