"""Requirements of installed distributions, by their metadata, for this environment; nothing is imported."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from importlib_metadata import Distribution
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from .installed_layout import UnsafeFileError, check_files, read_small

#: Of one distribution; torch has some sixty.
MAX_REQUIREMENTS = 2_000
#: Of a list of files: half a million of them.
MAX_LIST_BYTES = 2**26
#: That one plugin may bring, at any remove.
MAX_DISTRIBUTIONS = 2_000

_FOLDED = re.compile(r"\n[ \t]+")
_FIELD = re.compile(r"^(Requires-Dist|Version):[ \t]*(.*)$", re.MULTILINE | re.IGNORECASE)
#: A requirement of an extra, as builders write it: it counts for nobody else, and so need not be parsed.
_OF_EXTRA = re.compile(
    r"""(?:^[^;]*;|\band)\s*extra\s*==\s*(?P<quote>["'])(?P<extra>[\w.-]+)(?P=quote)\s*$"""
)


class RequirementsError(ValueError):
    """What a distribution requires cannot be told; the message is a clause."""


class Requirements:
    """The distributions on a path and what they require; the metadata of each are read once.

    Args:
        path: Folders as on ``sys.path``.
    """

    def __init__(self, path: Iterable[str]) -> None:
        self._path = list(path)
        self._found: dict[str, Distribution | None] = {}
        self._fields: dict[str, tuple[str, tuple[str, ...]]] = {}

    def distribution(self, name: str) -> Distribution | None:
        """Return the distribution ``name`` that Python would find, None if it is not installed."""
        key = canonicalize_name(name)
        if key not in self._found:
            self._found[key] = next(iter(Distribution.discover(name=key, path=self._path)), None)
        return self._found[key]

    def version(self, name: str) -> str:
        """Return the version of a distribution, ``""`` where it is not installed or does not tell."""
        try:
            return self._read(name)[0]
        except (OSError, ValueError):
            return ""

    def names(self, name: str) -> set[str]:
        """Return the distribution ``name`` and all that it requires at any remove, installed or not.

        Raises:
            RequirementsError: It cannot be told.
        """
        waiting: list[tuple[str, str]] = [(canonicalize_name(name), "")]
        seen: set[tuple[str, str]] = set()
        while waiting:
            if (asked := waiting.pop()) in seen:
                continue
            seen.add(asked)
            if len(seen) > MAX_DISTRIBUTIONS:
                raise RequirementsError(f"it requires more than {MAX_DISTRIBUTIONS} distributions")
            waiting += self._required(*asked)
        return {required for required, _ in seen}

    def owners(self, modules: Collection[str]) -> set[str]:
        """Return the distributions that list one of ``modules``, names without a dot."""
        found: set[str] = set()
        rows = re.compile(rb"^(?:%b)[/.]" % b"|".join(name.encode() for name in modules), re.MULTILINE)
        for folder in self._path if modules else ():
            for record in Path(folder).glob("*.dist-info/RECORD"):
                # One that cannot be read lists nothing; the import guard starts nothing beside it.
                with contextlib.suppress(OSError, UnsafeFileError):
                    if rows.search(read_small(record, MAX_LIST_BYTES)):
                        found.add(canonicalize_name(record.parent.name.partition("-")[0]))
        return found

    def _required(self, name: str, extra: str) -> Iterator[tuple[str, str]]:
        """Yield what a distribution requires by itself, or for an extra: name and extra or ``""``."""
        for text in self._read(name)[1]:
            of_extra = None if " or " in text else _OF_EXTRA.search(text)
            if of_extra is not None and canonicalize_name(of_extra["extra"]) != extra:
                continue
            try:
                requirement = Requirement(text)
            except InvalidRequirement as error:
                raise RequirementsError(f"{name} requires {text!r:.100}, which is no requirement") from error
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                required = canonicalize_name(requirement.name)
                yield required, ""
                yield from ((required, canonicalize_name(each)) for each in requirement.extras)

    def _read(self, name: str) -> tuple[str, tuple[str, ...]]:
        """Return version and requirements, without parsing the rest, which takes most of the time."""
        if name not in self._fields:
            distribution = self.distribution(name)
            self._fields[name] = ("", ()) if distribution is None else _fields_of(name, distribution)
        return self._fields[name]


def _fields_of(name: str, distribution: Distribution) -> tuple[str, tuple[str, ...]]:
    try:
        check_files(distribution, "METADATA", "PKG-INFO", "requires.txt")
        text = distribution.read_text("METADATA")
        if text is None:  # of setuptools' own kind, whose requirements stand elsewhere
            fields = [*(("Requires-Dist", each) for each in distribution.requires or ())]
            version = distribution.version
        else:
            fields = _FIELD.findall(_FOLDED.sub(" ", text.replace("\r", "").partition("\n\n")[0]))
            version = next((value.strip() for key, value in fields if key.lower() == "version"), "")
    except (UnsafeFileError, OSError, ValueError, KeyError) as error:
        raise RequirementsError(f"the metadata of {name} cannot be read: {error}") from error
    requires = tuple(value.strip() for key, value in fields if key.lower() == "requires-dist")
    if len(requires) > MAX_REQUIREMENTS:
        raise RequirementsError(f"{name} requires {len(requires)} distributions")
    return version, requires
