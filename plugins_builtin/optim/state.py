"""Optimizer state as plain data, and back without loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .stepper import Stepper


def copied(value: Any) -> Any:
    """Return a deep copy of ``value`` that later steps cannot change.

    Args:
        value: Dicts, lists, tuples, tensors and scalars, nested.

    Returns:
        The same structure. Tensors are contiguous copies of their own.
    """
    if isinstance(value, Tensor):
        return value.detach().clone(memory_format=torch.contiguous_format)
    if isinstance(value, Mapping):
        return {key: copied(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(copied(item) for item in value)
    return value


def restore(optimizer: Stepper, saved: Mapping[str, Any]) -> None:
    """Load ``saved`` into ``optimizer`` so that the next step is the same, bit for bit.

    ``torch.optim.Optimizer.load_state_dict`` casts state to the dtype of its
    parameter, which loses digits where an optimizer keeps float32 state for bfloat16
    parameters, and plain data has turned tuples into lists. Both are undone.

    Args:
        optimizer: Of the same algorithm and the same parameters as the one saved.
        saved: What ``state_dict`` returned; its tensors become the optimizer's.

    Raises:
        KeyError, ValueError: The state is of another algorithm or other parameters.
    """
    tuples = [_tuples(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(saved))
    for group, keys in zip(optimizer.param_groups, tuples, strict=True):
        group.update({key: tuple(group[key]) for key in keys if key in group})
    if isinstance(optimizer, torch.optim.Optimizer):
        _undo_casts(optimizer, saved)


def _tuples(group: Mapping[str, Any]) -> list[str]:
    return [key for key, value in group.items() if isinstance(value, tuple)]


def _undo_casts(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in saved["state"].items():
        if isinstance(index, int) and isinstance(values, Mapping):
            optimizer.state[parameters[index]] = dict(values)
