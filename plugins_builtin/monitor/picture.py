"""One picture of several samples."""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: What a report allows.
MAX_SIDE = 1024
_GAP = 1
_COLOURS = 3
_IMAGE_DIMS = 4
_LEVELS = 255.0


def is_image(tensor: Tensor) -> bool:
    """Tell whether a tensor may be images: (B, C, H, W), numbers with a point or bytes."""
    return tensor.dim() == _IMAGE_DIMS and (tensor.is_floating_point() or tensor.dtype == torch.uint8)


def grid(inputs: Tensor, samples: int) -> Tensor | None:
    """Lay the first samples side by side.

    Args:
        inputs: (B, C, H, W) with values in [0, 1], or bytes; three channels are colours, else the first is
            shown.
        samples: Most samples to show, >= 1.

    Returns:
        uint8 (H', W') or (H', W', 3), at most 1024 a side; None if the inputs are no images.
    """
    if inputs.dim() != _IMAGE_DIMS or not inputs.numel():
        return None
    channels, height, width = inputs.shape[1:]
    # Every so many pixels, so that at least one sample fits.
    stride = math.ceil(max(height, width) / (MAX_SIDE - 2 * _GAP))
    shown = inputs[:samples, : _COLOURS if channels == _COLOURS else 1, ::stride, ::stride]
    rows, columns = _layout(shown.shape[0], *shown.shape[2:])
    shown = shown[: rows * columns]
    if shown.dtype != torch.uint8:
        shown = shown.float().nan_to_num(0.0).clamp(0.0, 1.0).mul(_LEVELS).round().to(torch.uint8)
    return _paste(shown, rows, columns)


def _layout(count: int, height: int, width: int) -> tuple[int, int]:
    """Return rows and columns of a grid that is about square and within the limit."""
    columns = min(math.ceil(math.sqrt(count)), (MAX_SIDE - _GAP) // (width + _GAP))
    rows = min(math.ceil(count / columns), (MAX_SIDE - _GAP) // (height + _GAP))
    return rows, columns


def _paste(images: Tensor, rows: int, columns: int) -> Tensor:
    _, channels, height, width = images.shape
    shape = (rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP, channels)
    picture = torch.full(shape, 128, dtype=torch.uint8)  # (H', W', C)
    for index, image in enumerate(images):
        top = _GAP + (index // columns) * (height + _GAP)
        left = _GAP + (index % columns) * (width + _GAP)
        picture[top : top + height, left : left + width] = image.permute(1, 2, 0)
    return picture if channels == _COLOURS else picture[:, :, 0].contiguous()
