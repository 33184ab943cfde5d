"""The interface of a loss, which training minimises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from .parts import Key, part_of, prediction_of


class Loss(ABC):
    """A loss, which training minimises.

    Outputs and targets are one tensor each, or of some losses what the model returned, and a tree of tensors.
    """

    __slots__ = ()

    #: True if targets are classes, False if they are numbers of the outputs' shape, None if either will do.
    classes: ClassVar[bool | None]
    #: Whether it takes whatever the model returned, and not one tensor of a shape that is known.
    takes_any: ClassVar[bool] = False
    #: Whether the model computes it, which then is given the targets.
    by_model: ClassVar[bool] = False

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the mean over the batch, shape (); by default that of its samples."""
        return self.per_sample(outputs, targets).mean()

    @abstractmethod
    def per_sample(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss of each sample, shape (B,)."""

    def arguments(self, targets: Any) -> Mapping[str, Any]:  # noqa: ARG002 - for those that the model computes
        """Return what the model is given by keyword beside the inputs."""
        return {}

    def judged(self, outputs: Any) -> Any:
        """Return what it takes of what a model returned: one tensor, or all of it."""
        return outputs if isinstance(outputs, Tensor) or self.takes_any else prediction_of(outputs)

    def weight(self, targets: Any) -> float:
        """Return what the mean over a batch was divided by, by which means of batches are averaged."""
        return len(targets)

    def is_by_sample(self, targets: Any) -> bool:  # noqa: ARG002 - for those that need them
        """Whether a batch of such targets weighs as many as it has samples, whatever they are."""
        return type(self).weight is Loss.weight

    def over_step(
        self,
        targets: Sequence[Any],
        sizes: Sequence[int],  # noqa: ARG002 - for those that need them
    ) -> tuple[Sequence[Loss], Sequence[float]]:
        """Return the loss of each batch of a step, and what it weighs among them.

        Args:
            targets: Of each batch.
            sizes: Samples in each.
        """
        return [self] * len(targets), [self.weight(each) for each in targets]

    @property
    def terms(self) -> tuple[Term, ...]:
        """The losses that it is the sum of, each of which is averaged by itself."""
        return (Term("", self),)

    def misfit(self, targets: Any, num_classes: int | None) -> str:  # noqa: ARG002 - for those that need them
        """Say why it cannot be computed for such targets, or return ``""``."""
        return ""

    def outputs_shape(
        self,
        outputs: Tensor,  # noqa: ARG002 - for those that need them
        targets: Tensor,
        num_classes: int | None,  # noqa: ARG002
    ) -> tuple[int, ...]:
        """Return the shape that outputs must have, as far as it does not follow from theirs."""
        return tuple(targets.shape)

    def hint(self, outputs: Tensor, targets: Tensor, num_classes: int | None) -> str:  # noqa: ARG002 - likewise
        """Return what to do about outputs of another shape, as a sentence without its period, or ``""``."""
        return ""


@dataclass(frozen=True, slots=True)
class Term:
    """One of the losses that a run minimises.

    Attributes:
        name: Under which it is told in evaluations; ``""`` of the only one.
        loss: What it is.
        factor: What its mean is multiplied by, above 0.
        output: Which part of the outputs it takes; None: all.
        target: Likewise, of the targets.
    """

    name: str
    loss: Loss
    factor: float = 1.0
    output: Key = None
    target: Key = None

    def of(self, outputs: Any, targets: Any) -> tuple[Any, Any]:
        """Return the parts of outputs and targets that it takes."""
        given = self.loss.judged(part_of(outputs, self.output, "output"))
        return given, part_of(targets, self.target, "target")


def by_sample(losses: Tensor) -> Tensor:
    """Return the mean of each sample, (B,) of (B, …)."""
    return losses.reshape(len(losses), -1).mean(1)
