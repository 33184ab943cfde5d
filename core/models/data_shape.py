"""Shapes of a model's input and output, read off the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..engine.data import Data
from ..hooks.errors import DataError

_IMAGE_DIMS = 3
_TABLE_DIMS = 2


class ImageTooSmallError(DataError):
    """Images are smaller than a model takes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shapes of one sample.

    Attributes:
        inputs: (C, H, W) for images, otherwise whatever the data has.
        outputs: Number of classes, or of numbers to predict.
    """

    inputs: tuple[int, ...]
    outputs: int

    @property
    def features(self) -> int:
        """Numbers in one input."""
        return math.prod(self.inputs)

    def image(self, model: str, smallest: int) -> tuple[int, int, int]:
        """Return channels, height and width.

        Args:
            model: For messages.
            smallest: Pixels that each side needs at least.

        Raises:
            DataError: The inputs are no images, or too small.
        """
        if len(self.inputs) != _IMAGE_DIMS:
            raise DataError(
                f"model '{model}' takes images (channels, height, width); the data has inputs of shape "
                f"{self.inputs}. Use mlp, or a model of your own"
            )
        channels, height, width = self.inputs
        if min(height, width) < smallest:
            raise ImageTooSmallError(
                f"model '{model}' takes images of at least {smallest}x{smallest} pixels; "
                f"the data has {height}x{width}"
            )
        return channels, height, width


def shape_of(data: Data) -> Shape:
    """Return the shapes of one sample of ``data``.

    Raises:
        DataError: The targets of a regression are no rows of numbers.
    """
    train = data.train
    if train.num_classes is not None:
        return Shape(tuple(train.inputs.shape[1:]), train.num_classes)
    if train.targets.dim() != _TABLE_DIMS:
        raise DataError(
            f"models predict rows of numbers; the targets have shape {tuple(train.targets.shape)}, "
            "expected (N, K)"
        )
    return Shape(tuple(train.inputs.shape[1:]), train.targets.shape[1])
