"""Operations that move pixels, and masks and boxes with them; labels stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from . import warp
from .draw import Draw
from .op import Moved, MovingOp
from .options import Choice, Integer, Number, Span, option
from .warp import Move

_CROP_TRIES = 10


@dataclass(kw_only=True)
class Flip(MovingOp):
    """Mirror left and right (``axis: horizontal``) or top and bottom (``vertical``). ``p`` is of a sample.

    Source: Krizhevsky et al. 2012, section 4.1 (horizontal, p 0.5).
    """

    name: ClassVar[str] = "flip"
    needs_levels: ClassVar[bool] = False

    p: float = option(0.5, Number(0, 1))
    axis: str = option("horizontal", Choice(("horizontal", "vertical")))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:  # noqa: ARG002 - nothing left to chance
        """Return mirrored images, and how."""
        height, width = images.shape[2:]
        horizontal = self.axis == "horizontal"

        def mirror(x: Tensor, y: Tensor) -> warp.Points:
            return (width - 1 - x, y) if horizontal else (x, height - 1 - y)

        move = Move(lambda: mirror(*warp.pixels(height, width)), mirror)
        return images.flip(3 if horizontal else 2), [(None, move)]


@dataclass(kw_only=True)
class Crop(MovingOp):
    """Pad by ``padding`` pixels on each side, then cut the old size out at a random place.

    ``mode`` says what the padding holds: ``constant`` (the grey level ``fill``), ``reflect`` or ``edge``.
    ``p`` is of a sample.

    Source: He et al. 2015, arXiv:1512.03385, section 4.2 (4 pixels of zeros on CIFAR-10).
    """

    name: ClassVar[str] = "crop"
    needs_levels: ClassVar[bool] = False

    padding: int = option(4, Integer(1, 512))
    mode: str = option("constant", Choice(("constant", "reflect", "edge")))
    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return shifted images, and how."""
        count, _, height, width = images.shape
        if self.mode == "reflect" and self.padding >= min(height, width):
            raise ValueError(
                f"crop cannot reflect {self.padding} pixels of images of {height}x{width}; "
                "lower padding or use mode: edge"
            )
        padded = self._pad(images)
        corners = draw.integers(0, 2 * self.padding + 1, 2, count)
        tops, lefts = corners.tolist()
        # Copying windows is faster than gathering pixels, by the width of a row.
        windows = [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, tops, lefts, strict=True)
        ]

        def shift(x: Tensor, y: Tensor, sign: int) -> warp.Points:
            down, right = (corners - self.padding).view(2, -1, *[1] * (x.dim() - 1)) * sign
            return x + right, y + down

        move = Move(lambda: shift(*warp.pixels(height, width), 1), lambda x, y: shift(x, y, -1))
        return torch.stack(windows), [(None, move)]

    def _pad(self, images: Tensor) -> Tensor:
        sides = [self.padding] * 4
        if self.mode == "constant":
            return pad(images, sides, value=self.fill)
        return pad(images, sides, mode="reflect" if self.mode == "reflect" else "replicate")


