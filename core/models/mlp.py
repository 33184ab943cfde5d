"""A multilayer perceptron."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..hooks.errors import DataError
from .data_shape import Shape

#: Of the vectors of categories.
_WIDEST = 50
_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "gelu": nn.GELU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}


CATEGORIES, NUMBERS = "categories", "numbers"


class TableMlp(nn.Module):
    """A perceptron on the numbers of a table beside a learned vector for each of its categories.

    Args:
        values: How many values each column of categories can take.
        embedding_dim: Numbers in each vector; None: half as many as there are values, at most 50.
        numbers: Columns of numbers.
        perceptron: Makes the layers for an input of so many numbers.
    """

    def __init__(
        self,
        values: tuple[int, ...],
        embedding_dim: int | None,
        numbers: int,
        perceptron: Callable[[int], nn.Sequential],
    ) -> None:
        super().__init__()
        dims = [embedding_dim or min(_WIDEST, (count + 1) // 2) for count in values]
        self.embeddings = nn.ModuleList(map(nn.Embedding, values, dims))
        self.layers = perceptron(sum(dims) + numbers)

    def forward(self, categories: Tensor, numbers: Tensor | None = None) -> Tensor:
        """Return (B, outputs) for (B, C) int64 and (B, F) float32."""
        vectors = [embed(categories[:, i]) for i, embed in enumerate(self.embeddings)]
        outputs: Tensor = self.layers(torch.cat(vectors if numbers is None else [*vectors, numbers], 1))
        return outputs


def mlp(
    shape: Shape,
    *,
    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=65536)], ...], Field(max_length=256)] = (256, 128),
    activation: Literal["gelu", "relu", "silu", "tanh"] = "relu",
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    embedding_dim: Annotated[int, Field(ge=1, le=4096)] | None = None,
) -> nn.Module:
    """Build a multilayer perceptron on the flattened inputs, or on a table with categories.

    Args:
        shape: One input of numbers; or ``categories`` (C,) of whole numbers, beside ``numbers`` (F,) or not.
        hidden: Width of each hidden layer; empty for a linear model.
        activation: After each hidden layer.
        dropout: Share of each hidden layer's values that is dropped in training.
        embedding_dim: Numbers in the vector of a category; by default half as many as the column has values,
            at most 50.

    Raises:
        DataError: The inputs are several, and no such table.
    """

    def perceptron(width: int) -> nn.Sequential:
        layers: list[nn.Module] = [nn.Flatten()]
        for size in hidden:
            layers += [nn.Linear(width, size), _ACTIVATIONS[activation]()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = size
        return nn.Sequential(*layers, nn.Linear(width, shape.outputs))

    if not shape.named:
        return perceptron(shape.features)
    columns, values = shape.named.get(CATEGORIES, ()), shape.values.get(CATEGORIES, ())
    numbers = shape.named.get(NUMBERS, (0,))
    if set(shape.named) - {CATEGORIES, NUMBERS} or columns != (len(values),) or len(numbers) != 1:
        raise DataError(
            f"model 'mlp' takes one input, or '{CATEGORIES}' (C,) of whole numbers and '{NUMBERS}' (F,); the "
            f"data has {shape}. Use a model of your own"
        )
    return TableMlp(values, embedding_dim, numbers[0], perceptron)
