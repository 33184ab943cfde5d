"""The operation: the class of all augmentations."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ringfence import Batch

from .draw import Draw
from .follow import moved_targets
from .options import Number, check_options, option
from .warp import Move

#: Positions of images among those that an operation was given, all of them if None, and how these moved.
Moved = tuple[Tensor | None, Move]


@dataclass(kw_only=True)
class Op(ABC):
    """One step of the pipeline; its fields are its options.

    Attributes:
        name: As the job spells it.
        moves: True if pixels change place, which masks and boxes have to follow.
        follows: True if masks and boxes do.
        mixes: True if samples are mixed, and their classes with them.
        needs_images: False if inputs of any shape will do.
        needs_levels: False if any numbers will do; others are cut, or misread, outside of [0, 1].
        p: Probability, of a sample or of a batch as the operation's documentation says.
    """

    name: ClassVar[str]
    moves: ClassVar[bool] = False
    follows: ClassVar[bool] = False
    mixes: ClassVar[bool] = False
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
        everything = chosen.numel() == len(batch)
        changed, moves = self.apply_and_tell(images if everything else images[chosen], draw)
        result = batch.with_(inputs=changed if everything else images.index_copy(0, chosen, changed))
        for part, move in moves:
            rows = chosen if part is None else chosen[part]
            result = result.with_(targets=moved_targets(result, rows, move))
        return result

    def probability(self, draw: Draw) -> float:  # noqa: ARG002 - some operations change it over the run
        """Return the probability of a sample at this step."""
        return self.p

    @abstractmethod
    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return new images, (n, C, H, W) float32 in [0, 1], from ``images`` of that kind."""

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return new images and the moves that made them, in order."""
        return self.apply(images, draw), []


@dataclass(kw_only=True)
class MovingOp(SampleOp):
    """An operation that moves the pixels of single images, which masks and boxes follow."""

    moves: ClassVar[bool] = True
    follows: ClassVar[bool] = True

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return moved images."""
        return self.apply_and_tell(images, draw)[0]

    @abstractmethod
    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return moved images, and the moves that made them, in order."""


def column(values: Tensor) -> Tensor:
    """Return (n,) values as (n, 1, 1, 1), to go with images."""
    return values.view(-1, 1, 1, 1)


def option_names(cls: type[Op]) -> tuple[str, ...]:
    """Return the names of an operation's options, ``p`` last."""
    fields = [field.name for field in dataclasses.fields(cls)]
    return (*(name for name in fields if name != "p"), "p")
