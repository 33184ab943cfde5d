"""Between batches, (B, C, H, W) float32 in [0, 1], and the images that albumentations takes, (H, W, C).

An image whose numbers are all of 256 levels, as those of data of 8 bits are, is handed on as uint8: that is
what albumentations is made for, and most transforms take a third of the time of float32.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_LEVELS = 256
#: Channels up to which OpenCV joins and parts planes, which it does many times faster than a strided copy.
_MOST_PLANES = 4
#: Numbers of images that are converted at once: few enough for a cache that one core has to itself.
_AT_ONCE = 1 << 17
#: Results that may be in use while the next is made.
_SPARES = 3
#: How often an array is referred to that is in use no more: by the list, and by the call that counts.
_IDLE = 2


class Spares:
    """Memory for results, used again once nobody holds the result any more.

    New memory of this size comes from the kernel page by page, which takes as long as a transform.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.float32]] = []

    def take(self, shape: torch.Size) -> Tensor:
        """Return a float32 tensor of ``shape``; what is in it is of no meaning."""
        # A tensor and all its views keep the array that they are made of.
        self._arrays = [array for array in self._arrays if array.shape == shape][-_SPARES:]
        for i in range(len(self._arrays)):
            if sys.getrefcount(self._arrays[i]) == _IDLE:
                return torch.from_numpy(self._arrays[i])
        self._arrays.append(np.empty(shape, np.float32))
        return torch.from_numpy(self._arrays[-1])


class Converter:
    """Converts batches to images and back, a part at a time that a cache holds, in memory of its own."""

    def __init__(self) -> None:
        self._levels = np.empty(0, np.uint8)
        self._numbers = torch.empty(0)

    def parts(self, inputs: Tensor) -> Iterator[slice]:
        """Yield what to convert at once of a batch: many small images, or a large one."""
        numbers_each = max(1, inputs[0].numel())
        size = max(1, _AT_ONCE // numbers_each)
        if self._numbers.numel() < size * numbers_each:
            self._levels = np.empty(size * numbers_each, np.uint8)
            self._numbers = torch.empty(size * numbers_each)
        for begin in range(0, len(inputs), size):
            yield slice(begin, begin + size)

    def to_images(self, inputs: Tensor) -> list[NDArray[Any]]:
        """Return each image of a part, uint8 or float32, in memory that transforms may write into."""
        images = inputs.numpy()
        if images.dtype == np.uint8:
            return [_joined(planes) for planes in images]
        rows, levels = images.reshape(-1, images.shape[-1]), self._levels_like(images)
        cv2.convertScaleAbs(rows, dst=levels.reshape(rows.shape), alpha=_LEVELS - 1)
        # The very numbers that the engine makes of levels; what differs from them was none.
        numbers = self._numbers[: inputs.numel()].view(inputs.shape)
        numbers.copy_(torch.from_numpy(levels)).div_(_LEVELS - 1)
        differs = cv2.compare(rows, numbers.numpy().reshape(rows.shape), cv2.CMP_NE)
        if not cv2.countNonZero(differs):
            return [_joined(planes) for planes in levels]
        other = [bool(each.any()) for each in np.asarray(differs).reshape(len(images), -1)]
        return [_joined(images[i] if other[i] else levels[i]) for i in range(len(images))]

    def from_images(self, images: Sequence[NDArray[Any]], place: Tensor) -> None:
        """Write images, uint8 or float in [0, 1] or close to it, to ``place``, their part of the result."""
        levels = self._levels_like(place)
        for i, image in enumerate(images):
            if image.dtype == np.uint8:
                _part(image, levels[i])
        if all(image.dtype == np.uint8 for image in images):
            place.copy_(torch.from_numpy(levels)).div_(_LEVELS - 1)
            return
        for i, image in enumerate(images):
            if image.dtype == np.uint8:
                place[i].copy_(torch.from_numpy(levels[i])).div_(_LEVELS - 1)
            else:
                _part(np.clip(image.astype(np.float32, copy=False), 0, 1), place[i].numpy())

    def _levels_like(self, example: Tensor | NDArray[Any]) -> NDArray[np.uint8]:
        count = math.prod(example.shape)
        return self._levels[:count].reshape(tuple(example.shape))


def _joined(planes: NDArray[Any]) -> NDArray[Any]:
    """Return (C, H, W) as a new (H, W, C)."""
    if len(planes) == 1:
        return planes[0, :, :, None].copy()
    if len(planes) > _MOST_PLANES:
        return planes.transpose(1, 2, 0).copy()
    joined: NDArray[Any] = cv2.merge(list(planes))
    return joined


def _part(image: NDArray[Any], planes: NDArray[Any]) -> None:
    """Write (H, W, C) into (C, H, W), which is contiguous."""
    if 1 < len(planes) <= _MOST_PLANES:
        cv2.split(image, list(planes))
    else:
        planes[:] = image.transpose(2, 0, 1)
