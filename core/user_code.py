"""Import what a job names as ``module:function``: the user's own models and data."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .hooks.guard import current


def is_import_path(name: str) -> bool:
    """Tell whether ``name`` is spelled ``module:function``."""
    return ":" in name


def load_function(name: str, base: Path) -> Callable[..., Any]:
    """Import ``module:function``; ``base`` joins the places that modules are looked for.

    This runs the module in the trainer's own process, as any script of the user's would.

    Args:
        name: ``package.module:function``.
        base: Folder of the job.

    Raises:
        ValueError: There is no such function; the message says what failed.
    """
    module_name, _, path = name.partition(":")
    if not module_name or not path:
        raise ValueError(f"'{name}' is not of the form module:function")
    folder = str(base.resolve())
    if folder not in sys.path:
        # Last, so that a file beside the job never hides an installed package.
        sys.path.append(folder)
    importlib.invalidate_caches()
    if (guard := current()) is not None:
        guard.allow_module(module_name)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        raise ValueError(
            f"module '{module_name}' could not be imported: {type(error).__name__}: {error}; "
            f"looked in {folder} and the installed packages"
        ) from error
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise ValueError(f"module '{module_name}' has no '{path}'") from error
    if not callable(found):
        raise ValueError(f"'{name}' is a {type(found).__name__}, not a function")  # noqa: TRY004 - one kind for all
    return found  # type: ignore[no-any-return]  # any callable will do
