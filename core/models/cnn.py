"""A small convolutional network for small images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import Tensor, nn

from .data_shape import Shape

_SMALLEST = 8
_POOLED = 3


class _Block(nn.Sequential):
    """3x3 convolution, batch normalisation, ReLU: (B, C, H, W) to (B, C', H, W), or half the sides."""

    def __init__(self, channels_in: int, channels_out: int, *, halve: bool) -> None:
        super().__init__(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            # Before the norm and the ReLU, which then have a quarter of the work.
            nn.MaxPool2d(2) if halve else nn.Identity(),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
        )


class Cnn(nn.Module):
    """Three stages of ``depth`` convolutions, each halving the sides, then a linear layer.

    Args:
        channels: Of the images.
        outputs: Classes, or numbers to predict.
        width: Channels of the first stage; the second and third have two and four times as many.
        depth: Convolutions in the second and third stage.
        dropout: Share of the pooled features that is dropped in training.
    """

    def __init__(self, channels: int, outputs: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        blocks = [_Block(channels, width, halve=True)]
        for channels_in, channels_out in ((width, 2 * width), (2 * width, 4 * width)):
            blocks += [
                _Block(channels_out if i else channels_in, channels_out, halve=i == depth - 1)
                for i in range(depth)
            ]
        self.features = nn.Sequential(*blocks)
        # Where in the image a stroke lies still matters: a 3x3 grid is kept of it.
        self.pool = nn.AdaptiveAvgPool2d(_POOLED)
        self.head = nn.Sequential(
            nn.Flatten(), nn.Dropout(dropout), nn.Linear(4 * width * _POOLED**2, outputs)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, outputs) for (B, C, H, W)."""
        outputs: Tensor = self.head(self.pool(self.features(inputs)))
        return outputs


def cnn(
    shape: Shape,
    *,
    width: Annotated[int, Field(ge=1, le=1024)] = 32,
    depth: Annotated[int, Field(ge=1, le=8)] = 1,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
) -> nn.Module:
    """Build a small convolutional network.

    Args:
        shape: Images of at least 8x8 pixels.
        width: Channels of the first of three stages; they double from stage to stage.
        depth: Convolutions in the second and third stage.
        dropout: Share of the pooled features that is dropped in training.

    Raises:
        DataError: The data holds no such images.
    """
    channels, _, _ = shape.image("cnn", _SMALLEST)
    return Cnn(channels, shape.outputs, width, depth, dropout)
