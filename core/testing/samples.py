"""Small inputs for a plugin's methods, the same for the same seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from ..hooks.trees import Tree
from ..hooks.types import Batch, Gradients, Parameters, TensorMap, derive_seed

#: Parameters of every number of dimensions that layers have, one of them a single number.
SHAPES: Mapping[str, tuple[int, ...]] = {
    "conv.weight": (2, 1, 3, 3),
    "linear.weight": (4, 3),
    "linear.bias": (4,),
    "scale": (),
}
#: Of the parameters that ``arguments`` gives, the one that the loss does not depend on.
WITHOUT_GRADIENT = "unused.weight"
IMAGE = (1, 28, 28)
CLASSES = 10
#: Token ids, and most tokens of a sample.
VOCABULARY, TOKENS = 100, 6
KINDS = ("image", "tree")


def batch(
    size: int = 8,
    *,
    seed: int = 0,
    shape: tuple[int, ...] = IMAGE,
    dtype: torch.dtype = torch.float32,
    kind: str = "image",
) -> Batch:
    """Return samples of 10 classes.

    Args:
        size: Number of samples.
        seed: The same for the same samples.
        shape: Of an image.
        dtype: Of numbers with a point.
        kind: ``image``: images in [0, 1]. ``tree``: a dict of token ids ``input_ids`` and ``attention_mask``,
            (size, 6) int64, images ``image``, and a list ``parts`` of numbers (size, 3) and flags (size,).
    """
    _check_size(size, "batch")
    _check_kind(kind)
    generator = _generator(seed, "batch")
    images = torch.rand(size, *shape, generator=generator, dtype=dtype)
    targets = torch.randint(CLASSES, (size,), generator=generator)
    indices = torch.randperm(1000, generator=generator)[:size]
    inputs = images if kind == "image" else _tree(images, generator)
    return Batch(inputs, targets, indices, CLASSES)


def outputs(size: int = 8, *, seed: int = 0, dtype: torch.dtype = torch.float32, kind: str = "image") -> Tree:
    """Return what a model might make of ``batch``: (size, 10) logits; of a tree, a dict.

    That has ``logits`` and ``hidden_states``, a list of two tensors (size, 6, 4).
    """
    _check_size(size, "outputs")
    _check_kind(kind)
    generator = _generator(seed, "outputs")
    logits = torch.randn(size, CLASSES, generator=generator, dtype=dtype)
    if kind == "image":
        return logits
    states = [torch.randn(size, TOKENS, 4, generator=generator, dtype=dtype) for _ in range(2)]
    return {"logits": logits, "hidden_states": states}


def losses(size: int = 8, *, seed: int = 0) -> Tensor:
    """Return the loss of each sample: (size,) float32, positive."""
    _check_size(size, "losses")
    return torch.rand(size, generator=_generator(seed, "losses"))


def parameters(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Parameters:
    """Return normally distributed parameters."""
    _check_shapes(shapes, "parameters")
    return _normal(shapes, seed, "parameters", dtype)


def gradients(
    shapes: Mapping[str, tuple[int, ...]] = SHAPES, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> Gradients:
    """Return normally distributed gradients."""
    _check_shapes(shapes, "gradients")
    return _normal(shapes, seed, "gradients", dtype)


def arguments(
    size: int = 8, *, seed: int = 0, dtype: torch.dtype = torch.float32, kind: str = "image"
) -> dict[str, Any]:
    """Return every argument that a hook can have, by name, apart from ``step``; they belong together.

    One parameter has no gradient, as one that the loss does not depend on.
    """
    shapes = {**SHAPES, WITHOUT_GRADIENT: (3, 2)}
    return {
        "batch": batch(size, seed=seed, dtype=dtype, kind=kind),
        "outputs": outputs(size, seed=seed, dtype=dtype, kind=kind),
        "loss": losses(size, seed=seed).mean().item(),
        "losses": losses(size, seed=seed),
        "parameters": parameters(shapes, seed=seed, dtype=dtype),
        "gradients": gradients(SHAPES, seed=seed, dtype=dtype),
        "metrics": {"loss": 0.5, "accuracy": 0.75, "step": 10.0},
        "updates": _normal(shapes, seed, "updates", dtype),
    }


def _tree(images: Tensor, generator: torch.Generator) -> Tree:
    size = len(images)
    tokens = torch.randint(1, VOCABULARY, (size, TOKENS), generator=generator)
    lengths = torch.randint(1, TOKENS + 1, (size, 1), generator=generator)
    there = torch.arange(TOKENS) < lengths
    numbers = torch.rand(size, 3, generator=generator, dtype=images.dtype)
    flags = torch.randint(2, (size,), generator=generator) == 1
    return {
        "input_ids": tokens * there,
        "attention_mask": there.long(),
        "image": images,
        "parts": [numbers, flags],
    }


def _normal(shapes: Mapping[str, tuple[int, ...]], seed: int, kind: str, dtype: torch.dtype) -> TensorMap:
    made = TensorMap.like({name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()})
    generator = _generator(seed, kind)
    for tensor in made.values():
        tensor.normal_(generator=generator)
    return made


def _check_size(size: object, function: str) -> None:
    """Refuse what is no number of samples: a batch, for example, which none of these takes.

    Raises:
        TypeError: As it says.
    """
    if not isinstance(size, SupportsIndex) or isinstance(size, Tensor):
        kind = type(size).__name__
        hint = f"; write samples.{function}(len({kind.lower()}))" if isinstance(size, Batch) else ""
        raise TypeError(f"samples.{function} takes a number of samples, got a {kind}{hint}")


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")


def _check_shapes(shapes: object, function: str) -> None:
    """Refuse what is no mapping of names to shapes.

    Raises:
        TypeError: As it says.
    """
    if not isinstance(shapes, Mapping) or isinstance(shapes, TensorMap):
        kind = type(shapes).__name__
        raise TypeError(f"samples.{function} takes names and shapes, as {{'weight': (4, 3)}}, got a {kind}")


def _generator(seed: int, kind: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(seed, kind))
