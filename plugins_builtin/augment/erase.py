"""Operations that remove parts of images; labels stay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from .draw import Draw
from .masks import Boxes, filled
from .op import SampleOp
from .options import Choice, Fill, Integer, Integers, Number, Span, option

_TRIES_A_ROUND = 16
_ROUNDS = 64


@dataclass(kw_only=True)
class Cutout(SampleOp):
    """Blank out ``holes`` squares around uniform centres; they may lie partly outside.

    The paper fills with zero after normalisation, which is the mean; ``fill: mean`` takes the
    channels' mean over the images that it is applied to. ``p`` is of a sample.

    Source: DeVries and Taylor 2017, arXiv:1708.04552, section 3; length 16 of 32 pixels as on
    CIFAR-10 (8 on CIFAR-100), one hole, always.
    """

    name: ClassVar[str] = "cutout"
    needs_levels: ClassVar[bool] = False

    length: int = option(16, Integer(1, 4096))
    holes: int = option(1, Integer(1, 64))
    fill: float | str = option("mean", Fill())

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images with holes."""
        count, _, height, width = images.shape
        mask = torch.zeros(count, 1, height, width, dtype=torch.bool)
        for _ in range(self.holes):
            top = draw.integers(0, height, count) - self.length // 2
            left = draw.integers(0, width, count) - self.length // 2
            mask |= Boxes(top, top + self.length, left, left + self.length).mask(height, width)
        return filled(images, mask, self.fill)


