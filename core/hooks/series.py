"""The hooks and names of each series of the core, as data.

``snapshots/X.Y.json`` holds one series; ``python tools/snapshot.py`` writes the
current one from the live specifications, and a test fails when it is stale.
A series is open while the version is a candidate, X.Y.0rcN: its snapshot is written
anew with every change, and only that of X.Y.0 is a promise.
``snapshots/index.json`` lists the released series in order, with their final
versions and those withdrawn. A core knows the series up to itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from packaging.version import Version

FOLDER = Path(__file__).parent / "snapshots"


@dataclass(frozen=True, slots=True)
class SeriesSnapshot:
    """What plugins could use in one series.

    Attributes:
        series: ``"X.Y"``.
        roles: Values that ``role`` may have.
        hooks: Hook to its arguments, in order, each with the name of its type.
        names: What ``from ringfence import …`` offers.
        types: Public type to its public attributes and methods.
        deprecated: Hook, ``hook.argument``, name or ``type.attribute`` to the series that drops it.
    """

    series: str
    roles: frozenset[str] = frozenset()
    hooks: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    types: Mapping[str, frozenset[str]] = field(default_factory=dict)
    deprecated: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> SeriesSnapshot:
        """Build a snapshot from what its JSON file holds."""
        return cls(
            series=data["series"],
            roles=frozenset(data["roles"]),
            hooks={hook: dict(_argument(text) for text in data["hooks"][hook]) for hook in data["hooks"]},
            names=frozenset(data["names"]),
            types={name: frozenset(attributes) for name, attributes in data["types"].items()},
            deprecated=dict(data["deprecated"]),
        )

    def items(self) -> Iterator[str]:
        """Yield everything that a plugin can depend on, spelt as in ``deprecated``."""
        for hook, arguments in self.hooks.items():
            yield hook
            yield from (f"{hook}.{argument}" for argument in arguments)
        yield from self.names
        for name, attributes in self.types.items():
            yield from (f"{name}.{attribute}" for attribute in attributes)


@dataclass(frozen=True, slots=True)
class Series:
    """One series of the core.

    Attributes:
        name: ``"X.Y"``.
        finals: Its released versions, in order, without pre-releases.
        yanked: Those of them that were withdrawn.
    """

    name: str
    finals: tuple[str, ...] = ()
    yanked: frozenset[str] = frozenset()

    @property
    def live(self) -> tuple[str, ...]:
        """The finals that were not withdrawn."""
        return tuple(version for version in self.finals if version not in self.yanked)


@dataclass(frozen=True, slots=True)
class Index:
    """The series that a core knows, in order, and the snapshots that it keeps.

    Attributes:
        series: In the order of release, whatever their numbers.
        snapshots: Series to snapshot; old ones may be missing.
    """

    series: tuple[Series, ...]
    snapshots: Mapping[str, SeriesSnapshot] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path = FOLDER) -> Index:
        """Read ``index.json`` and the snapshots beside it.

        Raises:
            OSError: A file cannot be read.
            ValueError, KeyError: A file is damaged.
        """
        listed = json.loads((folder / "index.json").read_text(encoding="utf-8"))["series"]
        series = [Series(x["name"], tuple(x["finals"]), frozenset(x["yanked"])) for x in listed]
        found = [
            SeriesSnapshot.of(json.loads(path.read_text(encoding="utf-8")))
            for path in sorted(folder.glob("*.*.json"))
        ]
        return cls(tuple(series), {snapshot.series: snapshot for snapshot in found})

    def up_to(self, running: Version) -> tuple[Series, ...]:
        """Return the series up to that of ``running``; one not yet released stands last, with no final."""
        name = series_of(running)
        names = [series.name for series in self.series]
        if name in names:
            return self.series[: names.index(name) + 1]
        return (*self.series, Series(name))


def series_of(version: Version) -> str:
    """Return the series ``X.Y`` of a version."""
    return f"{version.major}.{version.minor}"


def lower_bound(series: str, running: Version) -> str:
    """Return what ``>=`` names in a range that begins with a series.

    Of an open series that is its first candidate: ``>=1.7`` leaves out 1.7.0rc1 for pip.
    """
    is_open = running.is_prerelease and Version(running.base_version) == Version(series)
    return f"{running.base_version}rc1" if is_open else series


def _argument(text: str) -> tuple[str, str]:
    name, _, type_name = text.partition(": ")
    return name, type_name
