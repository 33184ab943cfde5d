"""The operation: the class of all augmentations."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ringfence import Batch

from .draw import Draw
from .options import Number, check_options, option


@dataclass(kw_only=True)
class Op(ABC):
    """One step of the pipeline; its fields are its options.

    Attributes:
        name: As the job spells it.
        moves: True if pixels change place, which a target that is an image itself would have to follow.
        needs_images: False if inputs of any shape will do.
        needs_levels: False if any numbers will do; others are cut, or misread, outside of [0, 1].
        p: Probability, of a sample or of a batch as the operation's documentation says.
    """

    name: ClassVar[str]
    moves: ClassVar[bool] = False
    needs_images: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = True

    p: float = option(1.0, Number(0, 1))

    def __post_init__(self) -> None:
        check_options(self)

    @abstractmethod
    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return the changed batch, or ``batch`` itself if nothing changed; tensors are never edited."""


@dataclass(kw_only=True)
class SampleOp(Op):
    """An operation on single images; ``p`` is the probability of each sample."""

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Change the chosen samples."""
        images = batch.inputs
        chosen = draw.choose(self.probability(draw), len(batch))
        if chosen.numel() == 0:
            return batch
        if chosen.numel() == len(batch):
            return batch.with_(inputs=self.apply(images, draw))
        return batch.with_(inputs=images.index_copy(0, chosen, self.apply(images[chosen], draw)))

    def probability(self, draw: Draw) -> float:  # noqa: ARG002 - some operations change it over the run
        """Return the probability of a sample at this step."""
        return self.p

    @abstractmethod
    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return new images, (n, C, H, W) float32 in [0, 1], from ``images`` of that kind."""


def column(values: Tensor) -> Tensor:
    """Return (n,) values as (n, 1, 1, 1), to go with images."""
    return values.view(-1, 1, 1, 1)


def option_names(cls: type[Op]) -> tuple[str, ...]:
    """Return the names of an operation's options, ``p`` last."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return (*(name for name in fields if name != "p"), "p")
