"""Tensors in another precision, one by one or within what a model returned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def to_single(tensor: Tensor) -> Tensor:
    """Return doubles as floats, anything else as it is."""
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def to_double(tensor: Tensor) -> Tensor:
    """Return numbers of any precision as doubles, anything else as it is."""
    return tensor.double() if tensor.is_floating_point() else tensor


def map_within(function: Callable[[Tensor], Tensor], values: Any) -> Any:
    """Return plain dicts, lists and tuples with what ``function`` makes of their tensors.

    What is of another type, which nobody here can make another of, stays as it is.
    """
    if isinstance(values, Tensor):
        return function(values)
    if type(values) is dict:
        return {key: map_within(function, value) for key, value in values.items()}
    if type(values) in {list, tuple}:
        return type(values)(map_within(function, value) for value in values)
    return values
