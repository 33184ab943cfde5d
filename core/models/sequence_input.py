"""What sequence models share: how token ids or numbers become vectors, and which positions count."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from ..hooks.errors import DataError
from .data_shape import Shape

IDS, MASK = "input_ids", "attention_mask"
_SEQUENCE_DIMS = 2
PadId = Annotated[int, Field(ge=0)] | None


def embedding(shape: Shape, model: str, dim: int, vocab_size: int | None, pad_id: int | None) -> nn.Module:
    """Return what makes vectors, (B, L, ``dim``), of token ids, (B, L), or of numbers, (B, L, F).

    Args:
        shape: Of one sample.
        model: For messages.
        dim: Of a vector.
        vocab_size: How many different tokens there are; None: as many as the data have.
        pad_id: Whose vector stays zero.

    Raises:
        DataError: The data hold neither, or tokens that the vocabulary has not.
    """
    found = shape.tokens
    if found is not None:
        size = found if vocab_size is None else vocab_size
        largest = max(found - 1, pad_id or 0)
        if largest >= size:
            raise DataError(
                f"model '{model}': option 'vocab_size' is {size}, the data hold token ids up to {largest}"
            )
        layer = nn.Embedding(size, dim, padding_idx=pad_id)
        nn.init.normal_(layer.weight, std=0.02)
        return layer
    if len(shape.inputs) != _SEQUENCE_DIMS or shape.named:
        raise DataError(
            f"model '{model}' takes token ids (L,) of whole numbers, alone or as '{IDS}' beside '{MASK}', or "
            f"sequences (L, F) of numbers; the data has {shape}"
        )
    return nn.Linear(shape.inputs[1], dim)


def counted_positions(inputs: Tensor, attention_mask: Tensor | None, pad_id: int | None) -> Tensor | None:
    """Return which positions count, (B, L) bool; None: all.

    The first of a sample always does, so that there is something to go by.

    Args:
        inputs: (B, L) token ids, or (B, L, F).
        attention_mask: (B, L), 0 where nothing counts; None: what is not ``pad_id`` does.
        pad_id: None: no token is there to fill up.
    """
    if attention_mask is None and pad_id is None:
        return None
    mask: Tensor = torch.ne(inputs, pad_id or 0) if attention_mask is None else attention_mask.bool()
    first = torch.arange(mask.shape[1], device=mask.device) == 0
    return mask | (first & ~mask.any(1, keepdim=True))
