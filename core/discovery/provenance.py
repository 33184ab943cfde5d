"""Provenance of a job's plugins: which distributions they bring, and the digest of each."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.utils import canonicalize_name

from ..compat.version_range import CORE
from ..imports.digested_imports import DigestedFile, DigestedFiles
from ..imports.search_paths import import_paths
from ..plugins.interface import PluginSpec
from .distribution_digest import DistributionDigest, Effort, digest_files, digest_list
from .installed_layout import Environment
from .requirements import Requirements, RequirementsError

#: What an option may name by import path, as ``torch_optimizer.Lamb``; the rest of the text does not matter.
_IMPORTED = re.compile(r"([A-Za-z_]\w*)(?:\.\w+)*[.:]\w+$")
_ABSENT = "it is not installed"


@dataclass(frozen=True, slots=True)
class Provenance:
    """The distributions of a job's plugins.

    Attributes:
        plugins: Plugin to its distribution, then all that this requires, sorted, but for what ringfence
            requires itself.
        distributions: Name to digest, sorted: those, and ringfence's own.
    """

    plugins: Mapping[str, tuple[str, ...]]
    distributions: Mapping[str, DistributionDigest]

    def files_of(self, plugin: str, *, is_whole: bool) -> DigestedFiles | None:
        """Return what a plugin may import, None where that is nobody's but ringfence's.

        Args:
            plugin: Its name.
            is_whole: Nothing else may be imported.
        """
        brought = (self.distributions[name].files.values() for name in self.plugins[plugin])
        files = {file.path: DigestedFile(file.sha256, file.identity) for each in brought for file in each}
        if not files and not is_whole:
            return None
        free = [path for each in self.distributions.values() for path in each.provides]
        return DigestedFiles(files, (*free, *_own_folders()), is_whole)


def provenance_of(specs: Sequence[PluginSpec]) -> Provenance:
    """Read what the plugins of a job bring, each distribution once; nothing of it is imported."""
    searched = (folder for spec in specs for folder in spec.search_path)
    requirements = Requirements(dict.fromkeys((*import_paths(), *searched)))
    gaps: dict[str, str] = {}
    common = _names(CORE, requirements, gaps) if specs else set()
    plugins = {}
    for spec in specs:
        own = canonicalize_name(spec.distribution)
        named = requirements.owners(set(_modules_in(spec.options)) - {CORE})
        brought = {name for each in (own, *named) for name in _names(each, requirements, gaps)}
        plugins[spec.name] = (own, *sorted(brought - common - {own}))
    strangers = {name for names in plugins.values() for name in names} - common
    environment, effort = Environment(), Effort()
    distributions = {}
    for name in sorted(common | strangers):
        found, version = requirements.distribution(name), requirements.version(name)
        if found is None or name in gaps:
            digest = DistributionDigest(name, version, gap=gaps.get(name, _ABSENT))
        elif name in strangers:
            digest = digest_files(name, version, found, environment, effort)
        else:
            digest = digest_list(name, version, found)
        distributions[name] = digest
    return Provenance(plugins, distributions)


def _own_folders() -> Iterator[str]:
    """Yield where ringfence and its plugins lie, which need not be where it is installed."""
    for package in (CORE, f"{CORE}.builtin"):
        spec = importlib.util.find_spec(package)
        yield from map(os.path.realpath, () if spec is None else spec.submodule_search_locations or ())


def _names(name: str, requirements: Requirements, gaps: dict[str, str]) -> set[str]:
    """Return a distribution and all that it requires; itself alone, and why, where that cannot be told."""
    try:
        return requirements.names(name)
    except RequirementsError as error:
        gaps[name] = f"what it requires cannot be told: {error}"
        return {name}


def _modules_in(options: Any) -> Iterator[str]:
    """Yield the first part of whatever in a plugin's options may be an import path."""
    if isinstance(options, str):
        if named := _IMPORTED.match(options):
            yield named[1]
    elif isinstance(options, Mapping):
        for key, value in options.items():
            yield from _modules_in(key)
            yield from _modules_in(value)
    elif isinstance(options, Iterable) and not isinstance(options, os.PathLike):
        for value in options:
            yield from _modules_in(value)
