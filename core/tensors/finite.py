"""Tell whether every number of a tensor is finite."""

from __future__ import annotations

import cmath

import torch
from torch import Tensor

#: Up to here a product with itself is faster than a sum; of more, squares of tiny numbers could make it slow.
_FEW = 8192


def is_finite(tensor: Tensor) -> bool:
    """Tell whether every number of ``tensor`` is finite, both parts of a complex one; integers always are."""
    dtype = tensor.dtype
    if not (dtype.is_floating_point or dtype.is_complex):
        return True
    is_short = dtype is torch.float32 and tensor.dim() == 1 and tensor.numel() <= _FEW
    total = tensor.dot(tensor) if is_short else tensor.sum()
    # It is finite only if every term is; it can overflow without, so a second look decides.
    return cmath.isfinite(total.item()) or bool(torch.isfinite(tensor).all())
