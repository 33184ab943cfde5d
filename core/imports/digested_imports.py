"""Import only what is as it was digested: the files of a plugin and of all that it requires.

In a sandbox the bytes of a module are compared before they are compiled, so that what was digested is what
runs, whenever it is imported. What is compiled already (a library) is told by what its file cannot be
written to without a trace of.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import NamedTuple

import msgspec

#: Device, inode, size, and times of the last change of the bytes and of anything about the file.
Identity = tuple[int, int, int, int, int]

_LIBRARY = os.path.realpath(os.path.dirname(os.__file__))  # noqa: PTH120 - strings, as importlib has them
_PACKAGES = (f"{_LIBRARY}/site-packages/", f"{_LIBRARY}/dist-packages/")


class DigestedFile(NamedTuple):
    """A file as it was read.

    Attributes:
        sha256: Of its bytes.
        identity: Whoever changes the file changes that; so does who gives it another name.
    """

    sha256: str
    identity: Identity


class DigestedFiles(msgspec.Struct, frozen=True):
    """The files of a plugin and of all that it requires.

    Attributes:
        files: Path without links to what was read there.
        free: Files and folders that are not compared: ringfence and what it requires itself.
        is_whole: Nothing else may be imported, but for Python's own library.
    """

    files: dict[str, DigestedFile]
    free: tuple[str, ...] = ()
    is_whole: bool = False

    def changed(self) -> Iterator[str]:
        """Yield the paths of files that are not as they were, or are gone."""
        return (path for path, then in self.files.items() if not is_same(path, then))


class ChangedModuleError(ImportError):
    """A module is not what was digested."""


class UnlockedModuleError(ModuleNotFoundError):
    """A module is not in the lock; whoever can do without it goes on."""


def identity_of(found: os.stat_result) -> Identity:
    """Return what tells a file from another, and from itself once it was written to."""
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def is_same(path: str, then: DigestedFile) -> bool:
    """Tell whether a file is as it was; it is read only if there is a trace of a change."""
    try:
        if identity_of(os.stat(path)) == then.identity:  # noqa: PTH116 - thousands of them
            return True
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest() == then.sha256
    except OSError:
        return False


class DigestedFinder(MetaPathFinder):
    """Finds what the finders behind it find, and has it compared; to be placed first on ``sys.meta_path``.

    Args:
        digested: What may be imported.
    """

    def __init__(self, digested: DigestedFiles) -> None:
        self._digested = digested
        self._free = frozenset(digested.free)
        self._folders = tuple(f"{path}/" for path in digested.free)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return where ``fullname`` is.

        Raises:
            ChangedModuleError: It is a library that is not what was digested.
            UnlockedModuleError: It was not digested, and nothing else may be imported.
        """
        behind = sys.meta_path[sys.meta_path.index(self) + 1 :]
        finds = (getattr(finder, "find_spec", None) for finder in behind)
        specs = (find(fullname, path, target) for find in finds if find is not None)
        spec: ModuleSpec | None = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.has_location and spec.origin is not None:
            self._hold(spec, spec.origin)
        return spec

    def _hold(self, spec: ModuleSpec, origin: str) -> None:
        path = _real(origin)
        if path in self._free or path.startswith(self._folders) or _is_pythons(path):
            return
        then = self._digested.files.get(path)
        if then is None:
            if self._digested.is_whole:
                raise UnlockedModuleError(
                    f"module '{spec.name}' in {origin} is not in the lock of this job's plugins, and is not "
                    "imported; have the plugin's distribution require it, and lock the job anew",
                    name=spec.name,
                )
        elif type(spec.loader) is SourceFileLoader:
            spec.loader = _Source(spec.name, origin, then)
        elif type(spec.loader) is SourcelessFileLoader:
            spec.loader = _Sourceless(spec.name, origin, then)
        elif not is_same(path, then):  # a library, or what another finder has a loader of its own for
            raise _changed(spec.name, origin)


class _Source(SourceFileLoader):
    """A module of source that is compared before it is compiled."""

    def __init__(self, fullname: str, path: str, then: DigestedFile) -> None:
        super().__init__(fullname, path)
        self._then = then

    def get_code(self, fullname: str) -> CodeType:
        data = self.get_data(self.path)
        _compare(fullname, self.path, data, self._then)
        code: CodeType = self.source_to_code(data, self.path)
        return code


class _Sourceless(SourcelessFileLoader):
    """A module without source that is compared before it is run."""

    def __init__(self, fullname: str, path: str, then: DigestedFile) -> None:
        super().__init__(fullname, path)
        self._then = then

    def get_data(self, path: str) -> bytes:
        data = super().get_data(path)
        if path == self.path:  # a package's resources are read by it too
            _compare(self.name, path, data, self._then)
        return data


def hold_imports(file: Path) -> None:
    """Have this process compare what it imports from now on with the ``DigestedFiles`` in ``file``."""
    sys.meta_path.insert(0, DigestedFinder(msgspec.msgpack.decode(file.read_bytes(), type=DigestedFiles)))


def _compare(module: str, path: str, data: bytes, then: DigestedFile) -> None:
    if hashlib.sha256(data).hexdigest() != then.sha256:
        raise _changed(module, path)


def _changed(module: str, path: str) -> ChangedModuleError:
    return ChangedModuleError(
        f"module '{module}' in {path} has changed since the run began, and is not imported; put it back, or "
        "start the run again",
        name=module,
        path=path,
    )


def _is_pythons(path: str) -> bool:
    return path.startswith(f"{_LIBRARY}/") and not path.startswith(_PACKAGES)


def _real(path: str) -> str:
    folder, name = os.path.split(path)
    return f"{_real_folder(folder)}/{name}"


@functools.cache
def _real_folder(folder: str) -> str:
    return os.path.realpath(folder)
