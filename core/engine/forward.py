"""The forward pass: how a model is given the inputs of a batch, and what plugins are shown of its outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.trees import Tree, map_tensors
from ..tensors.tree_form import tensors_within


def forward(model: nn.Module, inputs: Tree, arguments: Mapping[str, Tree] | None = None) -> Any:
    """Call a model with the inputs of a batch: a dict by keyword, a list one by one, a tensor as it is.

    Args:
        model: Which.
        inputs: Where the model is.
        arguments: Given by keyword beside them.
    """
    more = arguments or {}
    if isinstance(inputs, Tensor):
        return model(inputs, **more)
    return model(**inputs, **more) if isinstance(inputs, dict) else model(*inputs, **more)


def to_device(tree: Tree, device: torch.device, *, non_blocking: bool = False) -> Tree:
    """Return a tree whose tensors lie on ``device``."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=non_blocking), tree)


def shown_outputs(outputs: Any) -> Tree:
    """Return what plugins are given of outputs: their tensors, in host memory and apart from the graph."""
    if isinstance(outputs, Tensor):
        return outputs.detach().cpu()
    return map_tensors(lambda tensor: tensor.detach().cpu(), tensors_within(outputs))
