"""Operations that mix several images, and their labels with them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ringfence import Batch

from .draw import Draw
from .masks import Boxes
from .op import Op, column
from .options import Flag, Number, option


def class_targets(name: str, batch: Batch) -> Tensor:
    """Return class probabilities, (B, K) float32.

    Raises:
        ValueError: The job is a regression.
    """
    if batch.num_classes is None:
        raise ValueError(
            f"{name} mixes class labels by area, and this job is a regression; "
            "use mixup, which mixes targets linearly, or an operation that keeps them"
        )
    return batch.soft_targets()


def mixed(own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return ``weight * own + (1 - weight) * other``; ``weight`` is (n,) and ``own`` (n, …)."""
    # lerp never leaves the interval between its ends, where the plain sum may, by rounding.
    return torch.lerp(other, own, weight.to(own.dtype).view(-1, *[1] * (own.dim() - 1)))


@dataclass(frozen=True)
class Mixing:
    """Which samples are blended, and how.

    Attributes:
        weight: (B,) or (1,) share of each sample itself, 1 of those that stay.
        partner: (B,) position of the sample that it is blended with.
    """

    weight: Tensor
    partner: Tensor

    def blend(self, values: Tensor) -> Tensor:
        """Return blended ``values``, (B, …)."""
        return mixed(values, values[self.partner], self.weight)

    def blend_targets(self, batch: Batch) -> Tensor:
        """Return blended class probabilities, or values of a regression."""
        targets = batch.targets if batch.num_classes is None else batch.soft_targets()
        if not targets.is_floating_point():
            raise ValueError(f"mixup needs floating-point targets in a regression; these are {targets.dtype}")
        return self.blend(targets)

    def join_masks(self, mask: Tensor) -> Tensor:
        """Return ``mask``, (B, L), with what the partners have too where samples are blended."""
        return torch.where(self.weight[:, None] < 1, torch.maximum(mask, mask[self.partner]), mask)


@dataclass(kw_only=True)
class MixUp(Op):
    """Blend each sample with another of the batch, inputs and targets alike.

    One weight a batch, lambda ~ Beta(alpha, alpha), as in the authors' code, or
    one a sample. Targets are class probabilities, or the values of a regression.
    Works on inputs of any shape. ``p`` is of a batch, with ``per_sample`` of a sample.

    Source: Zhang et al. 2018, arXiv:1710.09412, section 2; alpha 1 as on CIFAR-10 (section 3.2),
    0.2 on ImageNet (section 3.1).
    """

    name: ClassVar[str] = "mixup"
    mixes: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False
    needs_images: ClassVar[bool] = False

    alpha: float = option(1.0, Number(0, 1000, low_included=False))
    per_sample: bool = option(default=False, kind=Flag())

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return mixed samples."""
        mixing = self.draw_mixing(len(batch), draw)
        if mixing is None:
            return batch
        return batch.with_(inputs=mixing.blend(batch.inputs), targets=mixing.blend_targets(batch))

    def draw_mixing(self, count: int, draw: Draw) -> Mixing | None:
        """Return how ``count`` samples are mixed, if they are."""
        chosen = _chosen(draw, self.p, count, per_sample=self.per_sample)
        if chosen is None:
            return None
        weight = draw.beta(self.alpha, count if self.per_sample else 1)
        return Mixing(torch.where(chosen, weight, 1.0), draw.permutation(count))


@dataclass(kw_only=True)
class CutMix(Op):
    """Paste a rectangle of another image; labels are mixed by the area that was really pasted.

    One rectangle and partner order a batch, as in the authors' code, or one rectangle a
    sample. The rectangle covers 1 - lambda of the image, lambda ~ Beta(alpha, alpha), around a
    uniform centre; what falls outside is cut off. ``p`` is of a batch, with ``per_sample`` of a sample.

    Source: Yun et al. 2019, arXiv:1905.04899, section 3.1 and algorithm A1; alpha 1, and p 0.5 as on
    CIFAR in the authors' code (1.0 on ImageNet).
    """

    name: ClassVar[str] = "cutmix"
    mixes: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    p: float = option(0.5, Number(0, 1))
    alpha: float = option(1.0, Number(0, 1000, low_included=False))
    per_sample: bool = option(default=False, kind=Flag())

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return mixed samples."""
        targets = class_targets(self.name, batch)
        images = batch.inputs
        count, _, height, width = images.shape
        chosen = _chosen(draw, self.p, count, per_sample=self.per_sample)
        if chosen is None:
            return batch
        mask = self._boxes(draw, count if self.per_sample else 1, height, width).mask(height, width)
        mask &= column(chosen)
        partner = draw.permutation(count)
        pasted = mask.sum(dim=(1, 2, 3)).double() / (height * width)
        return batch.with_(
            inputs=torch.where(mask, images[partner], images),
            targets=mixed(targets, targets[partner], (1 - pasted).float()),
        )

    def _boxes(self, draw: Draw, count: int, height: int, width: int) -> Boxes:
        side = (1 - draw.beta(self.alpha, count)).clamp_(min=0).sqrt_()  # share of height and of width
        cut_height = (side * height).long()
        cut_width = (side * width).long()
        top = draw.integers(0, height, count) - cut_height // 2
        left = draw.integers(0, width, count) - cut_width // 2
        return Boxes(top, top + cut_height, left, left + cut_width)


