"""A job that a Python program hands over: its values made plain, so that they are checked as a file's are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..hooks.errors import visible
from .problems import Path, Problem
from .yaml_document import MAX_DEPTH, WHOLE_NUMBERS, Document

#: What stands for the place of a value in messages.
ORIGIN = "train()"
_LENGTHS = ("epochs", "steps")


def apply_keys(document: Document, keys: Mapping[str, Any], origin: str = ORIGIN) -> list[Problem]:
    """Lay the values of a program over a job; each takes the place of all that the job says of its key.

    Args:
        document: Changed in place; a job of its own if it is empty.
        keys: Key of a job to its value: plain, or what can be made so, as a tuple, a path, a number of numpy.
        origin: What a message names in place of file and line.

    Returns:
        Values that no job can hold, each with what would be right.
    """
    if document.value is None and keys:
        document.value = {}
    if not isinstance(document.value, dict):
        return []
    problems: list[Problem] = []
    for key, value in keys.items():
        _forget(document, key)
        document.value[key] = _plain(value, (key,), problems)
        document.origins[key,] = document.key_origins[key,] = origin
    if any(keys.get(length) is not None for length in _LENGTHS):
        # As with flags: the length that is given beats the other one of the file.
        for length in _LENGTHS:
            if length not in keys:
                document.value.pop(length, None)
    return problems


def _forget(document: Document, key: str) -> None:
    """Drop what is known of where the parts of a value were written that is replaced."""
    for table in (document.origins, document.key_origins):
        for path in [path for path in table if path[:1] == (key,)]:
            del table[path]


def _plain(value: object, path: Path, problems: list[Problem]) -> Any:
    """Return what a file would hold; notes what none can."""
    if len(path) > MAX_DEPTH:
        problems.append(Problem(path[:1], f"is more than {MAX_DEPTH} levels deep"))
        return None
    value = _unwrapped(value)
    match value:
        case None | bool() | str():
            return value
        case int():
            if value not in WHOLE_NUMBERS:
                problems.append(Problem(path, "is too large a number; whole numbers lie in -2^63 … 2^63 - 1"))
            return int(value)
        case float():
            if math.isnan(value):
                problems.append(Problem(path, "is NaN; write a number"))
            return float(value)
        case Mapping():
            return {_key(key): _plain(item, (*path, _key(key)), problems) for key, item in value.items()}
        case list() | tuple() | range():
            return [_plain(item, (*path, i), problems) for i, item in enumerate(value)]
    problems.append(
        Problem(path, f"is {visible(_kind(value))}; a job holds text, numbers, lists and mappings")
    )
    return None


def _unwrapped(value: Any) -> Any:
    """Return the plain value that a part of a typed job, a path, or a number of numpy or torch stands for."""
    if isinstance(value, BaseModel):
        return value.file_form() if hasattr(value, "file_form") else value.model_dump()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    is_number = getattr(value, "shape", None) == () and hasattr(value, "item")
    return value.item() if is_number else value


def _key(key: object) -> Any:
    return key if isinstance(key, int) and not isinstance(key, bool) else str(key)


def _kind(value: object) -> str:
    kind = type(value).__name__
    return f"an {kind}" if kind[:1].lower() in set("aeiou") else f"a {kind}"
