"""The layout of an installed distribution: where its code lies, and which of it a sandbox may read.

All of this is told by the distribution's own metadata, and a stranger's wheel may
carry any: so nothing is read that is no small regular file, and no folder is opened
to a plugin but the one that holds the module of its entry point.
"""

from __future__ import annotations

import ast
import json
import os
import re
import site
import stat
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from urllib.parse import unquote, urlsplit

from importlib_metadata import Distribution

from ..compat.findings import Finding
from ..compat.source.module_files import (
    file_below,
    file_in,
    file_of,
    is_package,
    modules_below,
    outermost_modules,
)
from ..compat.version_range import CORE
from ..imports.entry_point_autoload import LOADED_UNASKED
from ..imports.import_guard import current
from ..imports.module_owners import canonical, invaded_packages, is_copy, modules_in
from .editable_install import is_of_an_editable_install

MAX_BYTES = 2**20
#: Packages and modules of one distribution that a sandbox is opened to one by one.
MAX_OWN = 500
#: Of a file that an editable install points to its project with: some lines, as builders write it.
MAX_POINTER_BYTES = 2**16
#: Of such files, and of folders of code that they name.
MAX_POINTERS = 32
#: Files in those folders, beside the insides of packages.
MAX_LISTED = 20_000

_READ_FROM_METADATA = (
    *("entry_points.txt", "METADATA", "PKG-INFO", "RECORD", "direct_url.json"),
    *("installed-files.txt", "SOURCES.txt", "top_level.txt"),
)
_AT_STARTUP = {"sitecustomize", "usercustomize"}
_TOP = re.compile(rb"\n([^/,\n]+)")
#: The import hook that setuptools writes for an editable install, and its line on what lies where.
_HOOK = re.compile(r"__editable___\w+_finder\.py")
_MAPPING = re.compile(r"^MAPPING(?:: dict\[str, str\])? = (\{.*\})$", re.MULTILINE)
#: Beside ``lib`` and ``bin``, and never searched for modules.
_DATA = {"etc", "include", "share"}
#: Endings of notes that lie right in such a folder, as a licence does.
_NOTES = {"", ".md", ".rst", ".txt"}
#: What an installer makes programs of.
_PROGRAMS = ("console_scripts", "gui_scripts")
_OF_A_PROJECT = ("pyproject.toml", "setup.py", "setup.cfg")


class UnsafeFileError(ValueError):
    """A file of a distribution is not read: too large, or no regular file."""


@dataclass(frozen=True, slots=True)
class CodeLocation:
    """The location of an entry point's module.

    Attributes:
        search_path: Folders that hold it, as on ``sys.path``.
        packages: Dotted package to its folder, where the package's name does not lead there.
        roots: Dotted module to its file, where it lies outside the folders of installed packages.
        readable: What a sandbox must be able to read of it.
        withheld: Why nothing of it may be opened to a sandbox, or ``""``.
        own: Dotted modules and packages that the distribution installs.
        within: Folder that none of its files may lie outside of, or ``""``.
    """

    search_path: tuple[str, ...]
    packages: Mapping[str, str] = field(default_factory=dict)
    roots: Mapping[str, str] = field(default_factory=dict)
    readable: tuple[str, ...] = ()
    withheld: str = ""
    own: tuple[str, ...] = ()
    within: str = ""


#: Dotted name of a module, its file, and the folder that it is found in.
_Located = tuple[str, Path, Path]


class Environment:
    """The environment that distributions are installed in; looked at once for all of them.

    Args:
        is_installed: So they are; otherwise they would be, once somebody installs them.

    Attributes:
        site_folders: Where pip puts packages: what one of them reads, all may.
        reserved: What no plugin may be given, and what it is.
    """

    def __init__(self, *, is_installed: bool = True) -> None:
        self.is_installed = is_installed
        self.site_folders = _site_folders()
        self.reserved = _reserved_folders()
        self._records: dict[Path, list[_Record]] = {}

    def beside(self, base: Path) -> list[Path]:
        """Return the folders of packages that what lies in ``base`` shares, or would share once installed."""
        return [base] if self.is_installed else sorted(self.site_folders)

    def overlaps(self, own: Sequence[str], base: Path, info: Path | None) -> Iterator[tuple[str, str]]:
        """Yield which of the files ``own`` another distribution in the same folder installs too, and which.

        Args:
            own: Absolute paths.
            base: Folder that the paths of a RECORD start from.
            info: Folder of the metadata whose files these are.
        """
        names = [os.path.relpath(path, base) for path in own]
        for folder in self.beside(base) if names else ():
            if folder not in self._records:
                self._records[folder] = [_Record(path) for path in folder.glob("*.dist-info/RECORD")]
            for record in self._records[folder]:
                if not self._is_same(record.folder, info):
                    for name in names:
                        if record.lists(name):
                            yield name, record.folder.partition("-")[0]

    def _is_same(self, folder: str, info: Path | None) -> bool:
        if info is None or self.is_installed:
            return info is not None and folder == info.name
        # An earlier version of what would be installed gives way to it.
        return canonical(folder.partition("-")[0]) == canonical(info.name.partition("-")[0])


