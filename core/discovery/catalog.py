"""The catalog of installed plugins, read from metadata alone: nothing of a plugin is imported.

A plugin is an entry point of the group ``ringfence.plugins``. A distribution whose
metadata is damaged is told of and passed over; it does not hide the others.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from importlib_metadata import Distribution, PackageMetadata
from packaging.utils import canonicalize_name

from ..compat.findings import Finding, Verdict, sort_findings
from ..compat.source.effort import Effort
from ..compat.source.plugin_source import PluginSource, read_plugin
from ..compat.version_range import CORE, Candidate, check
from ..hooks.errors import JobError, shorten, visible
from ..hooks.series import Index
from ..imports.module_owners import GROUP
from ..job.problems import suggest
from ..version import __version__
from .installed_layout import CodeLocation, Environment, InstalledLayout, check_files

#: Of the entry points of a distribution that declares plugins.
MAX_POINTS_BYTES = 2**16
MAX_PLUGINS = 100
#: Of ``module:Class``, in characters: where it leads is looked for part by part.
MAX_POINT = 300

#: What a plugin may be called: nothing that a terminal, a path or a log could take for something else.
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_SHOWN_CHARACTERS = 200
_SUMMARY_CHARACTERS = 500
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]{1,64}")


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
        place: Where its code lies, and what a sandbox may read of it.
        hazards: Why it can be used in no sandbox, if so.
        classifiers: Its trove classifiers.
        summary: Its one-line description.
        effort: What may be spent on its text, and on that of all other plugins of its distribution.
    """

    name: str
    distribution: str
    version: str
    requires: tuple[str, ...]
    module: str
    qualname: str
    place: CodeLocation
    hazards: tuple[Finding, ...] = ()
    classifiers: tuple[str, ...] = ()
    summary: str = ""
    effort: Effort = field(default_factory=Effort, compare=False, repr=False)

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
        hazards: Distribution to why its plugins can be used in no sandbox, if so; those of conflicts too.
    """

    plugins: Mapping[str, Found]
    conflicts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    hazards: Mapping[str, tuple[Finding, ...]] = field(default_factory=dict)

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


def _damage_errors() -> tuple[type[Exception], ...]:
    """Return what reading damaged metadata raises; asked for where it did, as importing it takes time."""
    import csv  # noqa: PLC0415

    known = (OSError, ValueError, KeyError, AttributeError, TypeError, csv.Error)
    return (*known, SyntaxError, RecursionError, MemoryError)


def catalog(path: Sequence[str] | None = None) -> Catalog:
    """Read the metadata of every distribution on ``path`` (``sys.path`` by default)."""
    return catalog_of(Distribution.discover(path=list(sys.path if path is None else path)))


def catalog_of(
    distributions: Iterable[Distribution], remedy: str = "uninstall it", *, are_installed: bool = True
) -> Catalog:
    """Read the metadata of distributions, wherever they lie.

    Args:
        distributions: Those to read; one that is there twice counts once.
        remedy: What to do about one whose metadata is damaged.
        are_installed: So they are; otherwise they are judged by what installing them would do.
    """
    found: dict[str, list[Found]] = {}
    damaged: list[str] = []
    seen: set[str] = set()
    environment = Environment(is_installed=are_installed)
    for distribution in distributions:
        try:
            check_files(distribution, "entry_points.txt")
            text = distribution.read_text("entry_points.txt")
            if text is None or GROUP not in text:
                continue
            if len(text) > MAX_POINTS_BYTES:
                raise ValueError(f"entry_points.txt is longer than {MAX_POINTS_BYTES} bytes")
            check_files(distribution)
            metadata = distribution.metadata
            name = _name_of(metadata)
            # A distribution that is found twice, as an editable one is from inside its clone, counts once.
            if canonicalize_name(name) in seen:
                continue
            seen.add(canonicalize_name(name))
            for plugin in list(_plugins(distribution, metadata, name, environment, damaged)):
                found.setdefault(plugin.name, []).append(plugin)
        except _damage_errors() as error:
            where = getattr(distribution, "_path", "a distribution")
            cause = _one_line(f"{type(error).__name__}: {error}"[:_SHOWN_CHARACTERS])
            damaged.append(f"{_one_line(where)} has damaged metadata ({cause}); {remedy}")
    return Catalog(
        plugins={name: found[name][0] for name in sorted(found) if len(found[name]) == 1},
        conflicts={
            name: tuple(plugin.distribution for plugin in plugins)
            for name, plugins in sorted(found.items())
            if len(plugins) > 1
        },
        damaged=tuple(damaged),
        hazards={
            plugin.distribution: plugin.hazards
            for plugins in found.values()
            for plugin in plugins
            if plugin.hazards
        },
    )


def source_of(found: Found) -> PluginSource:
    """Read the plugin's class from its source text."""
    place = found.place
    within = Path(place.within) if place.within else None
    return read_plugin(
        found.module,
        found.qualname,
        place.search_path,
        place.packages,
        own=place.own,
        within=within,
        effort=found.effort,
    )


