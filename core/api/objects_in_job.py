"""Take objects of a program out of a job: what is left names them, so that a file can hold it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ..hooks.errors import visible

#: Those of which one key may list several, each in the form of ``{"name": …, option: …}``.
_LISTS = ("loss", "metrics")
_KEYS = ("model", "data", "loss", "metric", "metrics", "sample_weights")


def take_objects(keys: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the keys of a job with a name in the place of each object, and the objects.

    A function or class is named by its import path, where it has one: a file can say that as well, and the
    run needs no object.

    Args:
        keys: Of a job: a value, or in ``{"name": …, option: …}`` the name, may be an object. One of several
            in a list has the key ``metrics[0]``.
    """
    plain = dict(keys)
    objects: dict[str, Any] = {}
    for key in _KEYS:
        value = keys.get(key)
        if key in _LISTS and isinstance(value, list | tuple):
            plain[key] = [_named(one, f"{key}[{place}]", objects) for place, one in enumerate(value)]
        elif value is not None:
            plain[key] = _named(value, key, objects)
    return plain, objects


def _named(value: Any, key: str, objects: dict[str, Any]) -> Any:
    """Return a choice with a name in the place of an object, which is noted."""
    options: dict[str, Any] | None = None
    named = value
    if isinstance(value, Mapping):
        options = {name: option for name, option in value.items() if name != "name"}
        named = value.get("name")
    if named is None or isinstance(named, str | bool | int | float | Mapping | BaseModel):
        return value
    name = _import_path(named)
    if name is None:
        objects[key] = named
        name = f"<{_label(named)}>"
    return name if options is None else {"name": name, **options}


def _import_path(value: Any) -> str | None:
    """Return ``module:function`` where that leads to ``value``, also in another process."""
    module, qualname = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not callable(value) or not isinstance(module, str) or not isinstance(qualname, str):
        return None
    if module == "__main__" or "<" in qualname:
        return None
    found: Any = sys.modules.get(module)
    for part in qualname.split("."):
        found = getattr(found, part, None)
    return f"{module}:{qualname}" if found is value else None


def _label(value: Any) -> str:
    """Return what an object is called: a function or class by its name, anything else by its class."""
    name = getattr(value, "__name__", None) if callable(value) else None
    label = name if isinstance(name, str) else type(value).__name__
    return "".join(c for c in visible(label) if c.isalnum() or c in "_.") or "object"
