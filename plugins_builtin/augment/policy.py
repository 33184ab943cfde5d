"""Operations that choose among others: AugMix, RandAugment, TrivialAugment.

Their choices are drawn for each image; an operation then runs on all images that drew it at once.
Shears and rotations are around the image's centre and bilinear, where the authors' PIL code takes the
upper left corner and the nearest pixel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import pixels, warp
from .draw import Draw
from .op import Moved, MovingOp, SampleOp, column
from .options import Integer, Number, option


@dataclass(frozen=True)
class Change:
    """One operation of a menu.

    Attributes:
        kernel: Takes images, an amount (n,) and the grey level of what comes from outside.
        weakest: Amount at strength 0.
        strongest: Amount at strength 1.
        signed: Whether the amount's sign is drawn.
        whole: Whether the amount is cut to a whole number.
        of_side: Whether the amount is a share of the image's side.
    """

    kernel: Callable[[Tensor, Tensor, float], Tensor]
    weakest: float = 0.0
    strongest: float = 0.0
    signed: bool = False
    whole: bool = False
    of_side: bool = False

    def amounts(self, strength: Tensor, sign: Tensor, side: int) -> Tensor:
        """Return the amount for each ``strength`` in [0, 1] and ``sign``, both (n,)."""
        amount = (self.strongest - self.weakest) * strength
        amount = self.weakest + (amount.trunc() if self.whole else amount)
        if self.of_side:
            amount = amount * side
        return amount * sign if self.signed else amount


def run(
    images: Tensor,
    menu: tuple[Change, ...],
    picks: Tensor,
    strength: Tensor,
    draw: Draw,
    fill: float,
    moved: list[Moved] | None = None,
) -> Tensor:
    """Change each image by the one of ``menu`` that it picked.

    Args:
        images: (n, C, H, W).
        menu: What there is to pick.
        picks: (n,) positions in ``menu``, int64; a negative one leaves the image alone.
        strength: (n,) in [0, 1].
        draw: For the signs.
        fill: Grey level of what comes from outside.
        moved: Where moves are added.
    """
    signs = draw.signs(images.shape[0])
    result = images.clone()
    for i, change in enumerate(menu):
        chosen = (picks == i).nonzero().squeeze(1)
        if chosen.numel():
            amounts = change.amounts(strength[chosen], signs[chosen], images.shape[3])
            if moved is not None and isinstance(change.kernel, warp.Warp):
                move = change.kernel.move(amounts, (chosen.numel(), *images.shape[1:]))
                moved.append((chosen, move))
                result[chosen] = move.read(images[chosen], fill=fill)
            else:
                result[chosen] = change.kernel(images[chosen], amounts, fill)
    return result


def _plain(kernel: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda images, _amount, _fill: kernel(images)


def _level(kernel: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, float], Tensor]:
    return lambda images, amount, _fill: kernel(images, amount)


_IDENTITY = Change(_plain(lambda images: images))
_AUTOCONTRAST = Change(_plain(pixels.autocontrast))
_EQUALIZE = Change(_plain(pixels.equalize))


def _menu(
    *, shear: float, translate: float, of_side: bool, degrees: float, bits: int, low: float, high: float
) -> tuple[Change, ...]:
    """Return the 14 operations of RandAugment with other ranges."""
    enhancers = (pixels.saturation, pixels.contrast, pixels.brightness, pixels.sharpness)
    return (
        _IDENTITY,
        _AUTOCONTRAST,
        _EQUALIZE,
        Change(warp.rotate, 0, degrees, signed=True),
        Change(_level(pixels.solarize), 1, 0),
        Change(_level(pixels.posterize), 8, bits, whole=True),
        *(Change(_level(kernel), low, high) for kernel in enhancers),
        Change(warp.shear_x, 0, shear, signed=True),
        Change(warp.shear_y, 0, shear, signed=True),
        Change(warp.translate_x, 0, translate, signed=True, whole=not of_side, of_side=of_side),
        Change(warp.translate_y, 0, translate, signed=True, whole=not of_side, of_side=of_side),
    )


#: Ranges of arXiv:1805.09501; 150 of 331 pixels.
RAND_MENU = _menu(shear=0.3, translate=150 / 331, of_side=True, degrees=30, bits=4, low=0.1, high=1.9)
#: Ranges "wide" of arXiv:2103.10158.
WIDE_MENU = _menu(shear=0.99, translate=32, of_side=False, degrees=135, bits=2, low=0.01, high=2.0)
#: Without what resembles the corruptions of ImageNet-C: arXiv:1912.02781, section 3.
AUGMIX_MENU = (
    _AUTOCONTRAST,
    _EQUALIZE,
    Change(_level(pixels.posterize), 4, 0, whole=True),
    Change(warp.rotate, 0, 30, signed=True),
    Change(_level(pixels.solarize), 1, 0),
    Change(warp.shear_x, 0, 0.3, signed=True),
    Change(warp.shear_y, 0, 0.3, signed=True),
    Change(warp.translate_x, 0, 1 / 3, signed=True, of_side=True),
    Change(warp.translate_y, 0, 1 / 3, signed=True, of_side=True),
)


@dataclass(kw_only=True)
class RandAugment(MovingOp):
    """Apply ``n`` of 14 operations, drawn with equal probability, all with magnitude ``m`` of 10.

    Identity, autocontrast, equalize, rotate, solarize, posterize, saturation, contrast, brightness,
    sharpness, shear and translation along x and y. ``p`` is of a sample.

    Source: Cubuk et al. 2019, arXiv:1909.13719, section 3; n 2 and m 9 as for ResNet-50 on ImageNet,
    ranges of AutoAugment, arXiv:1805.09501.
    """

    name: ClassVar[str] = "randaugment"

    n: int = option(2, Integer(1, 14))
    m: float = option(9.0, Number(0, 10))
    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return images after ``n`` operations, and the moves among these."""
        count = images.shape[0]
        strength = torch.full((count,), self.m / 10)
        moved: list[Moved] = []
        for _ in range(self.n):
            picks = draw.integers(0, len(RAND_MENU), count)
            images = run(images, RAND_MENU, picks, strength, draw, self.fill, moved)
        return images, moved


