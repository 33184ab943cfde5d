"""Masks and boxes as transforms of albumentations take them, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ringfence import Batch

from .follow import IGNORED, has_boxes, has_mask, with_boxes

#: Codes of a mask that OpenCV moves: 0 for what is ignored, which transforms fill with, then the classes.
_BYTE_CODES, _MOST_CODES = 1 << 8, 1 << 16


class Following:
    """Nothing that follows the images.

    Attributes:
        what: ``masks``, ``boxes`` or nothing, for messages.
    """

    what = ""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def given(self, place: int) -> dict[str, NDArray[Any]]:  # noqa: ARG002 - there is nothing
        """Return what a transform is given beside the image at ``place`` of the batch."""
        return {}

    def take(self, place: int, moved: dict[str, NDArray[Any]]) -> None:
        """Take what became of that."""

    def targets(self) -> Any:
        """Return the targets of the batch after all of it."""
        return self._batch.targets


class Masks(Following):
    """Classes of the pixels."""

    what = "masks"

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        most = (batch.num_classes or 0) + 1
        if most > _MOST_CODES:
            raise ValueError(
                f"masks of {batch.num_classes} classes cannot follow; albumentations moves up to 65535"
            )
        codes = torch.where(batch.targets >= 0, batch.targets + 1, 0)
        self._codes = codes.numpy().astype(np.uint8 if most <= _BYTE_CODES else np.uint16)

    def given(self, place: int) -> dict[str, NDArray[Any]]:
        """Return the mask."""
        return {"mask": self._codes[place]}

    def take(self, place: int, moved: dict[str, NDArray[Any]]) -> None:
        """Take the moved mask."""
        self._codes[place] = moved["mask"]

    def targets(self) -> Tensor:
        """Return the moved masks."""
        codes = torch.from_numpy(self._codes.astype(np.int64))
        return torch.where(codes > 0, codes - 1, IGNORED).to(self._batch.targets.dtype)


class Boxes(Following):
    """Boxes, in shares of the sides, each with its place among those of its sample."""

    what = "boxes"

    def __init__(self, batch: Batch) -> None:
        super().__init__(batch)
        height, width = batch.inputs.shape[2:]
        self._size = torch.tensor([width, height, width, height])
        shares = (batch.targets["boxes"].float() / self._size).clamp(0, 1)
        self._shares: NDArray[np.float32] = shares.numpy()
        self._moved = torch.zeros_like(shares)
        self._there = (batch.targets["labels"] >= 0).numpy()

    def given(self, place: int) -> dict[str, NDArray[Any]]:
        """Return the boxes, (n, 5), if there are any: some transforms fail on none."""
        places = self._there[place].nonzero()[0]
        boxes = np.concatenate([self._shares[place, places], places[:, None].astype(np.float32)], 1)
        return within({"bboxes": boxes})

    def take(self, place: int, moved: dict[str, NDArray[Any]]) -> None:
        """Take the boxes that are left."""
        for *ends, index in moved.get("bboxes", np.empty((0, 5))):
            self._moved[place, int(index)] = torch.tensor(ends, dtype=torch.float32)

    def targets(self) -> dict[str, Any]:
        """Return the moved boxes, and those that are gone as such."""
        everything = torch.arange(len(self._batch))
        return with_boxes(self._batch.targets, everything, lambda _: self._moved * self._size)


def following_of(batch: Batch) -> Following:
    """Return what of the targets follows the images."""
    if has_mask(batch):
        return Masks(batch)
    return Boxes(batch) if has_boxes(batch) else Following(batch)


def to_codes(number: float) -> float:
    """Return the code of a class, or of -100, that a mask is to be filled with."""
    return 0 if number < 0 else number + 1


def within(result: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return ``result`` with boxes cut at the edges of the image; without those that have left it."""
    if "bboxes" not in result:
        return result
    boxes = result.pop("bboxes").copy()
    boxes[:, :4] = boxes[:, :4].clip(0, 1)
    boxes = boxes[(boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])]
    return {**result, "bboxes": boxes} if len(boxes) else result
