"""The plugins of a project or a wheel that is not installed, told from its text; nothing of it runs.

A project is read by the ``[project]`` table of its ``pyproject.toml``. What its
build would work out (``dynamic``) is not guessed: a wheel has it written down.
"""

from __future__ import annotations

import os
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from importlib_metadata import Distribution, SimplePath

from .catalog import GROUP, Catalog, Found, catalog_of
from .hooks.compat import CORE
from .hooks.errors import JobError, visible
from .hooks.modules import file_in
from .hooks.verdict import Finding, Verdict
from .places import read_small
from .wheel import unpack

PYPROJECT = "pyproject.toml"
#: Version of a project that leaves it to its build.
UNBUILT = "unbuilt"

_BUILD = "build a wheel (python -m build --wheel) and name that"


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


class _File(msgspec.Struct, frozen=True):
    project: Project | None = None
    tool: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Uninstalled:
    """What a path holds.

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
            folder = Path(name).resolve()
            unpack(path, folder)
            found = catalog_of(Distribution.discover(path=[str(folder)]), remedy="build it anew")
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
    try:
        told = msgspec.convert(tomllib.loads(read_small(path).decode("utf-8")), _File)
    except FileNotFoundError:
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


def _of_project(folder: Path) -> tuple[Found, ...]:
    project, tool = _read(folder)
    root = folder.resolve()
    modules = [value.partition(":")[0].strip() for value in project.entry_points.get(GROUP, {}).values()]
    distribution = _Distribution(project, _code_folder(root, tool, modules), folder)
    found = catalog_of([distribution], remedy="mend its [project] table")
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
    if not outside:
        return plugin
    text = f"its code is {outside[0]}, outside the project; put it inside"
    hazards = (*plugin.hazards, Finding("E-PLACE", text, advice="keep the code inside the project"))
    return replace(plugin, place=replace(plugin.place, readable=()), hazards=hazards)


def _code_folder(root: Path, tool: Mapping[str, Any], modules: list[str]) -> Path:
    """Return the folder that the modules of the plugins lie in, as they would on ``sys.path``."""
    folders = [root / name for name in [*_said(tool), "src", "."]]
    inside = [folder.resolve() for folder in folders if folder.resolve().is_relative_to(root)]

    def held(folder: Path) -> int:
        return sum(file_in(folder, module) is not None for module in modules)

    # max takes the first of equals; where nothing is found the root is as good as any.
    return max(inside, key=held, default=root)


def _said(tool: Mapping[str, Any]) -> list[str]:
    """Return the folders of code that setuptools is told of."""
    said: list[str] = []
    match tool:
        case {"setuptools": {"packages": {"find": {"where": list(where)}}}}:
            said += [folder for folder in where if isinstance(folder, str)]
    match tool:
        case {"setuptools": {"package-dir": {"": str(folder)}}}:
            said.append(folder)
    return said


class _Distribution(Distribution):
    """A project, with the metadata that an installation of it would have."""

    def __init__(self, project: Project, base: Path, told: Path) -> None:
        self._base = base
        #: What messages about damaged metadata name.
        self._texts = {"METADATA": _metadata(project, told), "entry_points.txt": _entry_points(project, told)}

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
    for group, points in project.entry_points.items():
        lines.append(f"[{group}]")
        for name, value in points.items():
            if not (group + name + value).isprintable() or set(name) & set("=[]#;") or not name.strip():
                raise JobError(f"{told / PYPROJECT}: {name!r} in [project.entry-points] is no name")
            lines.append(f"{name} = {value}")
    return "\n".join(lines) + "\n"
