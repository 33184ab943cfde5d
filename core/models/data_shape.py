"""Shapes of a model's input and output, read off the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..engine.data import Data
from ..engine.input_values import input_values, named_inputs
from ..hooks.errors import DataError
from ..hooks.trees import tensors_of

_IMAGE_DIMS = 3
_TABLE_DIMS = 2
#: What token ids are called beside others, and what may lie beside them.
_IDS, _BESIDE_IDS = "input_ids", frozenset(("input_ids", "attention_mask"))


class ImageTooSmallError(DataError):
    """Images are smaller than a model takes."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Shapes of one sample.

    Attributes:
        inputs: (C, H, W) for images, otherwise whatever the data has; of several inputs that of the first.
        outputs: Number of classes, or of numbers to predict; 0 where targets are neither.
        named: Shape of each input by its name, where they are a dict.
        values: Name of each input of whole numbers, ``""`` for one that is alone, to how many values it can
            take: one number, or one a column.
        positions: The targets are classes of each position, or numbers, (K, …).
    """

    inputs: tuple[int, ...]
    outputs: int
    named: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    values: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    positions: bool = False

    def __str__(self) -> str:
        if not self.named:
            return f"inputs of shape {self.inputs}"
        return "the inputs " + ", ".join(f"'{name}' {shape}" for name, shape in self.named.items())

    @property
    def features(self) -> int:
        """Numbers in one input."""
        return math.prod(self.inputs)

    @property
    def tokens(self) -> int | None:
        """Different token ids, where the inputs are such, (L,); None where they are not."""
        name = _IDS if self.named else ""
        found, shape = self.values.get(name, ()), self.named.get(name, self.inputs)
        fits = self.named.keys() <= _BESIDE_IDS and len(shape) == len(found) == 1
        return found[0] if fits else None

    def image(self, model: str, smallest: int) -> tuple[int, int, int]:
        """Return channels, height and width.

        Args:
            model: For messages.
            smallest: Pixels that each side needs at least.

        Raises:
            DataError: The inputs are no images, or too small.
        """
        if len(self.inputs) != _IMAGE_DIMS or self.named:
            raise DataError(
                f"model '{model}' takes images (channels, height, width); the data has {self}. Use mlp, or a "
                "model of your own"
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
    inputs, targets, classes = data.train.inputs, data.train.targets, data.train.num_classes
    dims = targets.dim() if isinstance(targets, Tensor) else 0
    if classes is None:
        outputs, positions = targets.shape[1] if dims >= _TABLE_DIMS else 0, dims > _TABLE_DIMS
    else:
        outputs, positions = classes, data.train.at_positions
    return Shape(
        tuple(tensors_of(inputs)[0].shape[1:]),
        outputs,
        {name: tuple(item.shape[1:]) for name, item in named_inputs(inputs).items() if name},
        input_values(data),
        positions,
    )
