"""Operations on grey levels, colours and noise; pixels and labels stay where they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from . import pixels
from .draw import Draw
from .op import SampleOp
from .options import Integer, Number, Span, option

_RGB = 3
_Change = Callable[[Tensor, Tensor], Tensor]


@dataclass(kw_only=True)
class Brightness(SampleOp):
    """Multiply by a uniform factor. ``p`` is of a sample.

    Source: Cubuk et al. 2018, arXiv:1805.09501, which lists it with 0.1 to 1.9.
    """

    name: ClassVar[str] = "brightness"

    p: float = option(0.5, Number(0, 1))
    factor: tuple[float, float] = option((0.6, 1.4), Span(0.0, 10.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return darker or brighter images."""
        return pixels.brightness(images, draw.uniform(*self.factor, images.shape[0]))


@dataclass(kw_only=True)
class Contrast(SampleOp):
    """Stretch around the mean grey level by a uniform factor. ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "contrast"

    p: float = option(0.5, Number(0, 1))
    factor: tuple[float, float] = option((0.6, 1.4), Span(0.0, 10.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return flatter or harder images."""
        return pixels.contrast(images, draw.uniform(*self.factor, images.shape[0]))


@dataclass(kw_only=True)
class Saturation(SampleOp):
    """Stretch colours around the pixel's grey level by a uniform factor; grey images stay.

    ``p`` is of a sample.

    Source: as for ``brightness`` ("Color" there).
    """

    name: ClassVar[str] = "saturation"

    p: float = option(0.5, Number(0, 1))
    factor: tuple[float, float] = option((0.6, 1.4), Span(0.0, 10.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return paler or more colourful images."""
        return pixels.saturation(images, draw.uniform(*self.factor, images.shape[0]))


@dataclass(kw_only=True)
class Sharpness(SampleOp):
    """Stretch around the smoothed image by a uniform factor: below 1 softer, above sharper.

    ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "sharpness"

    p: float = option(0.5, Number(0, 1))
    factor: tuple[float, float] = option((0.1, 1.9), Span(0.0, 10.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return softer or sharper images."""
        return pixels.sharpness(images, draw.uniform(*self.factor, images.shape[0]))


@dataclass(kw_only=True)
class Gamma(SampleOp):
    """Raise to a uniform power. ``p`` is of a sample.

    Source: Poynton 2003, "Digital video and HDTV".
    """

    name: ClassVar[str] = "gamma"

    p: float = option(0.5, Number(0, 1))
    exponent: tuple[float, float] = option((0.8, 1.25), Span(0.05, 20.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images with other midtones."""
        return pixels.gamma(images, draw.uniform(*self.exponent, images.shape[0]))


@dataclass(kw_only=True)
class Jitter(SampleOp):
    """Change brightness, contrast, saturation and hue, in an order drawn for each batch.

    Factors are uniform in [1 - v, 1 + v]; hue turns by up to ``hue`` of the circle. Saturation and
    hue leave grey images alone. ``p`` is of a sample.

    Source: Chen et al. 2020, arXiv:2002.05709, appendix A (SimCLR; strength 0.5 as on CIFAR-10, p 0.8).
    """

    name: ClassVar[str] = "jitter"

    p: float = option(0.8, Number(0, 1))
    brightness: float = option(0.4, Number(0, 1))
    contrast: float = option(0.4, Number(0, 1))
    saturation: float = option(0.4, Number(0, 1))
    hue: float = option(0.1, Number(0, 0.5))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return images of other colours."""
        count, channels = images.shape[:2]
        factors: dict[_Change, float] = {pixels.brightness: self.brightness, pixels.contrast: self.contrast}
        if channels == _RGB:
            factors[pixels.saturation] = self.saturation
        changes: list[tuple[_Change, float, float]] = [(k, 1 - v, 1 + v) for k, v in factors.items() if v > 0]
        if channels == _RGB and self.hue > 0:
            changes.append((pixels.hue, -self.hue, self.hue))
        for i in draw.permutation(len(changes)).tolist():
            change, low, high = changes[i]
            images = change(images, draw.uniform(low, high, count))
        return images


@dataclass(kw_only=True)
class Solarize(SampleOp):
    """Invert what is at or above ``threshold`` (0.5 is level 128 of 255; 1 changes nothing).

    ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "solarize"

    p: float = option(0.5, Number(0, 1))
    threshold: float = option(0.5, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return solarized images."""
        return pixels.solarize(images, torch.full((images.shape[0],), self.threshold))


@dataclass(kw_only=True)
class Posterize(SampleOp):
    """Keep the ``bits`` highest bits of each of 256 levels; 8 changes nothing. ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "posterize"

    p: float = option(0.5, Number(0, 1))
    bits: int = option(4, Integer(1, 8))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return images of few levels."""
        return pixels.posterize(images, torch.full((images.shape[0],), self.bits))


@dataclass(kw_only=True)
class Equalize(SampleOp):
    """Spread the levels of each channel evenly; the result has 256 levels. ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "equalize"

    p: float = option(0.5, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return equalized images."""
        return pixels.equalize(images)


@dataclass(kw_only=True)
class AutoContrast(SampleOp):
    """Stretch each channel to the full range; the result has 256 levels. ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "autocontrast"

    p: float = option(0.5, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return images that use the full range."""
        return pixels.autocontrast(images)


@dataclass(kw_only=True)
class Invert(SampleOp):
    """Return the negative. ``p`` is of a sample.

    Source: as for ``brightness``.
    """

    name: ClassVar[str] = "invert"

    p: float = option(0.5, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return negatives."""
        return pixels.invert(images)


@dataclass(kw_only=True)
class Greyscale(SampleOp):
    """Replace colours by their luminance, in all channels. ``p`` is of a sample.

    Source: as for ``jitter`` (p 0.2).
    """

    name: ClassVar[str] = "greyscale"
    needs_levels: ClassVar[bool] = False

    p: float = option(0.2, Number(0, 1))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:  # noqa: ARG002 - nothing left to chance
        """Return images without colour."""
        return pixels.grey(images).expand_as(images).contiguous()


@dataclass(kw_only=True)
class GaussianNoise(SampleOp):
    """Add independent normal noise; each image draws its standard deviation. ``p`` is of a sample.

    Source: Bishop 1995, "Training with noise is equivalent to Tikhonov regularization".
    """

    name: ClassVar[str] = "gaussian_noise"

    p: float = option(0.5, Number(0, 1))
    std: tuple[float, float] = option((0.0, 0.1), Span(0.0, 10.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return noisy images, cut to [0, 1]."""
        std = draw.uniform(*self.std, images.shape[0], 1, 1, 1)
        return (images + draw.normal(*images.shape) * std).clamp_(0, 1)


@dataclass(kw_only=True)
class GaussianBlur(SampleOp):
    """Smooth with a Gaussian; each image draws its ``sigma``, in pixels. ``p`` is of a sample.

    Source: as for ``jitter`` (sigma 0.1 to 2, p 0.5).
    """

    name: ClassVar[str] = "gaussian_blur"

    p: float = option(0.5, Number(0, 1))
    sigma: tuple[float, float] = option((0.1, 2.0), Span(0.0, 50.0))

    def apply(self, images: Tensor, draw: Draw) -> Tensor:
        """Return smoothed images."""
        return pixels.gaussian_blur(images, draw.uniform(*self.sigma, images.shape[0]))
