"""Regions of images as boolean masks, (n, 1, H, W)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boxes:
    """Rectangles in pixels, one for each image; ends are exclusive and may lie outside the image.

    Attributes:
        top: (n,) int64, and so are the others.
    """

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    def mask(self, height: int, width: int) -> Tensor:
        """Return True inside the rectangle, (n, 1, H, W)."""
        rows = torch.arange(height)
        columns = torch.arange(width)
        in_rows = (rows >= self.top[:, None]) & (rows < self.bottom[:, None])  # (n, H)
        in_columns = (columns >= self.left[:, None]) & (columns < self.right[:, None])  # (n, W)
        return (in_rows[:, :, None] & in_columns[:, None, :])[:, None]


def filled(images: Tensor, mask: Tensor, fill: float | str) -> Tensor:
    """Replace what lies where ``mask`` is True, by a grey level or the channels' mean over all of them."""
    if isinstance(fill, str):
        value = images.mean(dim=(0, 2, 3), keepdim=True)
    else:
        value = torch.tensor(fill, dtype=images.dtype)
    return torch.where(mask, value, images)
