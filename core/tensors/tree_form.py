"""The form of a tree: what is made one, how two compare, and how a message tells it."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..hooks.trees import Tree

#: Deeper than what models return and data hold, and far from what Python's own stack bears.
MAX_DEPTH = 16
#: Tensors of one tree that a message to a sandbox has room for.
MAX_TENSORS = 1000
_LISTED = 6

#: Keys of dicts and places in lists, from the root to a tensor.
Path = tuple[str | int, ...]


class TreeError(ValueError):
    """A value cannot be made a tree, or has another form than is needed; the message says where."""


def to_tree(value: object, what: str) -> Tree:
    """Return ``value`` with tuples as lists and any mapping as a dict.

    Args:
        value: Tensors, and mappings, lists and tuples of them.
        what: For messages.

    Raises:
        TreeError: It holds something else, a key that is no str, nothing at all, or too much.
    """
    tree = _to_tree(value, what, 0)
    count = sum(1 for _ in named_tensors(tree, what))
    if not 1 <= count <= MAX_TENSORS:
        raise TreeError(
            f"{what} hold {count} tensors; there must be 1 to {MAX_TENSORS}, padded where need be"
        )
    return tree


def tensors_within(value: object) -> Tree:
    """Return the tensors of whatever a model returned as a tree: what else it holds is left out.

    Of a dataclass the fields are taken, of a tuple its items. Without any tensor it is an empty dict.
    """
    found = _within(value, 0)
    return {} if found is None else found


def named_tensors(tree: Tree, what: str) -> Iterator[tuple[str, Tensor]]:
    """Yield each tensor of a tree, in its order, with where it lies: ``inputs['boxes'][2]``."""
    if isinstance(tree, Tensor):
        yield what, tree
    elif isinstance(tree, dict):
        for name, item in tree.items():
            yield from named_tensors(item, f"{what}['{name}']")
    else:
        for i, item in enumerate(tree):
            yield from named_tensors(item, f"{what}[{i}]")


def paths_of(tree: Tree, root: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Yield each tensor of a tree, in its order, with the keys and places that lead to it."""
    if isinstance(tree, Tensor):
        yield root, tree
    else:
        for step, item in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from paths_of(item, (*root, step))


def grow(leaves: Iterable[tuple[Path, Any]]) -> Tree:
    """Return the tree whose paths and leaves these are, the reverse of ``paths_of``."""
    found = list(leaves)
    if len(found) == 1 and not found[0][0]:
        return found[0][1]
    branches: dict[str | int, list[tuple[Path, Any]]] = {}
    for (step, *rest), leaf in found:
        branches.setdefault(step, []).append((tuple(rest), leaf))
    if all(isinstance(step, int) for step in branches):
        return [grow(branches[step]) for step in sorted(branches, key=int)]
    return {str(step): grow(branch) for step, branch in branches.items()}


def is_grown(paths: Sequence[Path]) -> bool:
    """Tell whether there is a tree with these paths, in its order."""
    if len(paths) == 1 and not paths[0]:
        return True
    if not paths or not all(paths):
        return False
    groups = [
        (step, [path[1:] for path in group]) for step, group in itertools.groupby(paths, lambda p: p[0])
    ]
    steps = [step for step, _ in groups]
    one_kind = len({type(step) for step in steps}) == 1 and len(set(steps)) == len(steps)
    in_order = isinstance(steps[0], str) or steps == list(range(len(steps)))
    return one_kind and in_order and all(is_grown(group) for _, group in groups)


def describe_tree(tree: Tree) -> str:
    """Return what a tree is in words, with the shapes and dtypes of its tensors."""
    if isinstance(tree, Tensor):
        return f"a tensor {_dtype(tree)} {tuple(tree.shape)}"
    kind = "dict" if isinstance(tree, dict) else "list"
    leaves = [f"{'.'.join(map(str, path))} {_dtype(t)} {tuple(t.shape)}" for path, t in paths_of(tree)]
    more = f" and {len(leaves) - _LISTED} more" if len(leaves) > _LISTED else ""
    return f"a {kind} of {', '.join(leaves[:_LISTED])}{more}" if leaves else f"a {kind} of no tensors"


def conform(tree: Any, expected: Tree, what: str) -> Tree:
    """Return ``tree`` with its dicts in the order of those of ``expected``; the tensors are not compared.

    Raises:
        TreeError: It has another form.
    """
    if not isinstance(tree, Tensor if isinstance(expected, Tensor) else type(expected)):
        wanted = "tensor" if isinstance(expected, Tensor) else type(expected).__name__
        raise TreeError(f"{what} of type {type(tree).__name__}; expected a {wanted}")
    if isinstance(expected, dict) and isinstance(tree, dict):
        if tree.keys() != expected.keys():
            missing, extra = expected.keys() - tree.keys(), tree.keys() - expected.keys()
            raise TreeError(
                f"{what} with other keys: missing {sorted(missing)[:3]}, extra {sorted(map(str, extra))[:3]}"
            )
        return {name: conform(tree[name], item, f"{what}['{name}']") for name, item in expected.items()}
    if isinstance(expected, list) and isinstance(tree, list):
        if len(tree) != len(expected):
            raise TreeError(f"{what} of {len(tree)} items; expected {len(expected)}")
        pairs = zip(tree, expected, strict=True)
        return [conform(item, other, f"{what}[{i}]") for i, (item, other) in enumerate(pairs)]
    return tree


def _to_tree(value: object, what: str, depth: int) -> Tree:
    if isinstance(value, Tensor):
        return value
    if depth >= MAX_DEPTH:
        raise TreeError(f"{what} is nested more than {MAX_DEPTH} deep")
    if isinstance(value, Mapping):
        strange = next((name for name in value if not isinstance(name, str)), None)
        if strange is not None:
            raise TreeError(f"{what} has a key of type {type(strange).__name__}; keys must be str")
        return {name: _to_tree(item, f"{what}['{name}']", depth + 1) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_tree(item, f"{what}[{i}]", depth + 1) for i, item in enumerate(value)]
    raise TreeError(
        f"{what} is of type {type(value).__name__}; expected tensors, or dicts and lists of tensors"
    )


def _within(value: object, depth: int) -> Tree:
    if isinstance(value, Tensor):
        return value
    if depth >= MAX_DEPTH:
        return None
    if isinstance(value, Mapping):
        items = {name: _within(item, depth + 1) for name, item in value.items() if isinstance(name, str)}
    elif isinstance(value, list | tuple):
        return [found for item in value if (found := _within(item, depth + 1)) is not None] or None
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        items = {name: _within(getattr(value, name, None), depth + 1) for name in names}
    else:
        return None
    return {name: item for name, item in items.items() if item is not None} or None


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