class _Record:
    """The files that a distribution installs; the list may be megabytes long."""

    def __init__(self, path: Path) -> None:
        self.folder = path.parent.name
        found = path.stat()
        self._text = b"\n" + path.read_bytes() if stat.S_ISREG(found.st_mode) else b""
        # What lies at the top is few; the list itself is searched only for what may be on it.
        self._tops = frozenset(_TOP.findall(self._text))

    def lists(self, name: str) -> bool:
        """Tell whether it has ``name``; paths are quoted only where they hold a comma."""
        written = name.encode()
        return written.partition(b"/")[0] in self._tops and b"\n%b," % written in self._text


class InstalledLayout:
    """The layout of one installed distribution.

    Args:
        distribution: Its metadata; checked by ``check_files``.
        environment: What it is installed in.

    Raises:
        OSError, ValueError, SyntaxError, RecursionError, MemoryError: The metadata is damaged.
    """

    def __init__(self, distribution: Distribution, environment: Environment) -> None:
        self._environment = environment
        self._distribution = distribution
        self.base = Path(str(distribution.locate_file(""))).resolve()
        self.project = _project_of(distribution)
        self._info = getattr(distribution, "_path", None)
        # "..", so that no file hides behind another folder's name.
        files = (Path(os.path.normpath(self.base / str(file))) for file in distribution.files or ())
        self._files = list(dict.fromkeys(files))
        self._groups = {point.group for point in distribution.entry_points}
        self._programs = {point.name for point in distribution.entry_points if point.group in _PROGRAMS}
        listed = self._files if self.project is not None else []
        self._folders = _folders_of([path for path in listed if path.suffix == ".pth"])
        self._mapping = _mapping_of([path for path in listed if _HOOK.fullmatch(path.name)])
        self._own = self._installed(distribution.read_text("top_level.txt") or "")

    def _installed(self, listed: str) -> tuple[str, ...]:
        """Return the outermost packages and modules that the distribution brings.

        Args:
            listed: What its metadata say of them, for one that has no list of its files.
        """
        own = outermost_modules(Path(file) for file in self.listed())
        own += self._mapping if self._files else listed.split()
        for folder in self._folders:
            # Around the top of a project lies what is not installed: tests, tools, other projects.
            if self.project is not None and self.project in folder.resolve().parents:
                files = list(islice(modules_below(folder, self.project), MAX_LISTED + 1))
                if len(files) > MAX_LISTED:
                    raise ValueError(f"{folder}, which it points to, holds more than {MAX_LISTED} files")
                own += outermost_modules(files)
        self._claimed = {name.partition(".")[0] for name in own}
        return tuple(dict.fromkeys(name for name in own if _may_be_own(name)))

    def listed(self) -> list[str]:
        """Return the files of its list in the folder that it is installed to, as paths from there."""
        inside = f"{self.base}{os.sep}"
        return [str(path).removeprefix(inside) for path in self._files if str(path).startswith(inside)]

    def place(self, module: str) -> CodeLocation:
        """Return where ``module`` lies, and all that is installed with it.

        The first place counts, as when it is imported.
        """
        return replace(self._place(module), own=self._own)

    def _place(self, module: str) -> CodeLocation:
        installed = file_in(self.base, module)
        is_site = self.base in self._environment.site_folders
        if installed is not None and not is_site:
            return self._opened([(*installed[:2], self.base), *self._beside(self._in_base)])
        own = str(self.base if is_site else self.base / module.partition(".")[0])
        usual = CodeLocation((str(self.base),), readable=(own,))
        if installed is not None or self._hides(module):
            return usual
        editable = self._in_project(module)
        if editable is None:
            return usual
        opened = self._opened([editable, *self._beside(self._in_project)])
        paths = tuple(dict.fromkeys((str(self.base), *opened.search_path)))
        return replace(opened, search_path=paths, readable=(own, *opened.readable))

    def _beside(self, look: Callable[[str], _Located | None]) -> list[_Located]:
        """Return where the rest of what the distribution installs lies: its modules import each other."""
        if len(self._own) > MAX_OWN:
            raise ValueError(f"it installs {len(self._own)} packages and modules; at most {MAX_OWN}")
        return [found for found in map(look, self._own) if found is not None]

    def code(self) -> Iterator[tuple[Path, str]]:
        """Yield where its packages and modules lie: a folder as on ``sys.path``, and the path from there."""
        for name in self._own:
            found = self._in_base(name) or self._in_project(name)
            if found is not None:
                _, file, folder = found
                yield folder, str((file.parent if is_package(file) else file).relative_to(folder))

    def _in_base(self, module: str) -> _Located | None:
        found = file_in(self.base, module)
        return None if found is None else (found[0], found[1], self.base)

    def _in_project(self, module: str) -> _Located | None:
        inside = (
            located
            for located in self._candidates(module)
            if self.project is not None and located[1].resolve().is_relative_to(self.project)
        )
        return next(inside, None)

    def hazards(self) -> Iterator[Finding]:
        """Yield what of the distribution runs without being asked, and so outside any sandbox."""
        for group in sorted(self._groups & set(LOADED_UNASKED)):
            text = f"declares an entry point of '{group}', which is run by {LOADED_UNASKED[group]}"
            yield Finding(
                "E-STARTUP", f"{text}, outside any sandbox; uninstall it", advice=f"leave out '{group}'"
            )
        for path in self._files:
            if _runs_at_startup(path, self.base, self.project):
                text = f"installs {path.name}, which can run code outside any sandbox whenever Python starts"
                yield Finding(
                    "E-STARTUP",
                    f"{text}, and has had the chance; uninstall it",
                    advice=f"leave out {path.name}",
                )
        yield from self._outside()
        yield from self._overwritten()
        yield from self._inside_others()
        yield from self._misleading()
        yield from self._imported()

    def _outside(self) -> Iterator[Finding]:
        inside = f"{self.base}{os.sep}"
        outside = [path for path in self._files if not str(path).startswith(inside)]
        for path in outside:
            if path.parent.name == "__pycache__" and _source_of(path) in outside:
                continue  # told with its source
            place = Path(os.path.relpath(path, os.path.commonpath([path, self.base])))
            if not self._is_left_alone(place):
                text = f"installs {place}, outside the packages, where others may find it without being asked"
                remedy = (
                    "declare it in [project.scripts]" if place.parts[0] == "bin" else f"leave out {place}"
                )
                yield Finding("E-STARTUP", f"{text}; uninstall it", advice=remedy)

    def _is_left_alone(self, place: Path) -> bool:
        """Tell whether nobody finds what lies at ``place`` without being asked; who starts a program asks."""
        if not place.parts or place.parts[0] in _DATA or (len(place.parts) == 1 and place.suffix in _NOTES):
            return True
        return place.parts[0] == "bin" and self._environment.is_installed and not _is_code(place)

    def _overwritten(self) -> Iterator[Finding]:
        programs = [
            os.path.normpath(f"{self.base}/../../../bin/{name}") for name in self._programs if "/" not in name
        ]
        own = sorted({*(str(path) for path in self._files if _is_code(path)), *programs})
        for path, other in self._environment.overlaps(own, self.base, self._info):
            text = f"installs {path}, which is a file of '{other}': it may have replaced code that"
            yield Finding(
                "E-STARTUP",
                f"{text} runs outside any sandbox; uninstall it, then install '{other}' anew",
                advice=f"leave out {path}",
            )

    def _inside_others(self) -> Iterator[Finding]:
        """Yield which packages of others, or of ringfence, its files lie in."""
        around = {CORE} & {*self._claimed, *(re.split("[/.]", name, maxsplit=1)[0] for name in self.listed())}
        if not self._environment.is_installed:
            around.update(
                *(invaded_packages(str(folder), self.listed()) for folder in self._environment.site_folders)
            )
        for package in sorted(around):
            text = f"installs files in '{package}', a package of others that may run them outside any sandbox"
            yield Finding(
                "E-STARTUP",
                f"{text}; uninstall it, then install anew what else lies there",
                advice=f"keep its files in a package of its own, and out of '{package}'",
            )

    def _misleading(self) -> Iterator[Finding]:
        """Yield which programs it would have found in place of others."""
        if self._environment.is_installed or not self._programs:
            return  # nothing would have been started
        from ..imports.programs import misleads  # noqa: PLC0415 - hardly any plugin has one

        scripts = os.path.realpath(sysconfig.get_path("scripts"))
        is_same = partial(is_copy, canonical(self._distribution.metadata["Name"] or ""))
        for name in sorted(self._programs):
            if (how := misleads(name, scripts, is_same)) is not None:
                text = f"installs the program '{name}', {how}: whatever starts it runs it outside any sandbox"
                yield Finding("E-STARTUP", f"{text}; uninstall it", advice=f"rename the program '{name}'")

    def _imported(self) -> Iterator[Finding]:
        guard = current()
        name = self._distribution.metadata["Name"] or ""
        early = set() if guard is None or guard.is_chosen(name) else guard.early
        files = (os.path.relpath(path, self.base) for path in self._files)
        for name in sorted(early and modules_in(files) & early):
            text = f"its module '{name}' was imported before ringfence could prevent it, outside any sandbox"
            yield Finding("E-STARTUP", f"{text}; uninstall it", advice=f"rename '{name}'")

    def _hides(self, module: str) -> bool:
        """Tell whether Python ends its search for ``module`` in the folder of the metadata.

        It looks there before any project, and no further once it has met a module or a
        package on the way; nothing that is mapped elsewhere is what it would import.
        """
        parts = module.split(".")
        return any(file_of(self.base.joinpath(*parts[:depth])) for depth in range(1, len(parts) + 1))

    def _candidates(self, module: str) -> Iterator[_Located]:
        """Yield dotted name, file and surrounding folder of what an editable install offers."""
        for folder in self._folders:
            found = file_in(folder, module)
            if found is not None:
                yield (found[0], found[1], folder)
        for package, mapped in sorted(self._mapping.items(), key=lambda item: -len(item[0])):
            inside = module == package or module.startswith(f"{package}.")
            file = file_of(Path(mapped)) if inside and Path(mapped).is_absolute() else None
            rest = module.split(".")[package.count(".") + 1 :]
            if file is not None and file_below(file, rest) is not None:
                yield package, file, Path(mapped).parent

    def _opened(self, located: Iterable[_Located]) -> CodeLocation:
        """Open packages and single files of them, never the folders around."""
        found: dict[str, tuple[Path, Path]] = {}
        for name, file, folder in located:
            found.setdefault(name, (file.resolve(), folder))
        code = {name: file.parent if is_package(file) else file for name, (file, _) in found.items()}
        held = (
            (place, what)
            for place in code.values()
            for path, what in self._environment.reserved
            if path.is_relative_to(place)
        )
        withheld = next(
            (
                f"its code is {place}, which no sandbox may open, since it is or holds {what}"
                for place, what in held
            ),
            "",
        )
        return CodeLocation(
            search_path=tuple(dict.fromkeys(str(folder) for _, folder in found.values())),
            packages={name: str(file.parent) for name, (file, _) in found.items() if is_package(file)},
            roots={name: str(file) for name, (file, _) in found.items()},
            readable=() if withheld else tuple(dict.fromkeys(str(place) for place in code.values())),
            withheld=withheld,
        )


