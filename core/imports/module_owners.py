"""Owners of importable modules: which distribution brought them, told without believing it.

A distribution that declares plugins is a stranger's, and its list of files (RECORD) is a
stranger's text. So its modules are what any row of that list means in any folder that Python
searches, and, in the folder that it was installed to, all that no other distribution lists.
Where that cannot be told, nothing is started.
"""

from __future__ import annotations

import functools
import os
import re
import stat
import sys
from collections.abc import Callable, Iterable
from io import StringIO
from typing import NamedTuple

from ..hooks.errors import RingfenceError

GROUP = "ringfence.plugins"

_CORE = "ringfence"
_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - pathlib costs what --help must not
_ENDINGS = (".py", ".pyc", ".so")
_EDITABLE = "__editable__"
_POINTS = "entry_points.txt"
#: Of a file of metadata of a distribution that brings plugins; torch's list of files has 1.2 MB.
_MAX_BYTES = 2**24
#: Of another's list of files: half a million of them.
_MAX_LIST_BYTES = 2**26
_MAX_FILES = 200_000
_MAX_PROGRAMS = 100
_SHARED_LIBRARY = re.compile(r"/[^/]*\.so(\.\d+)*$")
#: Folders of a prefix in which nothing looks for libraries or programs.
_DATA = ("share", "etc", "include")
_TOP = re.compile(rb"\n([^/,\n]+)")
_PLAIN = re.compile(r"[A-Za-z0-9._+!~-]+")


class UnknownOwnerError(RingfenceError):
    """A distribution with plugins does not let tell what is its own, or has put code where others find it."""


class Owned(NamedTuple):
    """The modules and programs of plugins in the folders that Python searches.

    Attributes:
        owners: Dotted module to all whose it is, what is below goes with it: distributions, or the path
            of a folder if no distribution there lists it.
        places: Such a module to the folders that hold it, without links; what is missing may lie anywhere.
        libraries: Folders of installed distributions.
        invaded: Those of the modules that are others' as well: a package of theirs, to the owners with files
            in there; what the owners have installed over theirs, to nobody.
    """

    owners: dict[str, set[str]]
    places: dict[str, set[str]]
    libraries: list[str]
    invaded: dict[str, set[str]]

    def add(self, owner: str, folder: str, modules: Iterable[str]) -> None:
        """Note that ``folder``, a path without links, holds modules of ``owner``."""
        # A package may be a link, as nix and spack make them: what is put into it lies where that leads.
        places = {"": folder}
        for module in modules:
            self.owners.setdefault(module, set()).add(owner)
            outer = module.rpartition(".")[0]
            if outer not in places:
                places[outer] = os.path.realpath(f"{folder}/{outer.replace('.', '/')}")
            self.places.setdefault(module, set()).add(places[outer])


class _Metadata(NamedTuple):
    """Metadata of one distribution: the folder that it is installed to, and the name of its own there."""

    folder: str
    name: str

    @property
    def owner(self) -> str:
        if self.name.lower() == "egg-info":
            return canonical(os.path.basename(self.folder).partition("-")[0].removesuffix(".egg"))  # noqa: PTH119
        return canonical(self.name.rpartition(".")[0].partition("-")[0])

    def read(self, file: str, most: int = _MAX_BYTES) -> bytes | None:
        """Return what is in a file, None if there is none; never waits for a pipe.

        Raises:
            UnknownOwnerError: It cannot be read, or has more than ``most`` bytes.
        """
        return self._read(f"{self.folder}/{self.name}/{file}", file, most)

    def read_beside(self, file: str) -> bytes | None:
        """Return what is in a file of the folder that it is installed to, as ``read`` does."""
        return self._read(f"{self.folder}/{file}", file, _MAX_BYTES)

    def _read(self, path: str, file: str, most: int) -> bytes | None:
        try:
            with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:  # noqa: PTH123
                found = os.fstat(opened.fileno())
                if not stat.S_ISREG(found.st_mode):
                    raise self.unknown(f"its {file} is no regular file")
                if found.st_size > most:
                    raise self.unknown(f"its {file} has {found.st_size} bytes, more than {most}")
                return opened.read(most)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self.unknown(f"its {file} cannot be read: {error.strerror}") from error

    def unknown(self, reason: str) -> UnknownOwnerError:
        return UnknownOwnerError(
            f"which modules belong to '{self.owner}' cannot be told, since {reason}. It brings plugins, or "
            "may, and their code must stay out of the trainer: uninstall it "
            f"(pip uninstall {self.owner}), or delete {self.folder}/{self.name}"
        )


