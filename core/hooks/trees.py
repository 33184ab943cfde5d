"""Trees: a tensor, or dicts and lists of them, as the inputs and targets of a batch are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor

#: A tensor, or dicts with str keys and lists of trees. ``Any`` to a type checker, as many plugins know one
#: tensor only.
Tree = Any


def tensors_of(tree: Tree) -> list[Tensor]:
    """Return the tensors of a tree, in the order of its dicts and lists."""
    return list(_walk(tree))


def map_tensors(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Return a tree of the same form, with what ``function`` makes of each tensor, called in order."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: map_tensors(function, item) for name, item in tree.items()}
    if isinstance(tree, list):
        return [map_tensors(function, item) for item in tree]
    raise _no_tree(tree)


def _walk(tree: Tree) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _walk(item)
    else:
        raise _no_tree(tree)


def _no_tree(value: object) -> TypeError:
    return TypeError(f"a {type(value).__name__} is no tree; expected a tensor, or dicts and lists of tensors")
