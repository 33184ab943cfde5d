"""The roles that a plugin can have, a file each: whatever lies in this folder is a role."""

from __future__ import annotations

import importlib
import pkgutil

from ..role import Role


def find_roles() -> list[Role]:
    """Return the roles, in the order of their names: that of ``roles/x.py`` is called ``X`` there."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return [getattr(importlib.import_module(f"{__name__}.{name}"), name.upper()) for name in names]
