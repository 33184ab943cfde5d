"""A U-Net: an output for each pixel.

Source: Ronneberger, Fischer and Brox 2015, "U-Net: Convolutional networks for biomedical image segmentation",
arXiv:1505.04597; with padded convolutions and batch normalisation.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..hooks.errors import DataError
from .data_shape import Shape


class _Block(nn.Sequential):
    """Two 3x3 convolutions with batch normalisation and ReLU: (B, C, H, W) to (B, C', H, W)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Stages that halve the sides, as many that double them, each with what the one of its size has seen.

    Args:
        channels: Of the images.
        outputs: For each pixel.
        width: Channels of the first stage; they double from stage to stage.
        depth: How often the sides are halved.
    """

    def __init__(self, channels: int, outputs: int, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**stage for stage in range(depth + 1)]
        self.down = nn.ModuleList(map(_Block, [channels, *widths], widths))
        self.pool = nn.MaxPool2d(2)
        narrower = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(wide, narrow, 2, 2) for wide, narrow in narrower)
        self.up = nn.ModuleList(_Block(wide, narrow) for wide, narrow in narrower)
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, outputs, H, W) for (B, C, H, W), whatever H and W."""
        height, width = inputs.shape[-2:]
        multiple = 2 ** len(self.up)
        hidden = nn.functional.pad(inputs, (0, -width % multiple, 0, -height % multiple))
        seen = []
        for stage, block in enumerate(self.down):
            hidden = block(hidden if stage == 0 else self.pool(hidden))
            seen.append(hidden)
        for upsample, block, beside in zip(self.upsample, self.up, seen[-2::-1], strict=True):
            hidden = block(torch.cat([beside, upsample(hidden)], 1))
        outputs: Tensor = self.head(hidden)[..., :height, :width]
        return outputs


def unet(
    shape: Shape,
    *,
    width: Annotated[int, Field(ge=1, le=1024)] = 32,
    depth: Annotated[int, Field(ge=1, le=8)] = 3,
) -> nn.Module:
    """Build a U-Net; images of any size are padded inside, and the outputs cut to it.

    Args:
        shape: Images, with a class or numbers for each pixel.
        width: Channels of the first stage; they double from stage to stage.
        depth: How often the sides are halved.

    Raises:
        DataError: The data holds no images, or one target for each.
    """
    channels, _, _ = shape.image("unet", 1)
    if not shape.positions:
        raise DataError("model 'unet' gives an output a pixel; the data have one target an image: use cnn")
    return UNet(channels, shape.outputs, width, depth)
