"""Which plugins are installed, told from metadata alone: nothing of a plugin is imported.

A plugin is an entry point of the group ``ringfence.plugins``. A distribution whose
metadata is damaged is told of and passed over; it does not hide the others.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from importlib_metadata import Distribution
from packaging.utils import canonicalize_name

from .hooks.compat import CORE, Candidate, check
from .hooks.errors import JobError
from .hooks.snapshot import Index
from .hooks.source import PluginSource, read_plugin
from .hooks.verdict import Verdict
from .problems import suggest
from .version import __version__

GROUP = "ringfence.plugins"

#: What reading damaged metadata raises.
_DAMAGED = (OSError, ValueError, KeyError, AttributeError, TypeError)


@dataclass(frozen=True, slots=True)
class Found:
    """An installed plugin.

    Attributes:
        name: Entry-point name.
        distribution: Distribution that declares it.
        version: Its version.
        requires: Its ``Requires-Dist`` entries.
        module: Module of the entry point.
        qualname: Class within the module.
        search_path: Folders that hold its code, as on ``sys.path``; that of an editable install included.
        roots: Dotted package to folder, where an editable install maps one to another.
        classifiers: Its trove classifiers.
        summary: Its one-line description.
    """

    name: str
    distribution: str
    version: str
    requires: tuple[str, ...]
    module: str
    qualname: str
    search_path: tuple[str, ...]
    roots: Mapping[str, str] = field(default_factory=dict)
    classifiers: tuple[str, ...] = ()
    summary: str = ""

    @property
    def is_builtin(self) -> bool:
        """Tell whether the plugin comes with ringfence."""
        return canonicalize_name(self.distribution) == CORE


@dataclass(frozen=True, slots=True)
class Catalog:
    """All installed plugins.

    Attributes:
        plugins: Name to plugin, sorted; names that two distributions declare are absent.
        conflicts: Such names, to the distributions.
        damaged: One sentence for each distribution whose metadata could not be read.
    """

    plugins: Mapping[str, Found]
    conflicts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()

    def find(self, name: str) -> Found:
        """Return the plugin ``name``.

        Raises:
            JobError: There is none, or there are two.
        """
        if name in self.conflicts:
            owners = " and ".join(self.conflicts[name])
            raise JobError(f"plugin '{name}' is declared by {owners}; uninstall all but one")
        if name not in self.plugins:
            known = suggest(name, [*self.plugins, *self.conflicts])
            raise JobError(f"plugin '{name}' is not installed; {known}{self._damage()}")
        return self.plugins[name]

    def _damage(self) -> str:
        return f" (could not be read: {'; '.join(self.damaged)})" if self.damaged else ""


def catalog(path: Sequence[str] | None = None) -> Catalog:
    """Read the metadata of every distribution on ``path`` (``sys.path`` by default)."""
    found: dict[str, list[Found]] = {}
    damaged: list[str] = []
    seen: set[str] = set()
    for distribution in Distribution.discover(path=list(sys.path if path is None else path)):
        try:
            text = distribution.read_text("entry_points.txt")
            if text is None or GROUP not in text:
                continue
            name = str(distribution.metadata["Name"])
            # A distribution that is found twice, as an editable one is from inside its clone, counts once.
            if canonicalize_name(name) in seen:
                continue
            seen.add(canonicalize_name(name))
            for plugin in _plugins(distribution, name, damaged):
                found.setdefault(plugin.name, []).append(plugin)
        except _DAMAGED as error:
            where = getattr(distribution, "_path", "a distribution")
            damaged.append(f"{where} has damaged metadata ({type(error).__name__}: {error})")
    return Catalog(
        plugins={name: found[name][0] for name in sorted(found) if len(found[name]) == 1},
        conflicts={
            name: tuple(plugin.distribution for plugin in plugins)
            for name, plugins in sorted(found.items())
            if len(plugins) > 1
        },
        damaged=tuple(damaged),
    )


def source_of(found: Found) -> PluginSource:
    """Read the plugin's class from its source text."""
    return read_plugin(found.module, found.qualname, found.search_path, found.roots)


def check_found(found: Found, source: PluginSource | None = None, index: Index | None = None) -> Verdict:
    """Judge whether an installed plugin fits the last three series of this core.

    Args:
        found: The plugin.
        source: What ``source_of`` returned, if it was read already.
        index: The series that the core knows; those that it ships by default.
    """
    return check(candidate_of(found), source or source_of(found), index or Index.read(), __version__)


def candidate_of(found: Found) -> Candidate:
    """Return what the compatibility rule reads of a plugin's metadata."""
    return Candidate(found.name, found.distribution, found.version, found.requires)


def _plugins(distribution: Distribution, name: str, damaged: list[str]) -> Iterator[Found]:
    search_path, roots = _places(distribution, name)
    metadata = distribution.metadata
    for point in distribution.entry_points.select(group=GROUP):
        module, _, qualname = (part.strip() for part in point.value.partition("[")[0].partition(":"))
        if not module or not qualname:
            damaged.append(f"{name} declares plugin '{point.name}' as '{point.value}', not as 'module:Class'")
            continue
        yield Found(
            name=point.name,
            distribution=name,
            version=distribution.version,
            requires=tuple(distribution.requires or ()),
            module=module,
            qualname=qualname,
            search_path=search_path,
            roots=roots,
            classifiers=tuple(metadata.get_all("Classifier") or ()),
            summary=(metadata.get_all("Summary") or [""])[0],
        )


def _places(distribution: Distribution, name: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the folders that hold a distribution's code, and its mapped packages."""
    base = Path(str(distribution.locate_file(""))).resolve()
    if canonicalize_name(name) == CORE:
        return (str(base),), _own_packages()
    folders = [str(base)]
    roots: dict[str, str] = {}
    if _is_editable(distribution):
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if path.suffix == ".pth":
                folders += _folders_of(path)
            elif path.name.endswith("_finder.py"):
                roots |= _mapping_of(path)
    folders += [str(Path(folder).parent) for folder in roots.values()]
    return tuple(dict.fromkeys(folders)), roots


def _own_packages() -> dict[str, str]:
    """Return where ringfence and the plugins that come with it lie; they need not be side by side."""
    spec = importlib.util.find_spec(f"{__package__}.builtin")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    return {CORE: str(Path(__file__).parent)} | ({f"{CORE}.builtin": folders[0]} if folders else {})


def _is_editable(distribution: Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    return text is not None and bool(json.loads(text).get("dir_info", {}).get("editable"))


def _folders_of(path: Path) -> list[str]:
    """Return the folders that a ``.pth`` file adds; lines that run code are not ours to run."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and Path(line.strip()).is_dir()]


def _mapping_of(path: Path) -> dict[str, str]:
    """Read package to folder from the import hook that setuptools writes, without running it."""
    for node in ast.parse(path.read_bytes()).body:
        match node:
            case ast.AnnAssign(target=ast.Name(id="MAPPING"), value=ast.Dict() as value):
                return {str(package): str(folder) for package, folder in ast.literal_eval(value).items()}
            case ast.Assign(targets=[ast.Name(id="MAPPING")], value=ast.Dict() as value):
                return {str(package): str(folder) for package, folder in ast.literal_eval(value).items()}
    return {}