def owned_modules(path: Iterable[str]) -> Owned:
    """Return whose modules are plugins', in the folders of ``path``, which is as ``sys.path``.

    Raises:
        UnknownOwnerError: It cannot be told.
    """
    listed: dict[str, list[str]] = {}
    found = Owned({}, {}, [], {})
    for entry in dict.fromkeys(path):
        folder = os.path.realpath(entry or ".")
        listed[folder] = _names(folder)
        if any(name.endswith(".dist-info") for name in listed[folder]):
            found.libraries.append(os.path.abspath(entry or "."))  # noqa: PTH100
    every = [
        _Metadata(folder, name) for folder in listed for name in listed[folder] if _is_metadata(folder, name)
    ]
    declaring = {told for told in every if GROUP.encode() in (told.read(_POINTS) or b"")}
    core = {told for told in declaring if told.owner == _CORE}
    theirs, brought = declaring - core, set[str]()
    if theirs or len(core) > 1:
        others = {told: _list_of(told) for told in every if told not in theirs}
        # Metadata may come with another distribution's files: then it is that one which brings the plugins.
        carriers = _carriers(others, declaring)
        brought = _own(
            found, listed, theirs | carriers, {told: others[told] for told in others.keys() - carriers}
        )
    for folder in listed:
        _own_archive(found, folder, is_theirs=folder in brought)
    return found


def modules_in(files: Iterable[str]) -> set[str]:
    """Return the outermost modules that have code among ``files``, paths from a folder that Python searches.

    A folder without ``__init__`` may be shared with other distributions, so of it
    the modules inside count.
    """
    found: set[tuple[str, ...]] = set()
    packages: set[tuple[str, ...]] = set()
    for file in files:
        *parents, name = os.path.normpath(file).split("/")
        if name.endswith(".pyc") and parents[-1:] == ["__pycache__"]:
            # What Python takes in place of the source beside that folder.
            parents.pop()
        stem, dot, _ = name.partition(".")
        if not dot or not name.endswith(_ENDINGS) or {"", "..", "__pycache__"} & set(parents):
            continue
        if stem == "__init__" and parents:
            packages.add(tuple(parents))
        else:
            found.add((*parents, stem))
    return {".".join(_outermost_name(parts, packages)) for parts in found | packages}


def invaded_packages(folder: str, files: Iterable[str]) -> set[str]:
    """Return the outermost packages of others that have some of ``files`` inside, paths from ``folder``.

    A package may run, read or unpickle whatever lies in it, so it is believed no longer. One whose
    ``__init__`` is among the files is their own.
    """
    around = {os.path.dirname(file) for file in files}  # noqa: PTH120
    own = {os.path.dirname(file) for file in files if _is_init(os.path.basename(file))}  # noqa: PTH119, PTH120
    known: dict[str, bool | None] = {}
    found = set()
    for inner in around - {""}:
        parts = inner.split("/")
        for package in ("/".join(parts[:depth]) for depth in range(1, len(parts) + 1)):
            if package not in known:
                known[package] = None if package in own else _is_package(f"{folder}/{package}")
            if known[package]:
                found.add(package.replace("/", "."))
            if known[package] is not False:
                break
    return found


def is_copy(owner: str, program: str) -> bool:
    """Tell whether a program came with another installation of ``owner``, which brings plugins there too."""
    import glob  # noqa: PLC0415 - for the few who have a program twice

    prefix, inner, name = os.path.realpath(program).rsplit("/", 2)
    for folder in glob.glob(f"{glob.escape(prefix)}/lib/python3*/*-packages"):  # noqa: PTH207
        for told in (_Metadata(folder, entry) for entry in _names(folder) if _is_metadata(folder, entry)):
            if told.owner == owner and GROUP.encode() in (told.read(_POINTS) or b""):
                return _lists(b"\n%b" % (told.read("RECORD") or b""), f"{inner}/{name},".encode())
    return False


