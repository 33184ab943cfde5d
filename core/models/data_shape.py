"""Shapes of a model's input and output, read off the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from ..engine.data import Data
from ..hooks.errors import DataError
from ..hooks.trees import tensors_of

_IMAGE_DIMS = 3
_TABLE_DIMS = 2


class ImageTooSmallError(DataError):
    """Images are smaller than a model takes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shapes of one sample.

    Attributes:
        inputs: (C, H, W) for images, otherwise whatever the data has; of a tree that of its first tensor.
        outputs: Number of classes, or of numbers to predict; 0 where targets are neither.
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
    """Return the shapes of one sample of ``data``."""
    train = data.train
    inputs = tuple(tensors_of(train.inputs)[0].shape[1:])
    if train.num_classes is not None:
        return Shape(inputs, train.num_classes)
    targets = train.targets
    is_table = isinstance(targets, Tensor) and targets.dim() == _TABLE_DIMS
    return Shape(inputs, targets.shape[1] if is_table else 0)