@dataclass(kw_only=True)
class ResizedCrop(MovingOp):
    """Cut out a random part and enlarge it to the old size, bilinear.

    The part has a uniform share ``scale`` of the area and a ratio of width to height from
    ``ratio``, uniform on a logarithmic scale; the first of ten draws that fits is taken, else the
    largest centred part of an allowed ratio. ``p`` is of a sample.

    Source: Szegedy et al. 2014, arXiv:1409.4842, section 6 (8 to 100 % of the area, ratio 3/4 to 4/3).
    """

    name: ClassVar[str] = "resized_crop"

    scale: tuple[float, float] = option((0.08, 1.0), Span(0.001, 1.0))
    ratio: tuple[float, float] = option((0.75, 1.3333), Span(0.01, 100.0))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return enlarged parts, and how."""
        count, _, height, width = images.shape
        high, wide = self._sizes(draw, count, height, width)
        top = draw.uniform(0, 1, count) * (height - high)
        left = draw.uniform(0, 1, count) * (width - wide)
        rows = (torch.arange(height) + 0.5) / height  # centres of the output's pixels, 0 to 1
        columns = (torch.arange(width) + 0.5) / width
        y = (top[:, None] + rows * high[:, None] - 0.5)[:, :, None].expand(-1, -1, width)
        x = (left[:, None] + columns * wide[:, None] - 0.5)[:, None, :].expand(-1, height, -1)

        def points(x: Tensor, y: Tensor) -> warp.Points:
            across = (x + 0.5 - left[:, None]) / wide[:, None] * width - 0.5
            return across, (y + 0.5 - top[:, None]) / high[:, None] * height - 0.5

        move = Move(lambda: (x, y), points)
        return move.read(images, edge=True), [(None, move)]

    def _sizes(self, draw: Draw, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        area = draw.uniform(*self.scale, count, _CROP_TRIES) * (height * width)
        low, high_ = (math.log(end) for end in self.ratio)
        ratio = draw.uniform(low, high_, count, _CROP_TRIES).exp()
        high, wide = (area / ratio).sqrt(), (area * ratio).sqrt()
        fits = (high <= height) & (wide <= width)
        first = fits.int().argmax(1, keepdim=True)
        nearest = min(max(width / height, self.ratio[0]), self.ratio[1])
        whole_high, whole_wide = min(height, width / nearest), min(width, height * nearest)
        any_fits = fits.any(1)
        return (
            torch.where(any_fits, high.gather(1, first).squeeze(1), whole_high),
            torch.where(any_fits, wide.gather(1, first).squeeze(1), whole_wide),
        )


@dataclass(kw_only=True)
class Affine(MovingOp):
    """Turn, scale, shear and move around the centre, in this order read from the right.

    ``degrees`` counter-clockwise, ``scale`` as a factor, ``shear`` in degrees along the x axis,
    ``translate`` as a share of width and height; each uniform in its range, where a number v means
    [-v, v] (for ``scale``: exactly v). Bilinear; ``fill`` is the grey level of what comes from outside.
    ``p`` is of a sample.

    Source: LeCun et al. 1998, "Gradient-based learning applied to document recognition", section III.
    """

    name: ClassVar[str] = "affine"

    p: float = option(0.5, Number(0, 1))
    degrees: tuple[float, float] = option((-10.0, 10.0), Span(-180.0, 180.0, mirrored=True))
    translate: tuple[float, float] = option((-0.1, 0.1), Span(-1.0, 1.0, mirrored=True))
    scale: tuple[float, float] = option((0.9, 1.1), Span(0.05, 20.0))
    shear: tuple[float, float] = option((0.0, 0.0), Span(-80.0, 80.0, mirrored=True))
    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return moved images, and how."""
        count, _, height, width = images.shape
        angle = draw.uniform(*self.degrees, count) * (math.pi / 180)
        scale = draw.uniform(*self.scale, count)
        slope = (draw.uniform(*self.shear, count) * (math.pi / 180)).tan()
        shift = draw.uniform(*self.translate, count) * width, draw.uniform(*self.translate, count) * height
        cos, sin = scale * angle.cos(), scale * angle.sin()
        matrix = (cos, cos * slope + sin, -sin, cos - sin * slope)
        move = warp.linear(matrix, shift, images.shape)
        return move.read(images, fill=self.fill), [(None, move)]


