"""Changes of grey levels and colours of image batches.

Functions take images (n, C, H, W) in [0, 1] and return new ones; an amount is (n,), one for each image.
Those named after a function of PIL's ``ImageOps`` give its very result on images of 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from .op import column

_LEVELS = 256
_RGB = 3
_RGB_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R BT.601, as PIL's conversion to grey


def levels(images: Tensor) -> Tensor:
    """Return the nearest of 256 levels, as float32 0 … 255."""
    return (images * (_LEVELS - 1)).round_()


def grey(images: Tensor) -> Tensor:
    """Return the luminance, (n, 1, H, W); the mean over the channels unless there are three."""
    if images.shape[1] == _RGB:
        red, green, blue = images.unbind(1)
        return (red * _RGB_WEIGHTS[0] + green * _RGB_WEIGHTS[1] + blue * _RGB_WEIGHTS[2])[:, None]
    return images.mean(1, keepdim=True)


def blend(start: Tensor, images: Tensor, factor: Tensor) -> Tensor:
    """Return ``start`` where factor is 0 and ``images`` where it is 1, straight on beyond, within [0, 1]."""
    return torch.add(start, (images - start) * column(factor)).clamp_(0, 1)


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiply by ``factor``."""
    return (images * column(factor)).clamp_(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Stretch around the mean of the luminance, as a whole level."""
    mean = grey(images).mean(dim=(1, 2, 3), keepdim=True)
    return blend(levels(mean) / (_LEVELS - 1), images, factor)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Stretch around the luminance of each pixel; grey images stay."""
    return images if images.shape[1] == 1 else blend(grey(images), images, factor)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Stretch around a smoothed image (3x3, centre weight 5 of 13); the outermost pixels stay."""
    inner = images[:, :, 1:-1, 1:-1]
    if inner.numel() == 0:
        return images.clone()
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) / 13
    result = images.clone()
    result[:, :, 1:-1, 1:-1] = blend(smooth, inner, factor)
    return result


def invert(images: Tensor) -> Tensor:
    """Return the negative."""
    return 1 - images


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Invert what is at or above ``threshold``; 1 lies above all levels, 0.5 is level 128."""
    return torch.where(levels(images) < column(threshold * _LEVELS), images, 1 - images)


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keep the ``bits`` (0 to 8, whole) highest bits of each level; 8 changes nothing."""
    step = column(torch.exp2(8 - bits.float()))
    kept = (levels(images) / step).floor_() * step / (_LEVELS - 1)
    return torch.where(step == 1, images, kept)


def gamma(images: Tensor, exponent: Tensor) -> Tensor:
    """Raise to the power of ``exponent``."""
    return images.pow(column(exponent))


def equalize(images: Tensor) -> Tensor:
    """Spread the levels of each channel so that each is used about equally often."""
    level, histogram = _histogram(images)
    # The highest level in use decides the step: it must land at the end of the scale.
    used = histogram > 0
    last = _LEVELS - 1 - used.flip(1).int().argmax(1, keepdim=True)
    step = (histogram.sum(1, keepdim=True) - histogram.gather(1, last)).div(
        _LEVELS - 1, rounding_mode="floor"
    )
    below = histogram.cumsum(1) - histogram
    table = (below + step.div(2, rounding_mode="floor")).div(step.clamp(min=1), rounding_mode="floor")
    table = torch.where(step > 0, table.clamp(max=_LEVELS - 1), torch.arange(_LEVELS))
    return _look_up(images, level, table, step > 0)


def autocontrast(images: Tensor) -> Tensor:
    """Stretch each channel so that its lowest level becomes 0 and its highest 255."""
    level, histogram = _histogram(images)
    used = (histogram > 0).int()
    low = used.argmax(1, keepdim=True)
    high = _LEVELS - 1 - used.flip(1).argmax(1, keepdim=True)
    # In double precision and cut, not rounded, as PIL does.
    # (A number over a tensor would be multiplied by the reciprocal, and rounded twice.)
    top = torch.tensor(_LEVELS - 1, dtype=torch.float64)
    scale = top / (high - low).clamp(min=1)
    table = (torch.arange(_LEVELS) * scale - low * scale).trunc().clamp(0, _LEVELS - 1)
    return _look_up(images, level, table, high > low)


def _histogram(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return levels (n * C, H * W) int64 and how often each occurs (n * C, 256) int64."""
    level = levels(images).flatten(2).flatten(0, 1).long()
    rows = level.shape[0]
    shifted = level + torch.arange(rows)[:, None] * _LEVELS
    return level, torch.bincount(shifted.flatten(), minlength=rows * _LEVELS).view(rows, _LEVELS)


def _look_up(images: Tensor, level: Tensor, table: Tensor, changes: Tensor) -> Tensor:
    values = (table.float() / (_LEVELS - 1)).gather(1, level).view(images.shape)
    return torch.where(changes.view(*images.shape[:2], 1, 1), values, images)


def hue(images: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of colour images by ``turns`` of the circle, -0.5 to 0.5."""
    high, low = images.amax(1), images.amin(1)
    span = high - low
    red, green, blue = images.unbind(1)
    safe = torch.where(span > 0, span, 1.0)
    angle = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # sixths of the circle
    angle = angle + turns.view(-1, 1, 1) * 6
    channels = [
        high - span * torch.minimum(place, 4 - place).clamp_(0, 1)
        for place in ((angle + offset) % 6 for offset in (5, 3, 1))
    ]
    return torch.stack(channels, 1).clamp_(0, 1)


def gaussian_blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Smooth with a Gaussian of ``sigma`` pixels, cut at three of the largest; the edge is repeated."""
    reach = max(1, int((3 * sigma.max()).ceil().item()))
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    weights = torch.exp(-taps.square() / (2 * sigma[:, None].clamp(min=1e-3).square()))
    weights = weights / weights.sum(1, keepdim=True)  # (n, taps)
    return _smooth(_smooth(images, weights, 2), weights, 3).clamp_(0, 1)


def _smooth(images: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Convolve along dimension ``dim`` (2 or 3) with ``weights``, (n, taps)."""
    reach, size = weights.shape[1] // 2, images.shape[dim]
    padded = pad(images, [0, 0, reach, reach] if dim == 2 else [reach, reach, 0, 0], mode="replicate")  # noqa: PLR2004
    total = torch.zeros_like(images)
    for i, weight in enumerate(weights.unbind(1)):
        total.addcmul_(padded.narrow(dim, i, size), column(weight))
    return total