def canonical(name: str) -> str:
    """Return a distribution's name as names are compared."""
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def _outermost_name(parts: tuple[str, ...], packages: set[tuple[str, ...]]) -> tuple[str, ...]:
    prefixes = (parts[:depth] for depth in range(1, len(parts)))
    return next((prefix for prefix in prefixes if prefix in packages), parts)


def _is_metadata(folder: str, name: str) -> bool:
    # As importlib_metadata finds them: in small or capital letters.
    lower = name.lower()
    return lower.endswith((".dist-info", ".egg-info")) or (lower == "egg-info" and folder.endswith(".egg"))


def _list_of(told: _Metadata) -> bytes | None:
    """Return the list of files of a distribution without plugins, after a line end; None if it has none."""
    data = told.read("RECORD", _MAX_LIST_BYTES)
    return None if data is None else b"\n%b" % data


def _carriers(others: dict[_Metadata, bytes | None], declaring: set[_Metadata]) -> set[_Metadata]:
    """Return those of ``others`` that list the metadata of a distribution with plugins, not their own."""
    for told in declaring:
        if not _PLAIN.fullmatch(told.name):
            raise told.unknown(f"its metadata is called {told.name!r}")
    names = {told.name for told in declaring}
    return {
        told
        for told, data in others.items()
        if data and any(_lists(data, f"{name}/{_POINTS}".encode()) for name in names - {told.name})
    }


def _lists(data: bytes, path: bytes) -> bool:
    """Tell whether a list of files has a path that ends in ``path``."""
    at = data.find(path)
    while at > 0 and data[at - 1 : at] not in {b"\n", b"/", b'"'}:
        at = data.find(path, at + 1)
    return at >= 0


def _own(
    found: Owned,
    listed: dict[str, list[str]],
    theirs: set[_Metadata],
    others: dict[_Metadata, bytes | None],
) -> set[str]:
    """Note what the distributions ``theirs`` may have installed; ``others`` are those without plugins.

    Returns:
        What of ``listed`` they have brought, or have Python search.
    """
    brought: set[str] = set()
    claimed = functools.cache(lambda folder: _claimed_names(folder, others))
    # Folder to whose its modules are that nobody lists.
    unlisted: dict[str, str] = {}
    tops: dict[str, set[str]] = {folder: set() for folder in listed}
    for told in sorted(theirs):
        files = _locate_rows(told, _rows(told))
        _check_libraries(told, files, others)
        modules: set[str] = set()
        for folder in listed:
            below = [file[len(folder) + 1 :] for file in files if file.startswith(f"{folder}/")]
            tops[folder].update(re.split("[/.]", file, maxsplit=1)[0] for file in below)
            inner = modules_in(below)
            entered = invaded_packages(folder, below)
            found.add(told.owner, folder, inner | entered)
            for package in entered:
                found.invaded.setdefault(package, set()).add(told.owner)
            for name in _others_among(inner, folder, others, claimed):
                found.invaded.setdefault(name, set())
            modules |= inner
        _check_programs(told, files, others)
        if all(name.startswith(_EDITABLE) for name in modules):
            # Its code lies elsewhere, as that of an editable install does.
            for name in _declared_modules(told):
                found.owners.setdefault(name, set()).add(told.owner)
        unlisted.setdefault(told.folder, told.folder if files else told.owner)
        added = _added_folders(told, files) & listed.keys()
        unlisted |= dict.fromkeys(added, told.owner)
        brought |= added | (listed.keys() & set(files))
    for folder, owner in unlisted.items():
        found.add(owner, folder, _importable(listed[folder]) - claimed(folder) - tops[folder])
    return brought


def _rows(told: _Metadata) -> list[str]:
    """Return the paths that a distribution's list of files has.

    Raises:
        UnknownOwnerError: It cannot be read.
    """
    import csv  # noqa: PLC0415 - for those who have plugins of others installed

    try:
        if (data := told.read("RECORD")) is not None:
            rows = [row[0] for row in csv.reader(StringIO(data.decode(), newline="")) if row]
        else:
            # As what setuptools once installed; the paths start from the metadata.
            data = told.read("installed-files.txt") or b""
            rows = [f"{told.name}/{line}" for line in data.decode().split("\n") if line]
        if b"\0" in data:
            raise ValueError("it holds a zero byte")
    except (ValueError, csv.Error) as error:
        raise told.unknown(f"its list of files is damaged: {error}") from error
    if len(rows) > _MAX_FILES:
        raise told.unknown(f"its list has {len(rows)} files, more than {_MAX_FILES}")
    return rows


