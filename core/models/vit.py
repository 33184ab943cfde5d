"""A small vision transformer.

Source: Dosovitskiy et al. 2020, "An image is worth 16x16 words", arXiv:2010.11929;
pre-normalised blocks, and the mean over tokens in place of a class token.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..hooks.errors import DataError
from .data_shape import Shape

_HIDDEN_FACTOR = 4
#: Attention is quadratic in the number of patches.
_MOST_PATCHES = 4096


class _Attention(nn.Module):
    """Multi-head self-attention over tokens: (B, N, D) to (B, N, D)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Let every token read every other."""
        batch, count, dim = tokens.shape
        qkv = self.qkv(tokens).view(batch, count, 3, self.heads, dim // self.heads)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (B, heads, N, D / heads)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value)
        outputs: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, count, dim))
        return outputs


class _Block(nn.Module):
    """Attention, then a perceptron, each behind a layer norm and beside a shortcut."""

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = _Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(
            nn.Linear(dim, _HIDDEN_FACTOR * dim), nn.GELU(), nn.Linear(_HIDDEN_FACTOR * dim, dim)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, N, D) for (B, N, D)."""
        tokens = tokens + self.dropout(self.attention(self.norm1(tokens)))
        outputs: Tensor = tokens + self.dropout(self.mlp(self.norm2(tokens)))
        return outputs


class Vit(nn.Module):
    """Patches to tokens, blocks of attention, the mean token to outputs.

    Args:
        image: Channels, height and width.
        outputs: Classes, or numbers to predict.
        patch: Side of a patch in pixels; divides height and width.
        dim: Numbers in a token.
        depth: Blocks.
        heads: Of each block; divides ``dim``.
        dropout: Share dropped after attention and perceptron in training.
    """

    def __init__(
        self,
        image: tuple[int, int, int],
        outputs: int,
        *,
        patch: int,
        dim: int,
        depth: int,
        heads: int,
        dropout: float,
    ) -> None:
        super().__init__()
        channels, height, width = image
        self.embed = nn.Conv2d(channels, dim, patch, patch)
        self.position = nn.Parameter(torch.empty(1, (height // patch) * (width // patch), dim))
        self.blocks = nn.Sequential(*(_Block(dim, heads, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, outputs)
        nn.init.trunc_normal_(self.position, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (B, outputs) for (B, C, H, W)."""
        tokens = self.embed(inputs).flatten(2).transpose(1, 2) + self.position  # (B, N, D)
        outputs: Tensor = self.head(self.norm(self.blocks(tokens)).mean(1))
        return outputs


def vit(
    shape: Shape,
    *,
    patch: Annotated[int, Field(ge=1, le=64)] | None = None,
    dim: Annotated[int, Field(ge=8, le=2048)] = 64,
    depth: Annotated[int, Field(ge=1, le=48)] = 4,
    heads: Annotated[int, Field(ge=1, le=64)] = 4,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Build a small vision transformer.

    Args:
        shape: Images whose sides are multiples of ``patch``.
        patch: Side of a patch in pixels; by default the size that gives 7 to 8 patches a side, if one fits.
        dim: Numbers in a token.
        depth: Blocks.
        heads: Of each block; divides ``dim``.
        dropout: Share dropped after attention and perceptron in training.

    Raises:
        DataError: The data holds no such images, or the options do not fit each other.
    """
    image = shape.image("vit", 2)
    _, height, width = image
    if patch is None:
        patch = max(1, height // 7)
        while height % patch or width % patch:
            patch -= 1
    if height % patch or width % patch:
        raise DataError(
            f"model 'vit': option 'patch' is {patch}, which does not divide {height}x{width} pixels"
        )
    if (height // patch) * (width // patch) > _MOST_PATCHES:
        raise DataError(
            f"model 'vit': option 'patch' is {patch}, which gives over {_MOST_PATCHES} patches; raise it"
        )
    if dim % heads:
        raise DataError(f"model 'vit': option 'heads' is {heads}, which does not divide 'dim', {dim}")
    return Vit(image, shape.outputs, patch=patch, dim=dim, depth=depth, heads=heads, dropout=dropout)