def check_files(distribution: Distribution, *names: str) -> None:
    """Check that the metadata can be read without harm.

    Args:
        distribution: Whose metadata.
        names: The files to check; all by default.

    Raises:
        UnsafeFileError: A file is too large, or a pipe or device.
    """
    folder = getattr(distribution, "_path", None)
    if isinstance(folder, Path):
        for path in (
            (folder / name for name in names or _READ_FROM_METADATA) if folder.is_dir() else (folder,)
        ):
            _check_file(path)


def read_small(path: Path, most: int = MAX_BYTES) -> bytes:
    """Return a file's bytes, at most ``most`` of them.

    Raises:
        UnsafeFileError: It is too large, or a pipe or device.
        OSError: It cannot be read.
    """
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
        _check(path, os.fstat(file.fileno()), most)
        data = file.read(most + 1)
    if len(data) > most:
        raise UnsafeFileError(f"{path.name} is longer than {most} bytes")
    return data


def _check_file(path: Path, most: int = MAX_BYTES) -> None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return
    _check(path, found, most)


def _check(path: Path, found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise UnsafeFileError(f"{path.name} is no regular file")
    if found.st_size > most:
        raise UnsafeFileError(f"{path.name} is longer than {most} bytes")


def _site_folders() -> set[Path]:
    paths = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return {Path(path).resolve() for path in paths}


def _reserved_folders() -> list[tuple[Path, str]]:
    kept = {
        "/": "the top of the file system",
        "/home": "the home folders",
        "/root": "a home folder",
        os.path.expanduser("~"): "your home folder",  # noqa: PTH111 - never raises
        tempfile.gettempdir(): "the folder of temporary files",
        str(Path(sys.prefix).parent): "the folder around this Python environment",
        str(Path.cwd()): "the current folder",
    }
    return [(Path(path).resolve(), what) for path, what in kept.items()]


def _may_be_own(module: str) -> bool:
    """Tell whether a stranger's metadata may call a module its own: ringfence's are not."""
    parts = module.split(".")
    return parts[0] != CORE and all(part.isidentifier() for part in parts)


def _project_of(distribution: Distribution) -> Path | None:
    """Return the project that an editable install points to, or None if it is no such install."""
    text = distribution.read_text("direct_url.json")
    told = None if text is None else json.loads(text)
    if not isinstance(told, dict) or not isinstance(told.get("dir_info"), dict):
        return None
    url = urlsplit(str(told.get("url")))
    if not told["dir_info"].get("editable") or url.scheme != "file":
        return None
    folder = Path(unquote(url.path)).resolve()
    return folder if any((folder / name).is_file() for name in _OF_A_PROJECT) else None


def _is_code(path: Path) -> bool:
    return path.suffix in {".py", ".pyc", ".so", ".pth"} or ".so." in path.name


def _source_of(compiled: Path) -> Path:
    return compiled.parent.parent / f"{compiled.name.partition('.')[0]}.py"


def _runs_at_startup(path: Path, base: Path, project: Path | None) -> bool:
    folder = path.parent.parent if path.name == "__init__.py" else path.parent
    module = path.parent.name if path.name == "__init__.py" else path.name.partition(".")[0]
    if module in _AT_STARTUP and folder == base:
        return path.suffix in {".py", ".pyc", ".so"}
    if path.suffix != ".pth" or path.parent != base:
        return False
    return project is None or not is_of_an_editable_install(path, project, read_small)


def _folders_of(pointers: Sequence[Path]) -> list[Path]:
    """Return the folders that ``.pth`` files add; lines that run code are not ours to run."""
    if len(pointers) > MAX_POINTERS:
        raise ValueError(f"it installs {len(pointers)} files *.pth; at most {MAX_POINTERS} are read")
    found: dict[Path, None] = {}
    for path in pointers:
        lines = read_small(path, MAX_POINTER_BYTES).decode("utf-8").splitlines()
        folders = (path.parent / line.strip() for line in lines if line.strip())
        found |= dict.fromkeys(folder for folder in folders if folder.is_dir())
    if len(found) > MAX_POINTERS:
        raise ValueError(f"its *.pth name {len(found)} folders; at most {MAX_POINTERS} are looked into")
    return list(found)


def _mapping_of(hooks: Sequence[Path]) -> dict[str, str]:
    """Read package to folder from the import hook that setuptools writes: one line, and no more of it.

    Args:
        hooks: At most one.
    """
    if len(hooks) > 1:
        raise ValueError(f"it has {len(hooks)} import hooks of an editable install, which has one")
    for path in hooks:
        written = _MAPPING.search(read_small(path, MAX_POINTER_BYTES).decode("utf-8"))
        if written is None:
            raise ValueError(f"{path.name} has no line 'MAPPING = {{…}}'")
        mapping = ast.literal_eval(written[1])
        return {str(package): str(folder) for package, folder in dict(mapping).items()}
    return {}
