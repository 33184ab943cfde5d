"""Is every number of a tensor finite?"""

from __future__ import annotations

import cmath

import torch
from torch import Tensor


def is_finite(tensor: Tensor) -> bool:
    """Tell whether every number of ``tensor`` is finite, both parts of a complex one; integers always are."""
    if not (tensor.is_floating_point() or tensor.is_complex()):
        return True
    # A sum is finite only if every term is; it can overflow without, so a second look decides.
    return cmath.isfinite(tensor.sum().item()) or bool(torch.isfinite(tensor).all())
