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

A plugin's dependency could do the same and cannot be told from an honest one. Nor does
this hold in programs other than the command, except while ringfence imports torch there.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import FrameType, ModuleType

GROUP = "ringfence.plugins"

_CORE = "ringfence"
_MAX_BYTES = 2**26
_ENDINGS = (".py", ".pyc", ".so")
_EDITABLE = "__editable__"
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib costs what --help must not
_OURS = os.path.dirname(os.path.dirname(__file__))  # noqa: PTH120


class Guard:
    """Refuses to import modules of plugins; a finder, to be placed first on ``sys.meta_path``.

    Args:
        owners: Dotted module to the distribution that it belongs to; what is below goes with it.
        libraries: Folders of installed distributions; what lies there is not the user's own code.

    Attributes:
        early: Those of the modules that were imported before there was a guard.
    """

    def __init__(self, owners: Mapping[str, str], libraries: Iterable[str] = ()) -> None:
        self._owners = dict(owners)
        folders = {*libraries, _LIBRARY, _OURS}
        self._libraries = tuple(
            f"{spelt}{os.sep}" for path in folders for spelt in (path, os.path.realpath(path))
        )
        self._allowed: set[str] = set()
        # setuptools' own hook, which Python itself imports at its start.
        self.early = frozenset(
            name for name in owners if name in sys.modules and not name.startswith(_EDITABLE)
        )

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the protocol's signature
        target: ModuleType | None = None,  # noqa: ARG002 - the protocol's signature
    ) -> ModuleSpec | None:
        """Return None, which leaves ``fullname`` to the next finder.

        Raises:
            ModuleNotFoundError: It belongs to a plugin, and the user did not choose it.
        """
        owner = self._owners.get(fullname)
        if owner is None or owner in self._allowed:
            return None
        if self._is_own(_importer(sys._getframe(1))):  # noqa: SLF001 - the only way to tell who imports
            self._allowed.add(owner)
            return None
        raise ModuleNotFoundError(
            f"module '{fullname}' belongs to '{owner}', which brings plugins for ringfence; "
            "their code is not imported outside a sandbox. "
            f"If '{fullname}' is not what you expect of '{owner}', uninstall it",
            name=fullname,
        )

    def allow(self, distribution: str) -> None:
        """Let all modules of ``distribution`` through."""
        self._allowed.add(_canonical(distribution))

    def allow_module(self, module: str) -> None:
        """Let the distribution through that ``module`` belongs to, if it is a plugin's."""
        parts = module.split(".")
        names = (".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
        self._allowed.update(self._owners[name] for name in names if name in self._owners)

    def imported(self) -> list[str]:
        """Return those of the modules that this process holds now, by whatever way."""
        return sorted(name for name in self._owners if name in sys.modules)

    def _is_own(self, file: str) -> bool:
        return os.path.isabs(file) and not file.startswith(self._libraries)  # noqa: PTH117


def guard() -> Guard:
    """Return this process's guard, which is put first if there is none yet."""
    found = current()
    if found is None:
        owners, libraries = _installed(sys.path)
        found = Guard(owners, libraries)
        sys.meta_path.insert(0, found)
    return found


def current() -> Guard | None:
    """Return this process's guard, or None if it has none."""
    return next((finder for finder in sys.meta_path if isinstance(finder, Guard)), None)


def take_off() -> None:
    """Let this process import anything: it is a sandbox."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Guard)]


@contextmanager
def guarded() -> Iterator[None]:
    """Guard what is imported meanwhile, unless torch was imported before or there is a guard."""
    if "torch" in sys.modules or current() is not None:
        yield
        return
    guard()
    try:
        yield
    finally:
        take_off()


def modules_in(files: Iterable[str]) -> set[str]:
    """Return the outermost modules that have code among ``files``, paths as in a RECORD.

    A folder without ``__init__`` may be shared with other distributions, so of it
    the modules inside count.
    """
    found: set[tuple[str, ...]] = set()
    packages: set[tuple[str, ...]] = set()
    for file in files:
        *parents, name = os.path.normpath(file).split("/")
        stem, dot, _ = name.partition(".")
        if not dot or not name.endswith(_ENDINGS) or {"", "..", "__pycache__"} & set(parents):
            continue
        if stem == "__init__" and parents:
            packages.add(tuple(parents))
        else:
            found.add((*parents, stem))
    return {".".join(_outermost(parts, packages)) for parts in found | packages}


def _outermost(parts: tuple[str, ...], packages: set[tuple[str, ...]]) -> tuple[str, ...]:
    prefixes = (parts[:depth] for depth in range(1, len(parts)))
    return next((prefix for prefix in prefixes if prefix in packages), parts)


def _importer(frame: FrameType | None) -> str:
    """Return the file of the code that asked for an import, past importlib's own."""
    while frame is not None:
        file = frame.f_code.co_filename
        if not file.startswith(("<frozen importlib", f"{_LIBRARY}/importlib/")):
            return file
        frame = frame.f_back
    return ""


def _installed(path: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return whose modules are plugins', and the folders of installed distributions."""
    owners: dict[str, str] = {}
    libraries = []
    for folder in dict.fromkeys(path):
        names = _names(folder or ".")
        if any(name.endswith(".dist-info") for name in names):
            libraries.append(os.path.abspath(folder or "."))  # noqa: PTH100
        for name in names:
            owner = _canonical(name.partition("-")[0].removesuffix(".egg"))
            if name.endswith((".dist-info", ".egg-info")) and owner != _CORE:
                info = f"{folder or '.'}/{name}"
                owners |= dict.fromkeys(_modules_of(info, folder or "."), owner)
    return owners, libraries


def _modules_of(info: str, base: str) -> set[str]:
    """Return the modules of a distribution if it declares plugins, told from the folder of its metadata."""
    points = _text(f"{info}/entry_points.txt")
    if GROUP not in points:
        return set()
    files = (line.rsplit(",", 2)[0].strip('"') for line in _text(f"{info}/RECORD").splitlines())
    absolute = f"{os.path.abspath(base)}/"  # noqa: PTH100
    modules = modules_in(file.removeprefix(absolute) for file in files)
    if all(name.startswith(_EDITABLE) for name in modules):
        # Its code lies elsewhere, as that of an editable install does.
        modules |= set(_text(f"{info}/top_level.txt").split()) | set(_declared(points))
    return modules


def _declared(points: str) -> Iterator[str]:
    group = ""
    for line in points.splitlines():
        if line.strip().startswith("["):
            group = line.strip().strip("[]").strip()
        elif group == GROUP and "=" in line:
            yield line.partition("=")[2].partition(":")[0].strip()


def _canonical(name: str) -> str:
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []


def _text(path: str) -> str:
    """Return what is in a small regular file, or nothing; never waits for a pipe."""
    try:
        found = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MAX_BYTES:
            return ""
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            return file.read()
    except OSError:
        return ""
