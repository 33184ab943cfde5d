"""Parts of outputs and targets that a job names by key or place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..hooks.errors import DataError

#: A key of a dict or an attribute; a place in a list or tuple; None: all of it.
Key = str | int | None


def part_of(value: Any, key: Key, what: str) -> Any:
    """Return the part of ``value`` that ``key`` names.

    Args:
        value: Outputs of a model, or targets.
        key: Of a part.
        what: What it is, for messages: ``output`` or ``target``, as the job's key is.

    Raises:
        DataError: It has no such part; the message names those that it has.
    """
    if key is None:
        return value
    if isinstance(value, Mapping):
        if key in value:
            return value[key]
    elif isinstance(value, tuple | list):
        if isinstance(key, int) and -len(value) <= key < len(value):
            return value[key]
        found = getattr(value, key, None) if isinstance(key, str) else None
        if found is not None:
            return found
    elif isinstance(key, str) and not isinstance(value, Tensor) and getattr(value, key, None) is not None:
        return getattr(value, key)
    raise DataError(f"{what} {key!r}: the {_WHOSE[what]} {_form(value)}")


_WHOSE = {"output": "model returned", "target": "data have"}


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}, which has no parts"
    if isinstance(value, Mapping):
        return f"a dict of {', '.join(map(str, value))}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}, of which the places count from 0"
    return f"a {type(value).__name__}, which has no such part"
