"""Turn tensors into PNG files."""

from __future__ import annotations

import io

import torch
from PIL import Image
from torch import Tensor

_GREY_DIMS = 2
_RGB = 3


def to_png(image: Tensor) -> bytes:
    """Return a PNG of ``image``, uint8 (H, W) or (H, W, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(image.contiguous().numpy()).save(buffer, "PNG")
    return buffer.getvalue()


def from_batch(image: Tensor) -> Tensor:
    """Return one image of a batch, (C, H, W) floating point in [0, 1], as uint8 (H, W) or (H, W, 3).

    The first three channels are shown if there are at least three, else the first.
    """
    pixels = image.detach().cpu().to(torch.float32).nan_to_num(0.0).clamp(0, 1).mul(255).round()
    pixels = pixels.to(torch.uint8)
    return pixels[:_RGB].permute(1, 2, 0) if len(pixels) >= _RGB else pixels[0]


def size_of(image: Tensor) -> tuple[int, int, int]:
    """Return height, width and channels of (H, W) or (H, W, 3)."""
    return image.shape[0], image.shape[1], 1 if image.dim() == _GREY_DIMS else image.shape[2]