@dataclass(kw_only=True)
class FMix(Op):
    """Mix two images by a blob-like mask of low spatial frequencies; labels by its area.

    The mask is noise whose spectrum falls with frequency to the power of
    ``decay``, cut at the level that leaves a share lambda ~ Beta(alpha, alpha). One mask and
    partner order a batch, as in the authors' code. ``p`` is of a batch.

    Source: Harris et al. 2020, arXiv:2002.12047; alpha 1, decay power 3.
    """

    name: ClassVar[str] = "fmix"
    mixes: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False

    alpha: float = option(1.0, Number(0, 1000, low_included=False))
    decay: float = option(3.0, Number(0, 20))

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return mixed samples."""
        targets = class_targets(self.name, batch)
        images = batch.inputs
        count, _, height, width = images.shape
        if not draw.happens(self.p):
            return batch
        share = draw.beta(self.alpha, 1).item() * height * width
        # Half the time up and half down, so that the mean of the mask stays lambda.
        ones = math.ceil(share) if draw.happens(0.5) else math.floor(share)
        levels = self._levels(draw, height, width).flatten()
        mask = torch.zeros(height * width, dtype=torch.bool)
        mask[levels.argsort(descending=True, stable=True)[:ones]] = True
        partner = draw.permutation(count)
        weight = torch.tensor([ones / (height * width)])
        return batch.with_(
            inputs=torch.where(mask.view(height, width), images, images[partner]),
            targets=mixed(targets, targets[partner], weight),
        )

    def _levels(self, draw: Draw, height: int, width: int) -> Tensor:
        rows = torch.fft.fftfreq(height)[:, None]
        columns = torch.fft.rfftfreq(width)
        frequency = (rows.square() + columns.square()).sqrt()
        scale = frequency.clamp(min=1 / max(height, width)).pow(-self.decay)
        noise = draw.normal(2, *frequency.shape)
        levels: Tensor = torch.fft.irfft2(
            torch.complex(noise[0] * scale, noise[1] * scale), s=(height, width)
        )
        return levels


@dataclass(kw_only=True)
class Mosaic(Op):
    """Show the corner where four images of the batch meet; labels are mixed by area.

    A sample and three others are laid out two by two, and a window of the size of one is cut
    around a uniform point at least ``margin`` from its edges. ``p`` is of a sample.

    Source: Bochkovskiy et al. 2020, arXiv:2004.10934, section 3.3; margin 0.2 as in the authors'
    code. Their resizing of the four images is left to ``resized_crop`` or ``affine``.
    """

    name: ClassVar[str] = "mosaic"
    mixes: ClassVar[bool] = True
    needs_levels: ClassVar[bool] = False
    moves: ClassVar[bool] = True

    margin: float = option(0.2, Number(0, 0.5))

    def change(self, batch: Batch, draw: Draw) -> Batch:
        """Return mixed samples."""
        targets = class_targets(self.name, batch)
        images = batch.inputs
        count, _, height, width = images.shape
        chosen = draw.choose(self.p, count)
        if chosen.numel() == 0:
            return batch
        members = torch.stack([chosen, *(draw.permutation(count)[chosen] for _ in range(3))])  # (4, n)
        row = self._cut(draw, chosen.numel(), height)
        column_ = self._cut(draw, chosen.numel(), width)
        inputs = images.index_copy(0, chosen, _four(images, members, row, column_))
        above, before = row.double() / height, column_.double() / width
        shares = torch.stack(
            [above * before, above * (1 - before), (1 - above) * before, (1 - above) * (1 - before)]
        ).float()  # (4, n)
        labels = (targets[members] * shares[:, :, None]).sum(0)
        return batch.with_(inputs=inputs, targets=targets.index_copy(0, chosen, labels))

    def _cut(self, draw: Draw, count: int, size: int) -> Tensor:
        return draw.uniform(self.margin * size, (1 - self.margin) * size, count).round().long()


def _four(images: Tensor, members: Tensor, row: Tensor, column_: Tensor) -> Tensor:
    """Return windows over two-by-two layouts, (n, C, H, W).

    Args:
        images: (B, C, H, W).
        members: (4, n) positions in ``images``: top left, top right, bottom left, bottom right.
        row: (n,) rows of each window that show the upper images; so with ``column_``.
        column_: (n,).
    """
    height, width = images.shape[2:]
    rows = torch.arange(height) - row[:, None]  # (n, H), negative above the cut
    columns = torch.arange(width) - column_[:, None]  # (n, W)
    quadrant = 2 * (rows >= 0).long()[:, :, None] + (columns >= 0).long()[:, None, :]  # (n, H, W)
    image = members.t().reshape(-1, 4).gather(1, quadrant.flatten(1))  # (n, H * W)
    pixel = (rows % height)[:, :, None] * width + (columns % width)[:, None, :]
    flat = image * (height * width) + pixel.flatten(1)
    # Pixels as rows of C values: one look-up table for all channels.
    table = images.permute(0, 2, 3, 1).reshape(-1, images.shape[1])
    windows = table.index_select(0, flat.flatten())
    return windows.view(-1, height, width, images.shape[1]).permute(0, 3, 1, 2).contiguous()


def _chosen(draw: Draw, p: float, count: int, *, per_sample: bool) -> Tensor | None:
    """Return which samples are mixed, bool of (count,) or (1,); None if none is."""
    if not per_sample:
        return torch.ones(1, dtype=torch.bool) if draw.happens(p) else None
    chosen = torch.zeros(count, dtype=torch.bool)
    chosen[draw.choose(p, count)] = True
    return chosen if bool(chosen.any()) else None
