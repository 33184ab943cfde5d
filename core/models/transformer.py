"""A transformer encoder over token ids, sequences of numbers, or the patches of images.

Source: Vaswani et al. 2017, "Attention is all you need", arXiv:1706.03762; layer norms come first, as in
Xiong et al. 2020, arXiv:2002.04745, and positions are learned.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..hooks.errors import DataError
from .data_shape import Shape
from .sequence_input import PadId, counted_positions, embedding

#: Attention is quadratic in the length.
_LONGEST = 65536
_IMAGE_DIMS = 3


class _Patches(nn.Conv2d):
    """Vectors of the square patches of images, row by row: (B, C, H, W) to (B, N, D)."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__(channels, dim, patch, patch)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - as torch names it
        """Return (B, N, D)."""
        return super().forward(input).flatten(2).transpose(1, 2)


class Transformer(nn.Module):
    """Embedding, learned positions, encoder layers, a linear layer.

    Args:
        embed: Makes (B, L, d_model) of the inputs.
        outputs: Classes, or numbers to predict.
        max_length: L, at most.
        d_model: Numbers in a vector.
        num_layers: Of the encoder.
        num_heads: Of each layer.
        dim_feedforward: Width of each layer's perceptron.
        dropout: In training.
        causal: A position reads those before it only.
        per_position: Outputs are of each position, not of the mean over those that count.
        pad_id: Token that fills up, where no mask is given.
    """

    def __init__(
        self,
        embed: nn.Module,
        outputs: int,
        *,
        max_length: int,
        d_model: int,
        num_layers: int,
        num_heads: int,
        dim_feedforward: int,
        dropout: float,
        causal: bool,
        per_position: bool,
        pad_id: int | None,
    ) -> None:
        super().__init__()
        self.causal, self.per_position, self.pad_id = causal, per_position, pad_id
        self.embed = embed
        self.position = nn.Embedding(max_length, d_model)
        nn.init.normal_(self.position.weight, std=0.02)
        self.dropout = nn.Dropout(dropout)
        # Not batch_first: torch would go another way where no gradient is asked for, to other last digits.
        layer = nn.TransformerEncoderLayer(
            d_model, num_heads, dim_feedforward, dropout, activation="gelu", norm_first=True
        )
        self.encoder = nn.TransformerEncoder(
            layer, num_layers, norm=nn.LayerNorm(d_model), enable_nested_tensor=False
        )
        # Torch copies one layer, so that all would begin alike.
        for parameter in self.encoder.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(d_model, outputs)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """Return (B, outputs), or (B, outputs, L) where outputs are of each position.

        Args:
            input_ids: (B, L) token ids; or numbers (B, L, F), or images (B, C, H, W), if built for those.
            attention_mask: (B, L), 0 where a token only fills up.
        """
        tokens = self.embed(input_ids)  # (B, L, D)
        length = tokens.shape[1]
        if length > self.position.num_embeddings:
            raise ValueError(
                f"the sequences have {length} positions, and the model {self.position.num_embeddings}: cut "
                "them, or train with a larger max_length"
            )
        mask = counted_positions(input_ids, attention_mask, self.pad_id)
        tokens = self.dropout(tokens + self.position.weight[:length])
        later = None
        if self.causal:
            later = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        encoded = self.encoder(
            tokens.transpose(0, 1),
            mask=later,
            src_key_padding_mask=None if mask is None else ~mask,
            is_causal=self.causal,
        ).transpose(0, 1)
        if self.per_position:
            outputs: Tensor = self.head(encoded).transpose(1, 2)
            return outputs
        pooled: Tensor = self.head(_mean(encoded, mask))
        return pooled


def _mean(encoded: Tensor, mask: Tensor | None) -> Tensor:
    """Return the mean over the positions that count, (B, D)."""
    if mask is None:
        return encoded.mean(1)
    counts = mask[:, :, None].to(encoded.dtype)
    return (encoded * counts).sum(1) / counts.sum(1)


def transformer(
    shape: Shape,
    *,
    d_model: Annotated[int, Field(ge=2, le=8192)] = 64,
    num_layers: Annotated[int, Field(ge=1, le=96)] = 2,
    num_heads: Annotated[int, Field(ge=1, le=128)] = 4,
    dim_feedforward: Annotated[int, Field(ge=1, le=65536)] = 256,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    max_length: Annotated[int, Field(ge=1, le=_LONGEST)] | None = None,
    vocab_size: Annotated[int, Field(ge=1, le=2**24)] | None = None,
    pad_id: PadId = None,
    patch: Annotated[int, Field(ge=1, le=256)] | None = None,
    causal: bool = False,
) -> nn.Module:
    """Build a transformer encoder.

    Of data with a target a sample it takes the mean over what counts; of data with a class at each position
    it gives outputs (B, K, L).

    Args:
        shape: Token ids (L,), alone or as ``input_ids`` beside ``attention_mask``; numbers (L, F); or images.
        d_model: Numbers in a vector.
        num_layers: Encoder layers.
        num_heads: Of each layer; divides ``d_model``.
        dim_feedforward: Width of each layer's perceptron.
        dropout: Share dropped in training.
        max_length: Longest sequence; by default that of the data.
        vocab_size: Different tokens; by default those of the data.
        pad_id: Token that fills up sequences, where the data bring no mask.
        patch: Side of the patches of images, in pixels; divides both sides.
        causal: A position reads those before it only, as for the next token.

    Raises:
        DataError: The data fit none of these, or the options do not fit each other.
    """
    if d_model % num_heads:
        raise DataError(
            f"model 'transformer': option 'num_heads' is {num_heads}, which does not divide 'd_model', "
            f"{d_model}"
        )
    if causal and not shape.positions:
        raise DataError(
            "model 'transformer': option 'causal' is for a class at each position, as of next tokens; the "
            "data have one target a sample"
        )
    if len(shape.inputs) == _IMAGE_DIMS and not shape.named:
        embed, length = _patches(shape, d_model, patch)
    else:
        embed, length = embedding(shape, "transformer", d_model, vocab_size, pad_id), shape.inputs[0]
    if max_length is not None and max_length < length:
        raise DataError(
            f"model 'transformer': option 'max_length' is {max_length}, the data have sequences of {length}"
        )
    return Transformer(
        embed,
        shape.outputs,
        max_length=max_length or length,
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        dim_feedforward=dim_feedforward,
        dropout=dropout,
        causal=causal,
        per_position=shape.positions,
        pad_id=pad_id if shape.tokens is not None else None,
    )


def _patches(shape: Shape, dim: int, patch: int | None) -> tuple[nn.Module, int]:
    """Return what makes vectors of images, and how many of each."""
    channels, height, width = shape.image("transformer", 2)
    if shape.positions:
        raise DataError("model 'transformer' gives one output an image; the data have one a pixel: use unet")
    if patch is None:
        patch = max(1, height // 7)
        while height % patch or width % patch:
            patch -= 1
    if height % patch or width % patch:
        raise DataError(
            f"model 'transformer': option 'patch' is {patch}, which does not divide {height}x{width} pixels"
        )
    return _Patches(channels, dim, patch), (height // patch) * (width // patch)
