"""The plugins of a project or a wheel that is not installed, told from its text; nothing of it runs.

A project is read by the ``[project]`` table of its ``pyproject.toml``. What its
build would work out (``dynamic``) is not guessed: a wheel has it written down.
"""

from __future__ import annotations

import os
import re
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import msgspec
from importlib_metadata import Distribution, SimplePath

from ..compat.findings import Finding, Verdict
from ..compat.source.module_files import file_in, is_inside, modules_below, outermost_modules
from ..compat.version_range import CORE
from ..hooks.errors import JobError, visible
from ..imports.module_owners import GROUP
from .catalog import Catalog, Found, catalog_of
from .installed_layout import read_small
from .wheel import unpack

PYPROJECT = "pyproject.toml"
#: Version of a project that leaves it to its build.
UNBUILT = "unbuilt"

#: Of a pyproject.toml that is read: the largest of known projects have a quarter of it.
MAX_PYPROJECT_BYTES = 2**18
#: Parts of a key, as in ``tool.setuptools.packages``: the time that tomllib takes grows with their square.
MAX_PARTS = 32
MAX_CODE_FOLDERS = 32
MAX_FOLDER_NAME = 1000

_BUILD = "build a wheel (python -m build --wheel) and name that"
#: What no key is looked for in: comments and the inside of strings. One that does not end takes all
#: that follows, as the parser does not get beyond it either.
_NOT_KEYS = re.compile(
    r"""\"{3}(?:[^"\\]|\\.|"{1,2}(?!"))*+(?:"{3,5}|.*)|'{3}(?:[^']|'{1,2}(?!'))*+(?:'{3,5}|.*)"""
    r"""|"(?:[^"\\\n]|\\.)*+(?:"|.*)|'[^'\n]*+(?:'|.*)|\#[^\n]*""",
    re.DOTALL,
)
_LONG_KEY = re.compile(rf"(?<![\w-])(?:[\w-]++[ \t]*+\.[ \t]*+){{{MAX_PARTS}}}")


class Project(msgspec.Struct, frozen=True, rename="kebab"):
    """The ``[project]`` table, as far as it concerns plugins."""

    name: str
    version: str = UNBUILT
    description: str = ""
    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    dynamic: tuple[str, ...] = ()
    entry_points: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    scripts: dict[str, str] = msgspec.field(default_factory=dict)
    gui_scripts: dict[str, str] = msgspec.field(default_factory=dict)


class _File(msgspec.Struct, frozen=True):
    project: Project | None = None
    tool: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """The plugins of a project or a wheel, at a path.

    Attributes:
        path: As it was named.
        folder: Where its files are looked at; for a wheel one that is removed afterwards.
        plugins: Its plugins, in the order of their names.
    """

    path: Path
    folder: Path
    plugins: tuple[Found, ...]

    def told(self, verdict: Verdict) -> Verdict:
        """Return a verdict that names files as parts of ``path``, also after ``folder`` is gone."""
        if self.folder == self.path:
            return verdict
        findings = (
            replace(
                finding,
                text=finding.text.replace(str(self.folder), str(self.path)),
                path=None if finding.path is None else self._named(finding.path),
            )
            for finding in verdict.findings
        )
        return replace(verdict, findings=tuple(findings))

    def _named(self, path: Path) -> Path:
        return self.path / path.relative_to(self.folder) if path.is_relative_to(self.folder) else path


def is_path(text: str) -> bool:
    """Tell whether what a user wrote is a path: no name of a plugin has a slash or ends in ``.whl``."""
    return "/" in text or text in {".", ".."} or text.endswith(".whl")


@contextmanager
def plugins_at(path: Path) -> Iterator[Uninstalled]:
    """Read the plugins of a project's folder or a wheel; they can be loaded until the context ends.

    Raises:
        JobError: It is neither, or says too little, or declares no plugin that can be told.
    """
    if path.is_dir():
        yield Uninstalled(path, path, _of_project(path))
    elif path.is_file() and path.name == PYPROJECT:
        yield Uninstalled(path.parent, path.parent, _of_project(path.parent))
    elif path.is_file() and path.suffix == ".whl":
        with tempfile.TemporaryDirectory(prefix="ringfence-wheel-") as name:
            folder = Path(name).resolve() / "lib" / "python" / "site-packages"
            folder.mkdir(parents=True)
            unpack(path, folder)
            there = Distribution.discover(path=[str(folder)])
            found = catalog_of(there, remedy="build it anew", are_installed=False)
            yield Uninstalled(path, folder, _plugins(found, path, folder))
    elif path.exists():
        raise JobError(f"{path} is neither a folder with {PYPROJECT} nor a wheel (.whl)")
    else:
        raise JobError(
            f"{path} is not there; name a folder with {PYPROJECT}, a wheel, or an installed plugin"
        )


