"""Keep the modules of installed plugins out of the processes that have no sandbox.

Libraries try to import what they can do without: torch ``opt_einsum``, sympy ``gmpy2``,
the standard library ``msvcrt``. Whoever installs a module of such a name is run by them.
So no module of a distribution that declares plugins is imported in the trainer or in the
process that workers are forked from; inside a sandbox the guard is taken off.

What the user chooses goes through: a plugin that the job calls trusted, a model or data
module that the job names by import path, and whatever the user's own files import. A file
is the user's own if it lies in no folder of installed distributions, in neither Python's
library nor ringfence; a library that is used from its clone counts as the user's own too.
A distribution is let through as a whole, since its modules need each other.

A plugin's dependency could do the same and cannot be told from an honest one.

A program of the user's own is guarded from ``import ringfence`` on. What was imported before goes on as
before, since nothing would be prevented; whoever starts plugins then refuses (``discovery/used_process.py``).
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    BuiltinImporter,
    ExtensionFileLoader,
    FileFinder,
    FrozenImporter,
    PathFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from typing import TYPE_CHECKING

from ..hooks.errors import RingfenceError
from .module_owners import UnknownOwnerError, canonical, owned_modules

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import FrameType, ModuleType

_EDITABLE = "__editable__"
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib costs what --help must not
_OURS = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120
#: Stands for a file of the user's.
_TYPED = f"{os.sep}<typed>"
#: Where pytest imports the user's tests, which may lie in the package of a plugin of theirs.
_IMPORTS_TESTS = f"{os.sep}_pytest{os.sep}pathlib.py"


class GuardedModuleError(RingfenceError, ModuleNotFoundError):
    """A module belongs to a plugin, or nobody knows to whom; whoever can do without it goes on."""


class Guard:
    """Refuses to import modules of plugins; a finder, to be placed first on ``sys.meta_path``.

    What lies elsewhere under the same name is imported from there: a plugin cannot take the place of
    the standard library's modules, or of those of others.

    Args:
        owners: Dotted module to the distributions that it belongs to, or to the folder whose
            distributions do not tell of it; what is below goes with it. All have to be let through.
        libraries: Folders of installed distributions; what lies there is not the user's own code.
        places: Such a module to the folders that hold the owners'; any folder if it is missing.
        invaded: Those of the modules that are others' as well, to the owners with files in such a package.

    Attributes:
        early: Those of the modules that were imported before there was a guard.
    """

    def __init__(
        self,
        owners: Mapping[str, Collection[str]],
        libraries: Iterable[str] = (),
        places: Mapping[str, Collection[str]] | None = None,
        invaded: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        self._owners = {name: frozenset(told) for name, told in owners.items()}
        self._places = dict(places or {})
        self._invaded = dict(invaded or {})
        self._held = frozenset[str]().union(*self._places.values())
        #: Those that they hold as folders.
        self._below = tuple(
            f"{_inside(place, name.rpartition('.')[2])}{os.sep}"
            for name, folders in self._places.items()
            for place in folders
        )
        folders = {*libraries, _LIBRARY, _OURS}
        self._libraries = tuple(
            f"{spelt}{os.sep}" for path in folders for spelt in (path, os.path.realpath(path))
        )
        self._allowed: set[str] = set()
        #: Those of them that ran before there was a guard, and that nobody chose.
        self._spared: set[str] = set()
        # setuptools' own hook, which Python itself imports at its start; what nobody lists is nobody's fault.
        self.early = frozenset(
            name
            for name in self.imported()
            if not name.startswith(_EDITABLE) and not all(map(_is_folder, self._owners[name]))
        )

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> ModuleSpec | None:
        """Return None, which leaves ``fullname`` to the next finder, or what of that name is no plugin's.

        Raises:
            ModuleNotFoundError: It belongs to a plugin, and the user did not choose it.
        """
        withheld = self._withheld(fullname)
        if not withheld:
            return None
        if path is None and (BuiltinImporter.find_spec(fullname) or FrozenImporter.find_spec(fullname)):
            return None
        # Of the folders that hold the owners', the hook shows all but that.
        is_placed = all(self._places.get(name) for name in withheld)
        spec = PathFinder.find_spec(fullname, path) if is_placed else None
        if spec is not None and spec.loader is not None:
            return spec
        is_own = self._is_own(_importer(sys._getframe(1)))  # noqa: SLF001 - the only way to tell who imports
        if is_own and self._choose(withheld):
            return None
        if spec is not None or _is_probed(sys._getframe(1)):  # noqa: SLF001
            return spec
        raise GuardedModuleError(self._refusal(fullname, withheld[-1]), name=fullname)

    def allow(self, distribution: str) -> None:
        """Let all modules of ``distribution`` through."""
        self._allowed.add(canonical(distribution))
        self._spared.discard(canonical(distribution))

    def is_chosen(self, distribution: str) -> bool:
        """Tell whether ``distribution`` is let through because the user wants it to be."""
        return canonical(distribution) in self._allowed - self._spared

    def allow_module(self, module: str) -> None:
        """Let the distribution through that ``module`` belongs to, if it is a plugin's.

        Not one that has put its module into the package of another, or over it: that was not what was chosen.
        """
        self._choose([name for name in _around(module) if name in self._owners])

    def early_modules(self) -> dict[str, list[str]]:
        """Return whose modules were imported before there was a guard, to those modules."""
        found: dict[str, list[str]] = {}
        for name in sorted(self.early):
            for owner in self._owners[name]:
                found.setdefault(owner, []).append(name)
        return found

    def spare_early(self) -> None:
        """Let distributions through that run already: they would break, and nothing would be prevented."""
        self._spared = self.early_modules().keys() - self._allowed
        self._allowed |= self._spared

    def spare_none(self) -> None:
        """Hold what ran before as all others."""
        self._allowed -= self._spared
        self._spared = set()

    def imported(self) -> list[str]:
        """Return those of the modules that this process holds now, by whatever way."""
        return sorted(name for name in self._owners if name in sys.modules and self._holds(name))

    def hides(self, fullname: str, folder: str) -> bool:
        """Tell whether ``fullname`` must not be found in ``folder``."""
        return any(
            folder == _real("/".join([place, *fullname.split(".")[name.count(".") : -1]]))
            for name in self._withheld(fullname)
            for place in self._places.get(name, ())
        )

    def _withheld(self, fullname: str) -> list[str]:
        """Return those of the modules around ``fullname``, and of itself, that are not let through."""
        return [
            name
            for name in _around(fullname)
            if name in self._owners and not self._owners[name] <= self._allowed
        ]

    def _choose(self, names: Collection[str]) -> bool:
        """Let through whose modules the user has named; tell whether it is one, and none is among others'."""
        owners = frozenset[str]().union(*(self._owners[name] for name in names))
        around = {outer for name in names for outer in _around(name)}
        if len(owners) != 1 or around & self._invaded.keys():
            return False
        self._allowed |= owners
        return True

    def hook(self, path: str) -> _Folder:
        """Return a finder for a folder that holds modules of plugins; for ``sys.path_hooks``, in front.

        Raises:
            ImportError: It is another folder.
        """
        if not self._is_held(path):
            raise ImportError
        return _Folder(path, self)

    def forget_folders(self) -> None:
        """Have Python ask the hooks anew for the folders that hold modules of plugins."""
        for path in [path for path in sys.path_importer_cache if self._is_held(path)]:
            del sys.path_importer_cache[path]

    def _is_held(self, path: str) -> bool:
        """Tell whether modules of plugins lie in a folder; the whole of it may be in a package of theirs."""
        folder = _real(path)
        return folder in self._held or f"{folder}{os.sep}".startswith(self._below)

    def _holds(self, name: str) -> bool:
        """Tell whether what was imported as ``name`` is the owner's, and not another of that name."""
        module = sys.modules[name]
        file = getattr(module, "__file__", None)
        if not self._places.get(name) or not isinstance(file, str):
            return name not in sys.builtin_module_names
        folder, base = os.path.split(file)
        held_by = os.path.split(folder)[0] if base.startswith("__init__.") else folder
        return _real(held_by) in self._places[name]

    def _refusal(self, module: str, name: str) -> str:
        withheld = self._owners[name] - self._allowed
        invaders = withheld.intersection(self._invaded.get(name, ()))
        owners = sorted(owner for owner in invaders or withheld if not _is_folder(owner))
        if not owners:
            return (
                f"module '{module}' in {min(withheld)} is not imported outside a sandbox: a distribution "
                f"there brings plugins for ringfence, and no other has '{module}' in its list of files. "
                "Uninstall what it came with, or install that anew with pip, which keeps such a list; "
                "if it is yours, move it beside the job"
            )
        told, brings = " and ".join(f"'{owner}'" for owner in owners), "bring" + "s" * (len(owners) == 1)
        if invaders:
            return (
                f"module '{module}' is not imported outside a sandbox: {told}, which {brings} plugins for "
                f"ringfence, put files into '{name}', a package of others that may run them. "
                f"Uninstall it (pip uninstall {owners[0]}), then install anew what else lies there"
            )
        return (
            f"module '{module}' belongs to {told}, which {brings} plugins for ringfence; "
            "their code is not imported outside a sandbox. "
            f"If '{module}' is not what you expect of {told}, uninstall it"
        )

    def _is_own(self, file: str) -> bool:
        if file.endswith(_IMPORTS_TESTS):
            return True
        return os.path.isabs(file) and not file.startswith(self._libraries)  # noqa: PTH117