def _locate_rows(told: _Metadata, rows: Iterable[str]) -> list[str]:
    """Return absolute paths without links in the folders that rows lead to from elsewhere."""
    paths = []
    for row in rows:
        path = os.path.normpath(os.path.join(told.folder, row))  # noqa: PTH118
        if row.startswith("/") or ".." in row:
            around, name = os.path.split(path)
            path = f"{os.path.realpath(around)}/{name}"
        paths.append(path)
    return paths


def _check_libraries(told: _Metadata, files: list[str], others: dict[_Metadata, bytes | None]) -> None:
    """Refuse shared libraries among the files of others: those are loaded without being imported."""
    lists = [data for other, data in others.items() if data and other.folder == told.folder]
    around = {os.path.dirname(file): file for file in files if _SHARED_LIBRARY.search(file)}  # noqa: PTH120
    for folder, file in around.items():
        inner = folder.removeprefix(told.folder).lstrip("/")
        outside = not f"{folder}/".startswith(f"{told.folder}/")
        if outside and f"{folder}/".startswith(
            tuple(f"{os.path.realpath(sys.prefix)}/{name}/" for name in _DATA)
        ):
            continue
        # A folder may be shared: it is another's if that has a package or libraries right there.
        theirs = re.compile(rb"\n%b/(?:__init__\.|[^/\n,]*\.so)" % re.escape(inner).encode())
        if outside or (inner and any(theirs.search(data) for data in lists)):
            raise UnknownOwnerError(
                f"'{told.owner}', which brings plugins, has installed {file}: a library among files that are "
                "not its own, which may be loaded outside any sandbox. Uninstall it "
                f"(pip uninstall {told.owner}), then install anew what else lies there"
            )


def _check_programs(told: _Metadata, files: list[str], others: dict[_Metadata, bytes | None]) -> None:
    """Refuse programs among ``files`` that are found in place of another, or by who tries a name."""
    programs = [file for file in files if not file.startswith(f"{told.folder}/")]
    if not programs:
        return
    # Where `pip install --target` puts them, which lists them as if they lay elsewhere.
    beside = [f"{told.folder}/bin/{os.path.basename(file)}" for file in programs]  # noqa: PTH119
    programs += filter(os.path.lexists, beside)
    from .programs import SAME_NAME, misleads, searched_folders  # noqa: PLC0415 - hardly any plugin has one

    lists = [data for other, data in others.items() if data and other.folder == told.folder]
    searched = set(searched_folders())
    programs = [file for file in programs if os.path.dirname(file) in searched]  # noqa: PTH120
    if len(programs) > _MAX_PROGRAMS:
        raise told.unknown(f"it has {len(programs)} programs, more than {_MAX_PROGRAMS}")
    for folder, name in map(os.path.split, programs):
        row = f"{os.path.basename(folder)}/{name},".encode()  # noqa: PTH119
        is_listed = any(_lists(data, row) for data in lists)
        how = misleads(name, folder, functools.partial(is_copy, told.owner)) or (
            SAME_NAME if is_listed else None
        )
        if how is not None:
            raise UnknownOwnerError(
                f"'{told.owner}', which brings plugins, has installed {folder}/{name}, {how}: whatever "
                f"starts '{name}' would run it outside any sandbox. Uninstall it "
                f"(pip uninstall {told.owner}), then install anew what else had that name"
            )


def _is_package(folder: str) -> bool | None:
    """Tell whether a folder is a package with an ``__init__``; None if there is no such folder."""
    try:
        return any(map(_is_init, os.listdir(folder)))  # noqa: PTH208
    except OSError:
        return None  # nor does it hold any file


def _is_init(name: str) -> bool:
    return name.startswith("__init__.") and name.endswith(_ENDINGS)


def _declared_modules(told: _Metadata) -> set[str]:
    """Return the modules of a distribution that its metadata name, where no list of files does."""
    group = ""
    modules = set((told.read("top_level.txt") or b"").decode(errors="replace").split())
    for line in (told.read(_POINTS) or b"").decode(errors="replace").splitlines():
        if line.strip().startswith("["):
            group = line.strip().strip("[]").strip()
        elif group == GROUP and "=" in line:
            modules.add(line.partition("=")[2].partition(":")[0].strip())
    return modules