def check_found(found: Found, source: PluginSource | None = None, index: Index | None = None) -> Verdict:
    """Judge whether an installed plugin fits the last three series of this core.

    Args:
        found: The plugin.
        source: What ``source_of`` returned, if it was read already.
        index: The series that the core knows; those that it ships by default.
    """
    return judge(found, source or source_of(found), index or Index.read(), __version__)


def judge(found: Found, source: PluginSource, index: Index, running: str) -> Verdict:
    """Judge a plugin by how it is installed, its metadata and its source text.

    Args:
        found: The plugin.
        source: What ``source_of`` returned.
        index: The series that the core knows.
        running: Version of the core.
    """
    verdict = check(candidate_of(found), source, index, running)
    return replace(verdict, findings=sort_findings([*found.hazards, *verdict.findings]))


def candidate_of(found: Found) -> Candidate:
    """Return what the compatibility rule reads of a plugin's metadata."""
    return Candidate(found.name, found.distribution, found.version, found.requires)


def _plugins(
    distribution: Distribution,
    metadata: PackageMetadata,
    name: str,
    environment: Environment,
    damaged: list[str],
) -> Iterator[Found]:
    is_core = canonicalize_name(name) == CORE
    layout = None if is_core else InstalledLayout(distribution, environment)
    hazards = () if layout is None else tuple(layout.hazards())
    version = metadata["Version"]
    if not _VERSION.fullmatch(version):
        raise ValueError(f"its version is {version!r:.{_SHOWN_CHARACTERS}}")
    requires = tuple(_one_line(text) for text in distribution.requires or ())
    points = distribution.entry_points.select(group=GROUP)
    if len(points) > MAX_PLUGINS:
        raise ValueError(f"it declares {len(points)} plugins; at most {MAX_PLUGINS}")
    effort = Effort()
    for point in points:
        if not _NAME.fullmatch(point.name):
            damaged.append(
                f"{name} declares a plugin as {_one_line(repr(point.name))}; names have up to 64 letters, "
                "digits, '.', '_' and '-'"
            )
            continue
        module, _, qualname = (part.strip() for part in point.value.partition("[")[0].partition(":"))
        is_short = len(point.value) <= MAX_POINT
        if not (is_short and _is_dotted(module) and _is_dotted(qualname)):
            value = shorten(_one_line(point.value), _SHOWN_CHARACTERS)
            wanted = f", of at most {MAX_POINT} characters" if not is_short else ""
            damaged.append(
                f"{name} declares plugin '{point.name}' as '{value}', not as 'module:Class'{wanted}"
            )
            continue
        place = _own_folders(distribution) if layout is None else layout.place(module)
        yield Found(
            name=point.name,
            distribution=name,
            version=version,
            requires=requires,
            module=module,
            qualname=qualname,
            place=place,
            hazards=(*hazards, *_withheld(place, name)),
            classifiers=tuple(_one_line(text) for text in metadata.get_all("Classifier") or ()),
            summary=shorten(_one_line((metadata.get_all("Summary") or [""])[0]), _SUMMARY_CHARACTERS),
            effort=effort,
        )


def _withheld(place: CodeLocation, name: str) -> Iterator[Finding]:
    if place.withheld:
        remedy = f"install it without -e (pip uninstall {name}, then pip install the folder of its project)"
        yield Finding("E-PLACE", f"{place.withheld}; {remedy}")


def _name_of(metadata: PackageMetadata) -> str:
    name = str(metadata["Name"])
    if not _NAME.fullmatch(name):
        raise ValueError(f"its name is {name!r}")
    return name


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _one_line(text: object) -> str:
    """Return what a stranger wrote so that it can be shown: in one line, nothing for the terminal in it."""
    return visible(" ".join(str(text).split()))


def _own_folders(distribution: Distribution) -> CodeLocation:
    """Return where ringfence and the plugins that come with it lie; they need not be side by side."""
    spec = importlib.util.find_spec(f"{CORE}.builtin")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    packages = {CORE: str(Path(__file__).parents[1])} | ({f"{CORE}.builtin": folders[0]} if folders else {})
    # Every sandbox can read ringfence itself; the folder around it is nobody's business.
    base = Path(str(distribution.locate_file(""))).resolve()
    return CodeLocation((str(base),), packages, readable=tuple(packages.values()))