class _Folder(FileFinder):
    """A folder without the modules that the guard hides: whoever looks for one finds none."""

    def __init__(self, path: str, guard: Guard) -> None:
        super().__init__(
            path,
            (ExtensionFileLoader, EXTENSION_SUFFIXES),
            (SourceFileLoader, SOURCE_SUFFIXES),
            (SourcelessFileLoader, BYTECODE_SUFFIXES),
        )
        self._guard = guard
        self._folder = _real(path)

    def find_spec(self, fullname: str, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what ``fullname`` is in this folder, as every finder of a folder does."""
        return None if self._guard.hides(fullname, self._folder) else super().find_spec(fullname, target)


def guard() -> Guard:
    """Return this process's guard, which is put first if there is none yet; it spares nobody.

    Raises:
        UnknownOwnerError: Whose modules there are cannot be told.
    """
    found = current()
    if found is None:
        told = owned_modules(sys.path)
        found = Guard(told.owners, told.libraries, told.places, told.invaded)
        sys.meta_path.insert(0, found)
        if told.places:
            sys.path_hooks.insert(0, found.hook)
            found.forget_folders()
    found.spare_none()
    return found


def guard_program() -> None:
    """Guard a program that imports ringfence; the command and its like do so themselves, and more strictly.

    Where it cannot be told whose modules there are nothing is guarded: whoever starts plugins tells.
    """
    # `python -m ringfence` has put the current folder first, and is about to take it away again.
    if current() is not None or sys.argv[:1] == ["-m"]:
        return
    path = sys.path[:]
    sys.path[:] = own_library_first(path)
    try:
        guard().spare_early()
    except UnknownOwnerError:
        pass
    finally:
        sys.path[:] = path


def own_library_first(path: Iterable[str]) -> list[str]:
    """Return the folders of ``path`` with Python's own in front, from which the guard itself is made."""
    return sorted(path, key=lambda folder: folder not in {_LIBRARY, f"{_LIBRARY}/lib-dynload"})


def current() -> Guard | None:
    """Return this process's guard, or None if it has none."""
    return next((finder for finder in sys.meta_path if isinstance(finder, Guard)), None)


def take_off() -> None:
    """Let this process import anything: it is a sandbox."""
    found = current()
    if found is not None:
        sys.meta_path.remove(found)
        sys.path_hooks[:] = [hook for hook in sys.path_hooks if hook != found.hook]
        found.forget_folders()


@contextmanager
def guard_imports() -> Iterator[None]:
    """Guard what is imported meanwhile, unless torch was imported before or there is a guard."""
    if "torch" in sys.modules or current() is not None:
        yield
        return
    guard()
    try:
        yield
    finally:
        take_off()


def _around(module: str) -> Iterator[str]:
    """Yield the packages around ``module``, from the outermost, and itself."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        yield ".".join(parts[:depth])


def _is_probed(frame: FrameType | None) -> bool:
    """Tell whether a module is not to be imported, but only looked for: then there is none."""
    while frame is not None and frame.f_code.co_filename == "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename in {
        "<frozen importlib.util>",
        f"{_LIBRARY}/importlib/util.py",
    }


def _real(folder: str) -> str:
    # What a relative path leads to changes with the current folder.
    return _resolve(folder) if os.path.isabs(folder) else os.path.realpath(folder or ".")  # noqa: PTH117


def _inside(folder: str, name: str) -> str:
    """Return where a part of a folder without links leads."""
    path = f"{folder}{os.sep}{name}"
    return _real(path) if os.path.islink(path) else path  # noqa: PTH114


@functools.cache
def _resolve(folder: str) -> str:
    return os.path.realpath(folder)


def _is_folder(owner: str) -> bool:
    return owner.startswith(os.sep)


def _importer(frame: FrameType | None) -> str:
    """Return the file of the code that asked for an import, past importlib's own."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith("<") and frame.f_globals.get("__name__") == "__main__":
            return _TYPED  # at a prompt, or behind `python -c`
        if not file.startswith(("<frozen importlib", f"{_LIBRARY}/importlib/")):
            return file
        frame = frame.f_back
    return ""