def _added_folders(told: _Metadata, files: Iterable[str]) -> set[str]:
    """Return the folders that the ``.pth`` files of a distribution have Python search."""
    added: set[str] = set()
    for file in files:
        folder, name = os.path.split(file)
        if name.endswith(".pth") and folder == told.folder:
            lines = (told.read_beside(name) or b"").decode(errors="replace").splitlines()
            added.update(os.path.realpath(f"{folder}/{line}") for line in lines if "\0" not in line)
            added.update(
                os.path.realpath(line) for line in lines if line.startswith("/") and "\0" not in line
            )
    return added - {told.folder}


def _importable(names: Iterable[str]) -> set[str]:
    """Return the modules that files and folders of these names may be."""
    found = {name.partition(".")[0] for name in names if "." not in name or name.endswith(_ENDINGS)}
    return found - {"__pycache__"}


def _claimed_names(folder: str, others: dict[_Metadata, bytes | None]) -> set[str]:
    """Return the names at the top of ``folder`` that distributions without plugins have, or Python itself."""
    claimed = set(sys.stdlib_module_names) if folder == os.path.realpath(_LIBRARY) else set()
    for told, data in others.items():
        if told.folder == folder and data is not None:
            tops = set(_TOP.findall(data))
            claimed.update(top.partition(b".")[0].decode(errors="replace") for top in tops)
        elif told.folder == folder:
            # As Debian's packages have it, and those that setuptools once installed.
            claimed |= _likely_modules(told)
    return claimed


def _likely_modules(told: _Metadata) -> set[str]:
    return {told.owner.replace("-", "_"), *_declared_modules(told)}


def _others_among(
    modules: set[str],
    folder: str,
    others: dict[_Metadata, bytes | None],
    claimed: Callable[[str], set[str]],
) -> set[str]:
    """Return those of ``modules`` in ``folder`` that distributions without plugins have, or Python itself."""
    tops = {name.partition(".")[0] for name in modules}
    if not modules or not (tops := tops & claimed(folder)):
        return set()
    whole = set(sys.stdlib_module_names) if folder == os.path.realpath(_LIBRARY) else set()
    listed: set[str] = set()
    # The names of them all at once: a hostile list may share any number with others.
    row = re.compile(rb"\n((?:%b)[/.][^,\n]*)" % b"|".join(re.escape(top.encode()) for top in tops))
    for told, data in others.items():
        if told.folder == folder and data is None:
            whole |= _likely_modules(told)
        elif told.folder == folder and data is not None:
            listed.update(_module(path.decode(errors="replace")) for path in row.findall(data))
    return {name for name in modules if name in listed or name.partition(".")[0] in whole}


def _module(path: str) -> str:
    """Return the module that a file is, ``""`` if it is none."""
    around, _, name = path.rpartition("/")
    stem = name.partition(".")[0]
    inner = around if stem == "__init__" else f"{around}/{stem}"
    return inner.strip("/").replace("/", ".") if name.endswith(_ENDINGS) else ""


def _own_archive(found: Owned, path: str, *, is_theirs: bool) -> None:
    """Note the modules of a zip file that came with plugins, or holds some: all, since they came as one."""
    if not os.path.isfile(path):  # noqa: PTH113
        return
    import zipfile  # noqa: PLC0415 - hardly anybody has one
    import zipimport  # noqa: PLC0415

    try:
        zipimport.zipimporter(path)
    except zipimport.ZipImportError:
        return  # Python finds no module there either
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(f"/{_POINTS}")]
            if any(info.file_size > _MAX_BYTES for info in infos):
                raise UnknownOwnerError(
                    f"{path}, where Python looks for modules, has too large metadata; remove it"
                )
            if is_theirs or any(GROUP.encode() in archive.read(info) for info in infos):
                found.add(path, path, modules_in(archive.namelist()))
                found.libraries.append(path)
    # zipfile raises these of a member that is encrypted, or compressed in a way that it cannot read, as well.
    except (zipfile.BadZipFile, OSError, RuntimeError, NotImplementedError, ValueError) as error:
        raise UnknownOwnerError(
            f"{path}, where Python looks for modules, cannot be read: {error}; "
            "remove it, or take it off PYTHONPATH"
        ) from error


def _names(folder: str) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208
    except OSError:
        return []  # Python finds no module there either
