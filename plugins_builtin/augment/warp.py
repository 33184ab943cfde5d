"""Resampling of image batches at given coordinates.

Coordinates are pixels with centres at whole numbers: x from 0 to W - 1 to the right, y from 0 to
H - 1 down.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import grid_sample


def resample(images: Tensor, x: Tensor, y: Tensor, *, fill: float = 0.0, edge: bool = False) -> Tensor:
    """Return images whose pixel (i, j) is that of ``images`` at (x, y)[i, j], bilinear.

    Args:
        images: (n, C, H, W).
        x: (n, H, W) columns to read; so with ``y``.
        y: (n, H, W).
        fill: Grey level outside.
        edge: Repeat the edge outside instead.
    """
    height, width = images.shape[2:]
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    if edge:
        return grid_sample(images, grid, padding_mode="border", align_corners=False).clamp_(0, 1)
    # Outside is zero: shift the level that should be there to it.
    shifted = images - fill if fill else images
    return (grid_sample(shifted, grid, align_corners=False) + fill).clamp_(0, 1)


def centred(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return columns (1, 1, W) and rows (1, H, 1) relative to the image's centre."""
    columns = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float32) - (height - 1) / 2
    return columns.view(1, 1, -1), rows.view(1, -1, 1)


def linear(
    images: Tensor,
    matrix: tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float],
    shift: tuple[Tensor | float, Tensor | float] = (0.0, 0.0),
    fill: float = 0.0,
) -> Tensor:
    """Move each pixel p, relative to the centre, to ``matrix @ p + shift``.

    Args:
        images: (n, C, H, W).
        matrix: xx, xy, yx, yy; numbers or (n,) each.
        shift: x and y in pixels; numbers or (n,) each.
        fill: Grey level of what comes from outside.
    """
    count, _, height, width = images.shape
    xx, xy, yx, yy, dx, dy = (
        torch.as_tensor(entry, dtype=torch.float32).expand(count).view(-1, 1, 1)
        for entry in (*matrix, *shift)
    )
    columns, rows = centred(height, width)
    columns, rows = columns - dx, rows - dy
    determinant = xx * yy - xy * yx
    x = (yy * columns - xy * rows) / determinant + (width - 1) / 2
    y = (xx * rows - yx * columns) / determinant + (height - 1) / 2
    return resample(images, x, y, fill=fill)


def rotate(images: Tensor, degrees: Tensor, fill: float = 0.0) -> Tensor:
    """Turn counter-clockwise around the centre; ``degrees`` is (n,)."""
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    # y points down, so that counter-clockwise on the screen is clockwise in these coordinates.
    return linear(images, (cos, sin, -sin, cos), fill=fill)


def shear_x(images: Tensor, rate: Tensor, fill: float = 0.0) -> Tensor:
    """Move rows sideways by ``rate``, (n,), times their distance from the centre."""
    return linear(images, (1.0, rate, 0.0, 1.0), fill=fill)


def shear_y(images: Tensor, rate: Tensor, fill: float = 0.0) -> Tensor:
    """Move columns up or down by ``rate``, (n,), times their distance from the centre."""
    return linear(images, (1.0, 0.0, rate, 1.0), fill=fill)


def translate_x(images: Tensor, pixels: Tensor, fill: float = 0.0) -> Tensor:
    """Move to the right by ``pixels``, (n,)."""
    return linear(images, (1.0, 0.0, 0.0, 1.0), (pixels, 0.0), fill)


def translate_y(images: Tensor, pixels: Tensor, fill: float = 0.0) -> Tensor:
    """Move down by ``pixels``, (n,)."""
    return linear(images, (1.0, 0.0, 0.0, 1.0), (0.0, pixels), fill)