def read_project(folder: Path) -> Project:
    """Return the ``[project]`` table of the project in ``folder``.

    Raises:
        JobError: There is none, or it cannot be read.
    """
    return _read(folder)[0]


def _read(folder: Path) -> tuple[Project, Mapping[str, Any]]:
    path = folder / PYPROJECT
    if not is_inside(path, folder.resolve()):
        raise JobError(
            f"{path} is a link out of the project, which is not followed; put the file itself there"
        )
    try:
        told = msgspec.convert(tomllib.loads(_text(path)), _File)
    except FileNotFoundError:
        if not folder.exists():
            raise JobError(f"{folder} is not there; name a folder with {PYPROJECT}") from None
        older = "; setup.py and setup.cfg are not read" if (folder / "setup.py").exists() else ""
        raise JobError(f"{folder} has no {PYPROJECT}{older}: {_BUILD}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise JobError(f"{path} cannot be read: {visible(str(error))}") from error
    if told.project is None:
        raise JobError(f"{path} has no table [project]; {_BUILD}")
    left = [key for key in ("dependencies", "entry-points") if key in told.project.dynamic]
    if left:
        raise JobError(
            f"{path} leaves {' and '.join(left)} to its build (dynamic), so nobody can read them; {_BUILD}"
        )
    return told.project, told.tool


def _text(path: Path) -> str:
    """Return the text of a ``pyproject.toml`` that is parsed in a sensible time.

    Raises:
        ValueError: It is not.
        OSError: It cannot be read.
    """
    text = read_small(path, MAX_PYPROJECT_BYTES).decode("utf-8")
    found = _LONG_KEY.search(_NOT_KEYS.sub("_", text))
    if found is not None:
        raise ValueError(f"the key {found[0][:40]}… has more than {MAX_PARTS} parts")
    return text


def _of_project(folder: Path) -> tuple[Found, ...]:
    project, tool = _read(folder)
    root = folder.resolve()
    modules = [value.partition(":")[0].strip() for value in project.entry_points.get(GROUP, {}).values()]
    code = _code_folder(root, _declared_folders(tool, folder), modules)
    distribution = _Distribution(project, code, folder, _installs(code, root, tool))
    found = catalog_of([distribution], remedy="mend its [project] table", are_installed=False)
    return tuple(_inside(plugin, root) for plugin in _plugins(found, folder, folder))


def _plugins(found: Catalog, path: Path, folder: Path) -> tuple[Found, ...]:
    faults = [f"it declares the plugin '{name}' more than once; keep one" for name in found.conflicts]
    faults += [text.replace(str(folder), str(path)) for text in found.damaged]
    if not found.plugins and not faults:
        faults.append(f'it declares no plugin; write one into [project.entry-points."{GROUP}"]')
    if any(plugin.is_builtin for plugin in found.plugins.values()):
        faults.append(f"it is {CORE} itself, whose plugins are checked by their names")
    if faults:
        raise JobError(f"{path} cannot be checked: {'; '.join(faults)}")
    return tuple(found.plugins.values())


def _inside(plugin: Found, root: Path) -> Found:
    """Withhold code that a link leads out of the project to: a sandbox would be shown a stranger's choice."""
    outside = [file for file in plugin.place.roots.values() if not Path(file).is_relative_to(root)]
    plugin = replace(plugin, place=replace(plugin.place, within=str(root)))
    if not outside:
        return plugin
    text = f"its code is {outside[0]}, outside the project; put it inside"
    hazards = (*plugin.hazards, Finding("E-PLACE", text, advice="keep the code inside the project"))
    return replace(plugin, place=replace(plugin.place, readable=()), hazards=hazards)


def _code_folder(root: Path, said: list[str], modules: list[str]) -> Path:
    """Return the folder that the modules of the plugins lie in, as they would on ``sys.path``."""
    folders = [(root / name).resolve() for name in [*said, "src", "."]]
    inside = [folder for folder in folders if folder.is_relative_to(root)]

    def held(folder: Path) -> int:
        return sum(file_in(folder, module) is not None for module in modules)

    # max takes the first of equals; where nothing is found the root is as good as any.
    return max(inside, key=held, default=root)


def _declared_folders(tool: Mapping[str, Any], folder: Path) -> list[str]:
    """Return the folders of code that setuptools is told of.

    Raises:
        JobError: They are too many, or no folders.
    """
    said: list[str] = []
    match tool:
        case {"setuptools": {"packages": {"find": {"where": list(where)}}}}:
            said += [name for name in where if isinstance(name, str)]
    match tool:
        case {"setuptools": {"package-dir": {"": str(inner)}}}:
            said.append(inner)
    wrong = [name for name in said if not name.isprintable() or len(name) > MAX_FOLDER_NAME]
    if wrong:
        raise JobError(f"{folder / PYPROJECT}: {wrong[0][:40]!r} in [tool.setuptools] is no folder")
    if len(said) > MAX_CODE_FOLDERS:
        raise JobError(
            f"{folder / PYPROJECT} tells setuptools of {len(said)} folders of code; at most "
            f"{MAX_CODE_FOLDERS} are looked at. Name fewer, or {_BUILD}"
        )
    return said


def _installs(code: Path, root: Path, tool: Mapping[str, Any]) -> list[str]:
    """Return the packages and modules that an installation would put beside each other.

    Args:
        code: Folder of the code.
        root: The project. Code at its top lies among tests and tools, so what of it is installed is told.
        tool: Tables ``[tool.…]``.

    Raises:
        JobError: A folder cannot be listed.
    """
    try:
        there = outermost_modules(modules_below(code, root)) if code.is_dir() else []
    except OSError as error:
        raise JobError(f"{code} cannot be read: {error.strerror}; change its permissions") from error
    if code != root:
        return there
    told: list[Any] = []
    match tool:
        case {"setuptools": {"py-modules": list(names)}}:
            told += names
    match tool:
        case {"setuptools": {"packages": list(names)}}:
            told += names
        case {"setuptools": {"packages": {"find": dict(find)}}}:
            told += _found_by_setuptools(there, find)
    return [
        name for name in told if isinstance(name, str) and is_inside(code.joinpath(*name.split(".")), root)
    ]


def _found_by_setuptools(names: list[str], find: Mapping[str, Any]) -> Iterator[str]:
    """Yield the outermost packages that ``packages.find`` includes and does not exclude."""
    include, exclude = find.get("include", ["*"]), find.get("exclude", [])
    for name in names:
        if _matches(name, include) and not _matches(name, exclude):
            yield name


def _matches(name: str, patterns: Any) -> bool:
    return isinstance(patterns, list) and any(fnmatchcase(name, str(pattern)) for pattern in patterns)


class _Distribution(Distribution):
    """A project, with the metadata that an installation of it would have."""

    def __init__(self, project: Project, base: Path, told: Path, modules: list[str]) -> None:
        self._base = base
        #: What messages about damaged metadata name.
        self._texts = {
            "METADATA": _metadata(project, told),
            "entry_points.txt": _entry_points(project, told),
            "top_level.txt": "\n".join(modules),
        }

    def read_text(self, filename: str) -> str | None:
        """Return a file of the metadata; None where there is none."""
        return self._texts.get(filename)

    def locate_file(self, path: str | os.PathLike[str]) -> SimplePath:
        """Return where a file lies that an installation would put among the packages."""
        return self._base / path


def _metadata(project: Project, told: Path) -> str:
    fields = [("Name", project.name), ("Version", project.version)]
    fields += [("Summary", project.description)] if project.description else []
    fields += [("Requires-Dist", text) for text in project.dependencies]
    fields += [("Classifier", text) for text in project.classifiers]
    for key, value in fields:
        if not value.isprintable():
            raise JobError(f"{told / PYPROJECT}: {key} {value!r} holds a line end or a control character")
    return "".join(f"{key}: {value}\n" for key, value in fields)


def _entry_points(project: Project, told: Path) -> str:
    lines = []
    programs = {"console_scripts": project.scripts, "gui_scripts": project.gui_scripts}
    for group, points in {**project.entry_points, **programs}.items():
        lines.append(f"[{group}]")
        for name, value in points.items():
            if not (group + name + value).isprintable() or set(name) & set("=[]#;") or not name.strip():
                raise JobError(f"{told / PYPROJECT}: {name!r} in [project.entry-points] is no name")
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"
