"""One picture of the suspects, each with its index and its labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

#: Of the longer side of a kept picture, in pixels: enough to be looked at.
KEPT_SIDE = 64
#: Most pictures of a sheet, which is at most 1024 pixels a side.
MAX_PICTURES = 100
_CELL = (84, 92)
_CAPTION_LINES = 2
_LINE = 12
_COLOURS = 3


@dataclass(frozen=True, slots=True)
class Suspect:
    """One picture of the sheet.

    Attributes:
        index: Position of the sample in the training data.
        label: Class that the data says.
        guess: Class that the model says.
        picture: uint8 (H, W), or (H, W, 3).
    """

    index: int
    label: int
    guess: int
    picture: Tensor


def thumbnail(image: Tensor) -> Tensor:
    """Return a small copy of a sample.

    Args:
        image: (C, H, W) with values in [0, 1]; three channels are colours, else the first is shown.

    Returns:
        uint8 (H, W) or (H, W, 3), at most ``KEPT_SIDE`` a side.
    """
    stride = math.ceil(max(image.shape[1:]) / KEPT_SIDE)
    small = image[:, ::stride, ::stride].float().nan_to_num(0.0).clamp(0, 1).mul(255).round().to(torch.uint8)
    return small.permute(1, 2, 0).contiguous() if len(small) == _COLOURS else small[0].clone()


def sheet(suspects: Sequence[Suspect]) -> Tensor:
    """Lay suspects side by side, the first at the top left.

    Returns:
        uint8 (H, W, 3).
    """
    columns = math.ceil(math.sqrt(len(suspects)))
    rows = math.ceil(len(suspects) / columns)
    width, height = _CELL
    paper = Image.new("RGB", (columns * width, rows * height), "white")
    draw, font = ImageDraw.Draw(paper), ImageFont.load_default()
    for number, suspect in enumerate(suspects):
        left, top = number % columns * width, number // columns * height
        paper.paste(_enlarged(suspect.picture), (left + 2, top + 2))
        for line, text in enumerate((f"#{suspect.index}", _said_of(suspect))):
            baseline = top + height - (_CAPTION_LINES - line) * _LINE - 2
            draw.text((left + 2, baseline), text, fill="black", font=font)
    return torch.frombuffer(bytearray(paper.tobytes()), dtype=torch.uint8).view(paper.height, paper.width, 3)


def _said_of(suspect: Suspect) -> str:
    if suspect.guess == suspect.label:
        return f"{suspect.label}, learned late"
    return f"{suspect.label}, not {suspect.guess}?"


def _enlarged(picture: Tensor) -> Image.Image:
    image = Image.fromarray(picture.numpy()).convert("RGB")
    factor = max(1, KEPT_SIDE // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
