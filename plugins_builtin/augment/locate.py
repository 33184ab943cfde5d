"""Finds the tensor of a tree that an operation works on, and puts another in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

#: Keys of dicts and places in lists, from the root to a tensor.
Path = tuple[str | int, ...]

_IMAGE_DIMS = 4
_LISTED = 8


def is_image(tensor: Tensor) -> bool:
    """Tell whether a tensor may be images: (B, C, H, W), numbers with a point or bytes."""
    return tensor.dim() == _IMAGE_DIMS and (tensor.is_floating_point() or tensor.dtype == torch.uint8)


def find(tree: Any, key: str | None, fits: Callable[[Tensor], bool], what: str, option: str) -> Path:
    """Return where the tensor lies that is meant.

    Args:
        tree: Inputs that are no tensor.
        key: Where it lies, keys and places joined by points; None: the only one that fits.
        fits: Whether a tensor may be meant.
        what: What is looked for, for messages.
        option: What names the key, for messages.

    Raises:
        ValueError: There is none, or there are several.
    """
    paths = {".".join(map(str, path)): (path, tensor) for path, tensor in _walk(tree)}
    if key is not None:
        if key not in paths:
            raise ValueError(f"{option} is '{key}', and the inputs have {_told(paths)}")
        if not fits(paths[key][1]):
            raise ValueError(f"{option} is '{key}', which is no {what}; the inputs have {_told(paths)}")
        return paths[key][0]
    found = [path for path, tensor in paths.values() if fits(tensor)]
    if len(found) == 1:
        return found[0]
    which = "none of the inputs is" if not found else "it cannot be told which of the inputs is"
    raise ValueError(f"{which} {what}; they have {_told(paths)}; name it with {option}")


def at(tree: Any, path: Path) -> Tensor:
    """Return the tensor at ``path``."""
    for step in path:
        tree = tree[step]
    return tree  # type: ignore[no-any-return]


def put(tree: Any, path: Path, tensor: Tensor) -> Any:
    """Return a tree with ``tensor`` at ``path``."""
    if not path:
        return tensor
    first, rest = path[0], path[1:]
    if isinstance(tree, dict):
        return {name: put(item, rest, tensor) if name == first else item for name, item in tree.items()}
    return [put(item, rest, tensor) if i == first else item for i, item in enumerate(tree)]


def others(tree: Any, path: Path) -> dict[str, Tensor]:
    """Return the other tensors by where they lie."""
    return {".".join(map(str, place)): tensor for place, tensor in _walk(tree) if place != path}


def _walk(tree: Any, root: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    if isinstance(tree, Tensor):
        yield root, tree
        return
    for step, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield from _walk(item, (*root, step))


def _told(paths: dict[str, tuple[Path, Tensor]]) -> str:
    told = [
        f"{name} {str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
        for name, (_, tensor) in paths.items()
    ]
    more = f" and {len(told) - _LISTED} more" if len(told) > _LISTED else ""
    return ", ".join(told[:_LISTED]) + more