@dataclass(kw_only=True)
class Rotate(MovingOp):
    """Turn around the centre by an angle from ``degrees``, counter-clockwise; see ``affine``.

    ``p`` is of a sample.

    Source: as for ``affine``.
    """

    name: ClassVar[str] = "rotate"

    p: float = option(0.5, Number(0, 1))
    degrees: tuple[float, float] = option((-15.0, 15.0), Span(-180.0, 180.0, mirrored=True))
    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return turned images, and how."""
        move = warp.rotate.move(draw.uniform(*self.degrees, len(images)), images.shape)
        return move.read(images, fill=self.fill), [(None, move)]


@dataclass(kw_only=True)
class Perspective(MovingOp):
    """Look at the image from another side: move its corners inwards, each by its own amount.

    Each corner moves by a uniform share, up to half of ``distortion``, of width and of height.
    Bilinear; ``fill`` is the grey level outside. ``p`` is of a sample.

    Source: Heckbert 1989, "Fundamentals of texture mapping and image warping", the projection of a
    square onto a quadrilateral.
    """

    name: ClassVar[str] = "perspective"

    p: float = option(0.5, Number(0, 1))
    distortion: float = option(0.5, Number(0, 0.95))
    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return images seen from another side, and how."""
        count, _, height, width = images.shape
        moved = draw.uniform(0, self.distortion / 2, 4, 2, count)
        # Corners of the unit square in order (0, 0), (1, 0), (1, 1), (0, 1), then moved inwards.
        inwards = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]])
        square = torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
        corners = square[:, :, None] + inwards[:, :, None] * moved  # (4, 2, n)
        there = _square_to_quadrilateral(corners)
        back = [entry.view(-1, 1, 1) for entry in _adjugate(there)]
        x, y = _project(back, *warp.pixels(height, width), height, width)
        columns = [entry.view(-1, 1) for entry in there]
        move = Move(lambda: (x, y), lambda x, y: _project(columns, x, y, height, width))
        return move.read(images, fill=self.fill), [(None, move)]


def _project(matrix: list[Tensor], x: Tensor, y: Tensor, height: int, width: int) -> warp.Points:
    """Return where a projection of the unit square takes points of images."""
    u, v = (x + 0.5) / width, (y + 0.5) / height
    a, b, c, d, e, f, g, h, i = matrix
    depth = g * u + h * v + i
    return (a * u + b * v + c) / depth * width - 0.5, (d * u + e * v + f) / depth * height - 0.5


def _square_to_quadrilateral(corners: Tensor) -> list[Tensor]:
    """Return the nine entries of the projection of the unit square onto ``corners``, (4, 2, n)."""
    (x0, y0), (x1, y1), (x2, y2), (x3, y3) = corners
    dx1, dx2, sx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, sy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    determinant = dx1 * dy2 - dx2 * dy1
    g = (sx * dy2 - dx2 * sy) / determinant
    h = (dx1 * sy - sx * dy1) / determinant
    one = torch.ones_like(g)
    return [x1 - x0 + g * x1, x3 - x0 + h * x3, x0, y1 - y0 + g * y1, y3 - y0 + h * y3, y0, g, h, one]


def _adjugate(matrix: list[Tensor]) -> list[Tensor]:
    """Return the inverse of a 3x3 matrix up to a factor, which a projection does not feel."""
    a, b, c, d, e, f, g, h, i = matrix
    return [
        e * i - f * h, c * h - b * i, b * f - c * e,
        f * g - d * i, a * i - c * g, c * d - a * f,
        d * h - e * g, b * g - a * h, a * e - b * d,
    ]  # fmt: skip


@dataclass(kw_only=True)
class Elastic(MovingOp):
    """Displace pixels by smooth random fields.

    Each pixel gets a uniform displacement from -1 to 1, smoothed with a Gaussian of ``sigma``
    pixels and multiplied by ``alpha``. Bilinear; outside the edge is repeated. ``p`` is of a sample.

    Source: Simard et al. 2003, "Best practices for convolutional neural networks", section 2; sigma 4 and
    alpha 34 on MNIST.
    """

    name: ClassVar[str] = "elastic"

    p: float = option(0.5, Number(0, 1))
    alpha: float = option(34.0, Number(0, 10000))
    sigma: float = option(4.0, Number(0.1, 1000))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return distorted images, and how."""
        count, _, height, width = images.shape
        field = draw.uniform(-1, 1, 2, count, height, width)
        field = _smoothing(height, self.sigma) @ field @ _smoothing(width, self.sigma).t() * self.alpha
        columns, rows = warp.centred(height, width)
        x = columns + (width - 1) / 2 + field[0]
        y = rows + (height - 1) / 2 + field[1]
        move = Move(lambda: (x, y), None)
        return move.read(images, edge=True), [(None, move)]


def _smoothing(size: int, sigma: float) -> Tensor:
    """Return a (size, size) matrix that convolves with a Gaussian; outside is zero."""
    places = torch.arange(size, dtype=torch.float32)
    reach = torch.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    total = torch.exp(-reach.square() / (2 * sigma**2)).sum()
    return torch.exp(-(places[:, None] - places).square() / (2 * sigma**2)) / total
