"""Import a plugin from its own files where the folder around them may not be listed."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType


class RootFinder(MetaPathFinder):
    """Finds modules at the files that it was given; the packages around them are empty.

    Args:
        roots: Dotted module to its file; that of a package ends in ``__init__.py``.
    """

    def __init__(self, roots: Mapping[str, str]) -> None:
        self._roots = dict(roots)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> ModuleSpec | None:
        """Return where ``fullname`` is, or None if it is none of the given modules."""
        if fullname in self._roots:
            return importlib.util.spec_from_file_location(fullname, self._roots[fullname])
        if any(name.startswith(f"{fullname}.") for name in self._roots):
            return ModuleSpec(fullname, None, is_package=True)
        return None


def add_roots(roots: Mapping[str, str]) -> None:
    """Have this process import ``roots`` from their files, whatever else ``sys.path`` has of their names.

    A project that is checked by its path may be installed as well, in another version.
    """
    if roots:
        usual = sys.meta_path.index(PathFinder) if PathFinder in sys.meta_path else 0
        sys.meta_path.insert(usual, RootFinder(roots))
