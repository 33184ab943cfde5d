"""ResNet-18.

Source: He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition",
arXiv:1512.03385; stem for small images as in its section 4.2.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from .data_shape import Shape

_SMALLEST = 8
_SMALL_IMAGE = 64
_STAGES = 4
_BLOCKS = 2


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut: (B, C, H, W) to (B, C', H / stride, W / stride)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels_out)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )
        # Each block starts as its shortcut, which trains faster at first.
        nn.init.zeros_(self.norm2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the residual sum."""
        hidden = self.relu(self.norm1(self.conv1(inputs)))
        outputs: Tensor = self.relu(self.norm2(self.conv2(hidden)) + self.shortcut(inputs))
        return outputs


class ResNet18(nn.Module):
    """Eighteen layers with shortcuts.

    Args:
        channels: Of the images.
        outputs: Classes, or numbers to predict.
        width: Channels of the first of four stages; they double from stage to stage.
        small: Whether images keep their size in the first layer.
    """

    def __init__(self, channels: int, outputs: int, width: int, *, small: bool) -> None:
        super().__init__()
        kernel, stride = (3, 1) if small else (7, 2)
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Identity() if small else nn.MaxPool2d(3, 2, 1),
        )
        blocks, channels_in = [], width
        for stage in range(_STAGES):
            channels_out = width * 2**stage
            for block in range(_BLOCKS):
                halves = stage > 0 and block == 0
                blocks.append(_Block(channels_in, channels_out, 2 if halves else 1))
                channels_in = channels_out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, outputs) for (B, C, H, W)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)))
        return outputs


def resnet18(shape: Shape, *, width: Annotated[int, Field(ge=1, le=1024)] = 64) -> nn.Module:
    """Build a ResNet-18; images of at most 64 pixels a side keep their size in the first layer.

    Args:
        shape: Images of at least 8x8 pixels.
        width: Channels of the first of four stages; they double from stage to stage.

    Raises:
        DataError: The data holds no such images.
    """
    channels, height, image_width = shape.image("resnet18", _SMALLEST)
    return ResNet18(channels, shape.outputs, width, small=max(height, image_width) <= _SMALL_IMAGE)
