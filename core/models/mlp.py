"""A multilayer perceptron."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from .data_shape import Shape

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


def mlp(
    shape: Shape,
    *,
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=256)] = (256, 128),
    activation: Literal["gelu", "relu", "silu", "tanh"] = "relu",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """Build a multilayer perceptron on the flattened inputs.

    Args:
        shape: Any inputs.
        hidden: Width of each hidden layer; empty for a linear model.
        activation: After each hidden layer.
        dropout: Share of each hidden layer's values that is dropped in training.
    """
    layers: list[nn.Module] = [nn.Flatten()]
    width = shape.features
    for size in hidden:
        layers += [nn.Linear(width, size), _ACTIVATIONS[activation]()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    layers.append(nn.Linear(width, shape.outputs))
    return nn.Sequential(*layers)
