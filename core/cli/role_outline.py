"""What a plugin of a role begins with, told by the file of the role."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

from packaging.version import Version

from ..hooks.series import Index, series_of
from ..hooks.specs import ROLES
from ..version import __version__

#: Characters of a line inside a class, as ringfence itself is written.
_LONGEST = 106


def role_outline(role: str) -> dict[str, Any]:
    """Return the imports of a plugin of ``role`` and its methods, for the template.

    Args:
        role: Key of ``ROLES``.
    """
    hooks = {name: method.hook for name, method in ROLES[role].methods.items()}
    named = {
        name for hook in hooks.values() for text in hook.__annotations__.values() for name in _names(text)
    }
    ours = sorted(named & Index.read().snapshots[series_of(Version(__version__))].names)
    imports = ["from torch import Tensor"] * ("Tensor" in named)
    imports += [f"from ringfence import {', '.join(ours)}"] * bool(ours)
    return {"imports": "\n\n".join(imports), "methods": [_method(name, hook) for name, hook in hooks.items()]}


def _method(name: str, hook: Callable[..., Any]) -> dict[str, str]:
    signature = inspect.signature(hook)
    given = ", ".join(
        ["self", *(f"{each.name}: {each.annotation}" for each in signature.parameters.values())]
    )
    head = f"def {name}({given}) -> {signature.return_annotation}:"
    if len(head) > _LONGEST:
        head = f"def {name}(\n        {given}\n    ) -> {signature.return_annotation}:"
    return {
        "head": head,
        "given": ", ".join(signature.parameters),
        "returns": str(signature.return_annotation),
        "does": (inspect.getdoc(hook) or "").partition("\n")[0],
    }


def _names(annotation: str) -> list[str]:
    return re.findall(r"[A-Za-z_]\w*", annotation)
