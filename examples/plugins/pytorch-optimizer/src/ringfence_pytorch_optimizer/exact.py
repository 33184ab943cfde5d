"""Plain data that comes back as it was: a state may hold lists, and neither tuples nor queues."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

from torch import Tensor


def is_plain(value: object) -> bool:
    """Tell whether a state may hold ``value``."""
    if isinstance(value, Mapping):
        return all(isinstance(key, str | int) and is_plain(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return all(is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str | Tensor)


def packed(value: Any) -> Any:
    """Return ``value`` with each list, tuple and queue as a list that begins with which of them it is."""
    if isinstance(value, Mapping):
        return {key: packed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return ["tuple" if isinstance(value, tuple) else "list", *(packed(item) for item in value)]
    if isinstance(value, deque):
        return ["deque", value.maxlen, *(packed(item) for item in value)]
    return value


def unpacked(value: Any) -> Any:
    """Return what ``packed`` was given."""
    if isinstance(value, Mapping):
        return {key: unpacked(item) for key, item in value.items()}
    match value:
        case ["deque", longest, *items]:
            return deque((unpacked(item) for item in items), longest)
        case ["tuple", *items]:
            return tuple(unpacked(item) for item in items)
        case ["list", *items]:
            return [unpacked(item) for item in items]
    return value
