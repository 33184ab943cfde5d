"""Import what a job names as ``module:function``: the user's own models and data."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from ..imports.import_guard import current
from ..imports.user_frames import is_in_users_code, user_frame
from .problems import nearest, suggest


def is_import_path(name: str) -> bool:
    """Tell whether ``name`` is spelled ``module:function``."""
    return ":" in name


def suggest_own(name: str, known: Iterable[str]) -> str:
    """Return the end of a message about a name that is neither known nor a ``module:function``."""
    module, _, function = name.rpartition(".")
    if not module or not all(part.isidentifier() for part in name.split(".")):
        return f"{suggest(name, known)} (your own: module:function)"
    if function == "py":
        return f"of a file of your own name what builds it: '{module}:function'"
    return f"did you mean '{module}:{function}'? A colon stands before a name of your own module"


def _import(module: str, folder: str) -> ModuleType:
    """Import the module beside the job, or else the one that is installed.

    Where both are, the one beside the job gets a name of its own: whoever else asks for the other,
    of the standard library for one, must not be given a user's file.
    """
    top, dot, below = module.partition(".")
    beside = PathFinder.find_spec(top, [folder])
    if beside is None or beside.origin is None:
        if (guard := current()) is not None:
            guard.allow_module(module)
        return importlib.import_module(module)
    if _file_of_import(top) in {None, os.path.realpath(beside.origin)}:
        return importlib.import_module(module)
    own = f"{top}_beside_the_job"
    if getattr(sys.modules.get(own), "__file__", None) != beside.origin:
        _load_as(own, beside)
    return importlib.import_module(f"{own}{dot}{below}")


def _file_of_import(module: str) -> str | None:
    """Return the file that Python imports a module from, or its name without one; None if it is nowhere."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
    elif (spec := importlib.util.find_spec(module)) is not None:
        file = spec.origin
    else:
        return None
    return os.path.realpath(file or module)


def _load_as(name: str, spec: ModuleSpec) -> None:
    for old in [old for old in sys.modules if old == name or old.startswith(f"{name}.")]:
        del sys.modules[old]
    renamed = importlib.util.spec_from_file_location(
        name, spec.origin, submodule_search_locations=spec.submodule_search_locations
    )
    assert renamed is not None  # noqa: S101 - it was found as a module
    assert renamed.loader is not None  # noqa: S101
    module = importlib.util.module_from_spec(renamed)
    sys.modules[name] = module
    try:
        renamed.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


def _module_meant(module: str, folder: str, error: Exception) -> str:
    """Return which module beside the job was meant, if it is that one that was not found."""
    if not isinstance(error, ModuleNotFoundError) or not f"{module}.".startswith(f"{error.name}."):
        return ""
    beside = {path.stem for path in Path(folder).glob("*.py")}
    beside |= {path.parent.name for path in Path(folder).glob("*/__init__.py")}
    top, dot, below = module.removesuffix(".py").partition(".")
    close = nearest(top, beside)
    meant = None if close is None else f"{close}{dot}{below}"
    return _did_you_mean(None if meant == module else meant)


def _did_you_mean(name: str | None) -> str:
    return "" if name is None else f"; did you mean '{name}'?"


def _place_of(module: str, folder: str) -> str:
    beside = PathFinder.find_spec(module.partition(".")[0], [folder])
    if beside is None or beside.origin is None:
        return f"looked in {folder} and the installed packages"
    return f"it is {beside.origin}"


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
        # Last, so that a file beside the job never hides what the trainer imports itself.
        sys.path.append(folder)
    importlib.invalidate_caches()
    found: Any
    try:
        found = _import(module_name, folder)
    except Exception as error:
        where = f"at {user_frame(error)}" if is_in_users_code(error) else _place_of(module_name, folder)
        raise ValueError(
            f"module '{module_name}' could not be imported: {type(error).__name__}: {error}; {where}"
            f"{_module_meant(module_name, folder, error)}"
        ) from error
    module = found
    try:
        for part in path.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        file = getattr(module, "__file__", None)
        there = [name for name, value in getattr(found, "__dict__", {}).items() if callable(value)]
        close = nearest(part, there)
        raise ValueError(
            f"module '{module_name}' has no '{path}'"
            + (f"; it is {file}" if file else "")
            + _did_you_mean(close)
        ) from error
    if not callable(found):
        raise ValueError(f"'{name}' is a {type(found).__name__}, not a function")  # noqa: TRY004 - one kind for all
    return found  # type: ignore[no-any-return]  # any callable will do