@dataclass(kw_only=True)
class RandomErasing(SampleOp):
    """Erase a rectangle of random area, aspect ratio and place.

    The area is uniform in ``area`` (share of the image), the ratio of height to width
    uniform in ``aspect``, the corner uniform over the image; a draw that does not fit inside is
    drawn again (an image for which 1024 draws do not fit stays as it is). Filled by ``mode``:
    ``pixel`` gives each value its own uniform noise (the paper's RE-R), ``random`` one
    colour a rectangle, ``mean`` the channels' mean (RE-M), ``const`` the grey level ``value`` (0:
    RE-0, 1: RE-255). ``p`` is of a sample.

    Source: Zhong et al. 2017, arXiv:1708.04896, algorithm 1; p 0.5, area 0.02 to 0.4,
    aspect 0.3 to 1 / 0.3.
    """

    name: ClassVar[str] = "random_erasing"
    needs_levels: ClassVar[bool] = False

    p: float = option(0.5, Number(0, 1))
    area: tuple[float, float] = option((0.02, 0.4), Span(0.0, 1.0))
    aspect: tuple[float, float] = option((0.3, 3.3333), Span(0.01, 100.0))
    mode: str = option("pixel", Choice(("pixel", "random", "mean", "const")))
    value: float = option(0.0, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images with a rectangle erased."""
        count, channels, height, width = images.shape
        mask = self.boxes(draw, count, height, width).mask(height, width)
        if self.mode == "pixel":
            return torch.where(mask, draw.uniform(0, 1, *images.shape), images)
        if self.mode == "random":
            return torch.where(mask, draw.uniform(0, 1, count, channels, 1, 1), images)
        return filled(images, mask, "mean" if self.mode == "mean" else self.value)

    def boxes(self, draw: Draw, count: int, height: int, width: int) -> Boxes:
        """Draw one rectangle for each of ``count`` images; an empty one where none fits.

        Draws for all images at once, several each, and takes the first that fits: the same
        distribution as drawing one after the other.
        """
        found = torch.zeros(4, count, dtype=torch.int64)  # top, bottom, left, right
        pending = torch.arange(count)
        for _ in range(_ROUNDS):
            shape = (pending.numel(), _TRIES_A_ROUND)
            area = draw.uniform(*self.area, *shape) * (height * width)
            aspect = draw.uniform(*self.aspect, *shape)
            high = (area * aspect).sqrt().round().long()
            wide = (area / aspect).sqrt().round().long()
            top, left = draw.integers(0, height, *shape), draw.integers(0, width, *shape)
            fits = (top + high <= height) & (left + wide <= width) & (high > 0) & (wide > 0)
            first = fits.int().argmax(1, keepdim=True)
            ends = torch.stack([top, top + high, left, left + wide])  # (4, n, tries)
            taken = ends.gather(2, first.expand(4, -1, 1)).squeeze(2)
            done = fits.any(1)
            found[:, pending[done]] = taken[:, done]
            pending = pending[~done]
            if pending.numel() == 0:
                break
        return Boxes(*found)


@dataclass(kw_only=True)
class GridMask(SampleOp):
    """Remove a regular grid of squares, turned by a random angle.

    The grid's unit is a uniform share, within ``unit``, of the shorter side, and ``ratio`` of it is
    kept along each axis, so that (1 - ratio)^2 of the image goes. The probability grows
    linearly from 0 to ``p`` over the first ``ramp`` of the job's steps. ``fill: mean`` as for
    ``cutout``. ``p`` is of a sample.

    Source: Chen et al. 2020, arXiv:2001.04086, section 3; ImageNet's ratio 0.6, unit 96 to 224 of 224
    pixels, p 0.8 reached after 240 of 300 epochs, angles to 360 degrees as in the authors' code.
    """

    name: ClassVar[str] = "gridmask"
    needs_levels: ClassVar[bool] = False

    p: float = option(0.8, Number(0, 1))
    ratio: float = option(0.6, Number(0, 1))
    unit: tuple[float, float] = option((0.43, 1.0), Span(0.01, 4.0))
    rotate: float = option(360.0, Number(0, 360))
    ramp: float = option(0.8, Number(0, 1))
    fill: float | str = option("mean", Fill())

    def probability(self, draw: Draw) -> float:
        """Return the probability at this point of the run."""
        return self.p * (min(1.0, draw.progress / self.ramp) if self.ramp > 0 else 1.0)

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images with a grid removed."""
        count, _, height, width = images.shape
        side = min(height, width)
        unit = draw.uniform(self.unit[0] * side, self.unit[1] * side, count, 1, 1).round().clamp(min=2)
        kept = (unit * self.ratio + 0.5).floor()
        angle = draw.uniform(0, self.rotate * math.pi / 180, count, 1, 1)
        offsets = draw.uniform(0, 1, 2, count, 1, 1) * unit
        rows = torch.arange(height).view(1, -1, 1) - (height - 1) / 2
        columns = torch.arange(width).view(1, 1, -1) - (width - 1) / 2
        # Turning the coordinates instead of a drawn mask leaves no corner uncovered.
        along = rows * angle.cos() - columns * angle.sin() + offsets[0].floor()
        across = rows * angle.sin() + columns * angle.cos() + offsets[1].floor()
        removed = ((along % unit) >= kept) & ((across % unit) >= kept)
        return filled(images, removed[:, None], self.fill)


@dataclass(kw_only=True)
class HideAndSeek(SampleOp):
    """Hide each patch of a grid with probability ``hide``.

    Each image takes one of ``cells``, the number of patches a side, at random; 1 hides the whole
    image or nothing. Hidden pixels get the mean, as in the paper, see ``cutout``. ``p`` is of a sample.

    Source: Singh et al. 2018, arXiv:1811.02545, section 3; hide 0.5, patches of 16, 32, 44 and 56 of 224
    pixels, which are 14, 7, 5 and 4 cells; p 0.8, since one
    choice of five in the authors' code hides nothing.
    """

    name: ClassVar[str] = "hide_and_seek"
    needs_levels: ClassVar[bool] = False

    p: float = option(0.8, Number(0, 1))
    cells: tuple[int, ...] = option((14, 7, 5, 4), Integers(1, 512))
    hide: float = option(0.5, Number(0, 1))
    fill: float | str = option("mean", Fill())

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images with patches hidden."""
        count, _, height, width = images.shape
        sizes = torch.tensor(self.cells)[draw.integers(0, len(self.cells), count)]  # (n,)
        most = max(self.cells)
        hidden = draw.uniform(0, 1, count, most * most) < self.hide
        row = torch.arange(height) * sizes[:, None] // height  # (n, H)
        column = torch.arange(width) * sizes[:, None] // width  # (n, W)
        patch = row[:, :, None] * most + column[:, None, :]
        mask = hidden.gather(1, patch.flatten(1)).view(count, 1, height, width)
        return filled(images, mask, self.fill)
