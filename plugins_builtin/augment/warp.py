"""Moves of pixels, and resampling of image batches at given coordinates.

Coordinates are pixels with centres at whole numbers: x from 0 to W - 1 to the right, y from 0 to
H - 1 down.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

#: Columns and rows of points.
Points = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Move:
    """Where each pixel of the results is read, and so where everything in the images goes.

    Attributes:
        sources: Returns the columns and rows to read, each (n, H, W) or what broadcasts to that.
        points: Takes points of the images, (n, M) columns and rows, and returns where they come to lie. None:
            there is no formula, only what is read where.
    """

    sources: Callable[[], Points]
    points: Callable[[Tensor, Tensor], Points] | None

    def read(self, images: Tensor, *, fill: float = 0.0, edge: bool = False) -> Tensor:
        """Return the moved images, bilinear; see ``resample``."""
        return resample(images, *self.sources(), fill=fill, edge=edge)


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


def pixels(height: int, width: int) -> Points:
    """Return columns (1, 1, W) and rows (1, H, 1)."""
    return torch.arange(width).view(1, 1, -1), torch.arange(height).view(1, -1, 1)


def centred(height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return columns (1, 1, W) and rows (1, H, 1) relative to the image's centre."""
    columns = torch.arange(width, dtype=torch.float32) - (width - 1) / 2
    rows = torch.arange(height, dtype=torch.float32) - (height - 1) / 2
    return columns.view(1, 1, -1), rows.view(1, -1, 1)


def linear(
    matrix: tuple[Tensor | float, Tensor | float, Tensor | float, Tensor | float],
    shift: tuple[Tensor | float, Tensor | float],
    shape: Sequence[int],
) -> Move:
    """Return the move of each pixel p, relative to the centre, to ``matrix @ p + shift``.

    Args:
        matrix: xx, xy, yx, yy; numbers or (n,) each.
        shift: x and y in pixels; numbers or (n,) each.
        shape: Of the images, (n, C, H, W).
    """
    count, _, height, width = shape
    xx, xy, yx, yy, dx, dy = (
        torch.as_tensor(entry, dtype=torch.float32).expand(count).view(-1, 1, 1)
        for entry in (*matrix, *shift)
    )
    columns, rows = centred(height, width)
    columns, rows = columns - dx, rows - dy
    determinant = xx * yy - xy * yx
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    x = (yy * columns - xy * rows) / determinant + centre_x
    y = (xx * rows - yx * columns) / determinant + centre_y

    def points(x: Tensor, y: Tensor) -> Points:
        x, y = x - centre_x, y - centre_y
        to_x, to_y = xx[:, 0] * x + xy[:, 0] * y + dx[:, 0], yx[:, 0] * x + yy[:, 0] * y + dy[:, 0]
        return to_x + centre_x, to_y + centre_y

    return Move(lambda: (x, y), points)


@dataclass(frozen=True)
class Warp:
    """Changes images by a linear move of one amount, (n,).

    Attributes:
        move: Takes the amount and the shape of the images.
    """

    move: Callable[[Tensor, Sequence[int]], Move]

    def __call__(self, images: Tensor, amount: Tensor, fill: float = 0.0) -> Tensor:
        """Return moved images; ``fill`` is the grey level of what comes from outside."""
        return self.move(amount, images.shape).read(images, fill=fill)


def _rotation(degrees: Tensor, shape: Sequence[int]) -> Move:
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    # y points down, so that counter-clockwise on the screen is clockwise in these coordinates.
    return linear((cos, sin, -sin, cos), (0.0, 0.0), shape)


#: Turns counter-clockwise around the centre, by degrees.
rotate = Warp(_rotation)
#: Moves rows sideways, by a multiple of their distance from the centre; so with columns.
shear_x = Warp(lambda rate, shape: linear((1.0, rate, 0.0, 1.0), (0.0, 0.0), shape))
shear_y = Warp(lambda rate, shape: linear((1.0, 0.0, rate, 1.0), (0.0, 0.0), shape))
#: Moves to the right, or down, by pixels.
translate_x = Warp(lambda pixels, shape: linear((1.0, 0.0, 0.0, 1.0), (pixels, 0.0), shape))
translate_y = Warp(lambda pixels, shape: linear((1.0, 0.0, 0.0, 1.0), (0.0, pixels), shape))