@dataclass(kw_only=True)
class TrivialAugment(MovingOp):
    """Apply one of the operations of ``randaugment`` with a magnitude drawn from 31.

    Ranges are the paper's wide ones; translation is up to 32 pixels whatever the size, as there.
    ``p`` is of a sample.

    Source: Müller and Hutter 2021, arXiv:2103.10158, section 3.
    """

    name: ClassVar[str] = "trivialaugment"

    fill: float = option(0.0, Number(0, 1))

    def apply_and_tell(self, images: Tensor, draw: Draw) -> tuple[Tensor, list[Moved]]:
        """Return images after one operation, and the moves among these."""
        count = images.shape[0]
        picks = draw.integers(0, len(WIDE_MENU), count)
        strength = draw.integers(0, 31, count) / 30
        moved: list[Moved] = []
        return run(images, WIDE_MENU, picks, strength, draw, self.fill, moved), moved


@dataclass(kw_only=True)
class AugMix(SampleOp):
    """Mix the image with a blend of ``width`` chains of one to three random operations.

    Chains are weighted by Dirichlet(alpha), the blend by Beta(alpha, alpha). ``severity`` is the upper bound
    of an operation's strength, out of 10; ``depth`` fixes the length of all chains, -1 draws it. The
    paper's consistency loss between three versions of an image is not part of it. ``p`` is of a sample.

    Source: Hendrycks et al. 2019, arXiv:1912.02781, section 3 and algorithm 1; width 3, depth 1 to 3,
    alpha 1, severity 3 as in the authors' code for CIFAR-10.
    """

    name: ClassVar[str] = "augmix"
    moves: ClassVar[bool] = True

    width: int = option(3, Integer(1, 16))
    depth: int = option(-1, Integer(-1, 16))
    alpha: float = option(1.0, Number(0, 1000, low_included=False))
    severity: float = option(3.0, Number(0.1, 10))
    fill: float = option(0.0, Number(0, 1))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.depth == 0:
            raise ValueError("depth is 0; it must be -1 (one to three, drawn) or a whole number from 1 to 16")

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return mixed images."""
        count = images.shape[0]
        weights = draw.dirichlet(self.alpha, self.width, count)  # (n, width)
        kept = draw.beta(self.alpha, count)
        chains = self._chains(images.repeat(self.width, 1, 1, 1), draw).view(self.width, *images.shape)
        blend = (chains * weights.t().reshape(self.width, count, 1, 1, 1)).sum(0)
        return torch.lerp(blend, images, column(kept)).clamp_(0, 1)

    def _chains(self, images: Tensor, draw: Draw) -> Tensor:
        count = images.shape[0]
        lengths = torch.full((count,), self.depth) if self.depth > 0 else draw.integers(1, 4, count)
        for position in range(int(lengths.max())):
            picks = draw.integers(0, len(AUGMIX_MENU), count)
            strength = draw.uniform(0.1, self.severity, count) / 10
            picks = torch.where(position < lengths, picks, -1)
            images = run(images, AUGMIX_MENU, picks, strength, draw, self.fill)
        return images
