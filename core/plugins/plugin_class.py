"""Import a plugin class, and read the arguments of its methods."""

from __future__ import annotations

import importlib
import inspect
import traceback
from typing import Any

from ..hooks.errors import Phase
from ..hooks.role import METHODS
from ..hooks.specs import HOOKS
from ..hooks.types import passthrough

_KEYWORD_KINDS = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_HOOK_ARGUMENTS = {hook.__name__: tuple(inspect.signature(hook).parameters) for hook in HOOKS}


def load_class(module: str, qualname: str) -> type:
    """Import ``module`` and return the class ``qualname`` in it.

    Raises:
        ImportError, AttributeError, TypeError: There is no such class.
    """
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    if not inspect.isclass(found):
        raise TypeError(f"{module}:{qualname} is not a class")
    return found


def load_error(error: BaseException, phase: Phase) -> Phase:
    """Return what ran as ``error`` was raised: a module that ``phase`` imports is another's code."""
    functions = (frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__))
    return "import" if "<module>" in functions else phase


def accepted_arguments(cls: type) -> dict[str, tuple[str, ...]]:
    """Return method to argument names of a plugin class; a pass-through is absent.

    An argument that has a default and that this core's hook lacks is left out: so a
    plugin can use an argument of a later series and still work with this one.

    Raises:
        TypeError: ``forward`` or ``backward`` is missing, or takes what cannot be given by name.
    """
    accepts = {}
    for method in METHODS:
        function = inspect.getattr_static(cls, method, None)
        if function is None:
            raise TypeError(
                f"{cls.__name__} has no {method}(); a plugin that has nothing to do there "
                f"says so with '{method} = passthrough'"
            )
        if function is not passthrough:
            parameters = list(inspect.signature(getattr(cls, method)).parameters.values())[1:]
            known = _HOOK_ARGUMENTS.get(f"{getattr(cls, 'role', '')}_{method}", ())
            unnamed = [p for p in parameters if p.kind not in _KEYWORD_KINDS]
            if unnamed:
                raise TypeError(
                    f"{cls.__name__}.{method}() takes '{unnamed[0]}' and no name for it: "
                    "arguments are given by name; write each that it takes, without / and *"
                )
            accepts[method] = tuple(p.name for p in parameters if p.default is p.empty or p.name in known)
    return accepts
