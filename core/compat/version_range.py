"""Check the range of core versions that a plugin declares against the last three series.

A plugin declares its range in its own ``Requires-Dist: ringfence…`` and nowhere
else. It is accepted only if

1. the range has a lower bound,
2. contains the running core,
3. admits a version of each of the last three series that end with the running one
   (fewer, while fewer exist or have its role), and
4. its source, read as text, fits every series that the range admits (``source_fit.py``);
5. its class, once loaded in a sandbox, then has to fit them too (``class_fit.py``).

A series is X.Y; its patches never change the hooks, so one admitted patch speaks
for the series. A candidate stands for its series: ``>=1.7`` admits 1.7.0rc1 and ``<1.7``
does not, whatever the order of versions says; ``>=1.7.0rc2`` and ``!=1.7.0rc1`` mean what they
say. Nothing here imports the plugin or asks the network.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from packaging.requirements import Requirement
from packaging.specifiers import Specifier, SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from ..hooks.series import Index, Series, SeriesSnapshot, lower_bound, series_of
from .findings import Finding, Verdict, join_words, sort_findings
from .source.plugin_source import PluginSource
from .source_fit import find_misfits

CORE = "ringfence"
SPAN = 3

_LOWER = {">=", ">", "~=", "==", "==="}
_UPPER = {"<", "<=", "~=", "==", "==="}
#: Characters of an entry on the core: far more than any range takes, far fewer than the digits and
#: brackets that packaging cannot work out.
MAX_ENTRY = 500
#: Entries on the core; one says all.
MAX_ENTRIES = 20
_LEADING_NAME = re.compile(r"\s*([A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?:[\[(<>=!~;@,]|$)")
_MAX_QUOTED_CHARACTERS = 80
#: What packaging raises of a requirement or a marker that it cannot work out; the third are names in
#: a marker that stand for nothing here, the last is of a thousand brackets.
_UNREADABLE = (ValueError, TypeError, KeyError, RecursionError)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A plugin as the metadata of its installed distribution tells it.

    Attributes:
        name: Entry-point name.
        distribution: Name of the distribution.
        version: Its version.
        requires: Its ``Requires-Dist`` entries.
    """

    name: str
    distribution: str
    version: str
    requires: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Declaration:
    """The range of core versions that a plugin declares.

    Attributes:
        specifiers: All its entries together.
        exists: False if no entry names the core.
        url: Where an entry points instead of giving a range, or ``""``.
        unreadable: The first entry that is on the core, or may be, and says nothing that can be
            told, and why, as a clause; or ``""``.
    """

    specifiers: SpecifierSet
    exists: bool
    url: str = ""
    unreadable: str = ""

    @classmethod
    def of(cls, requires: Sequence[str]) -> Declaration:
        """Join the entries that name the core and whose marker holds without extras."""
        entries = [text for text in requires if _names(text) in {CORE, None}]
        if len(entries) > MAX_ENTRIES:
            return cls(SpecifierSet(), exists=False, unreadable=f"{CORE} stands in {len(entries)} entries")
        specifiers, exists, url, unreadable = SpecifierSet(), False, "", ""
        for text in entries:
            try:
                requirement = _requirement(text)
            except _UNREADABLE as error:
                unreadable = unreadable or _why_unreadable(text, error)
                continue
            if requirement is not None:
                exists, url = True, requirement.url or url
                specifiers &= requirement.specifier
        return cls(specifiers, exists, url, unreadable)

    def __str__(self) -> str:
        text = ",".join(sorted(str(part) for part in self.specifiers))
        return f"{CORE}{text}" if self.exists else ""

    @property
    def has_lower_bound(self) -> bool:
        """Tell whether the range starts somewhere."""
        return any(part.operator in _LOWER for part in self.specifiers)

    @property
    def is_capped(self) -> bool:
        """Tell whether the range ends somewhere."""
        return any(part.operator in _UPPER for part in self.specifiers)

    def admits(self, version: Version) -> bool:
        """Tell whether ``version`` lies in the range; a pre-release is its final version here.

        Not where the range names a candidate of the series, and so leaves this one out by itself.
        """
        if self.specifiers.contains(str(version), prereleases=True):
            return True
        is_final_in = self.specifiers.contains(version.base_version, prereleases=True)
        return is_final_in and not any(_leaves_out(part, version) for part in self.specifiers)

    def admits_series(self, series: Series, running: Version) -> bool:
        """Tell whether the range admits a version of ``series`` that is not withdrawn, or the running one."""
        if series.name == series_of(running) and self.admits(running):
            return True
        return any(self.specifiers.contains(version, prereleases=True) for version in series.live)


def _leaves_out(part: Specifier, candidate: Version) -> bool:
    """Tell whether a part of a range leaves out a candidate, and names one of the same series to do so.

    What is in development is no candidate: a range that begins with the first one is meant for it as well.
    """
    if candidate.is_devrelease or part.operator == "===":
        return False
    named = Version(part.version.removesuffix(".*"))
    same_series = named.is_prerelease and series_of(named) == series_of(candidate)
    return same_series and not part.contains(candidate, prereleases=True)


def _names(text: str) -> str | None:
    """Return the name that an entry of ``Requires-Dist`` begins with; None if it cannot be told."""
    found = _LEADING_NAME.match(text)
    return None if found is None else canonicalize_name(found[1])


def _requirement(text: str) -> Requirement | None:
    """Return what an entry on the core asks for; None if its marker does not hold without extras.

    Raises:
        ValueError, TypeError, KeyError, RecursionError: It cannot be told.
    """
    if len(text) > MAX_ENTRY:
        raise ValueError(f"it has {len(text)} characters; at most {MAX_ENTRY} are read")
    requirement = Requirement(text)
    holds = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
    return requirement if holds else None


def _why_unreadable(text: str, error: Exception) -> str:
    match error:
        case RecursionError():
            why = "it is nested too deeply"
        case KeyError(args=[name]):
            why = f"its marker names {name}, which there is only where a lock file is read"
        case _:
            why = " ".join(str(error).split())
    shown = text if len(text) <= _MAX_QUOTED_CHARACTERS else f"{text[:_MAX_QUOTED_CHARACTERS]}…"
    return f"'{shown}' cannot be read: {why}"


def window(index: Index, running: Version, role: str | None = None) -> tuple[Series, ...]:
    """Return the last three series that end with the running one, from that on which brought ``role``.

    A series whose versions were all withdrawn is left out; the running one always counts.
    """
    *before, last = _since(role, index.up_to(running), index)
    return (*[series for series in before if series.live], last)[-SPAN:]


def first_series(index: Index, running: Version, role: str) -> Series:
    """Return the series that brought a role: a range that begins there, each core since then accepts.

    One that begins later is refused by the cores at its beginning, which look back three series themselves.
    """
    return _since(role, index.up_to(running), index)[0]


def _since(role: str | None, series: Sequence[Series], index: Index) -> Sequence[Series]:
    """Leave out the series before a role: no plugin of it could fit them.

    One without a record may have had it. A role that no series has, or that is gone, leaves out none.
    """
    begin = 0
    for position, one in enumerate(series):
        snapshot = index.snapshots.get(one.name)
        if snapshot is not None and role in snapshot.roles:
            return series[begin:]
        if snapshot is not None:
            begin = position + 1
    return series


def check(candidate: Candidate, source: PluginSource, index: Index, running: str) -> Verdict:
    """Judge a plugin by its metadata and its source text.

    Args:
        candidate: What its distribution's metadata says.
        source: What its source text says.
        index: The series that the core knows.
        running: Version of the core.
    """
    version = Version(running)
    declaration = Declaration.of(candidate.requires)
    needed = window(index, version, source.role)
    if canonicalize_name(candidate.distribution) == CORE:
        # It is released with the core, so there is no other series that it could meet.
        findings = [Finding("I-IN-STEP", "comes with the core and is released in step with it")]
        claimed = [series for series in needed if series.name == series_of(version)]
        needed = tuple(claimed)
    else:
        findings = _check_declaration(declaration, candidate, needed, index, version)
        claimed = admitted_series(declaration, index, version)
    findings += find_misfits(
        source, claimed_snapshots(claimed, index), [series.name for series in needed], version
    )
    return Verdict(
        plugin=candidate.name,
        distribution=candidate.distribution,
        version=candidate.version,
        core=running,
        window=tuple(series.name for series in needed),
        declared=str(declaration),
        findings=sort_findings([*findings, *_missing_records(claimed, needed, index)]),
    )


def admitted_series(declaration: Declaration, index: Index, running: Version) -> list[Series]:
    """Return the known series that a declaration admits, in order; none if there is no usable one."""
    if not declaration.exists or declaration.url:
        return []
    return [series for series in index.up_to(running) if declaration.admits_series(series, running)]


def claimed_snapshots(claimed: Sequence[Series], index: Index) -> list[SeriesSnapshot]:
    """Return the snapshots of the series that a plugin claims, as far as they are kept."""
    return [index.snapshots[series.name] for series in claimed if series.name in index.snapshots]


def _check_declaration(
    declaration: Declaration, candidate: Candidate, needed: Sequence[Series], index: Index, running: Version
) -> list[Finding]:
    """Judge steps 1 to 3."""
    bound = f"declare {CORE}>={lower_bound(needed[0].name, running)}"
    if declaration.url:
        text = f"declares {CORE} @ {declaration.url}, which says nothing of versions"
        return [Finding("E-URL", text, advice=f"{bound} instead of a URL")]
    if not declaration.exists:
        unreadable = f" that can be read; {declaration.unreadable}" if declaration.unreadable else ""
        text = f"{candidate.distribution} declares no Requires-Dist on {CORE}{unreadable}"
        return [Finding("E-NO-DECLARATION", text, advice=f"{bound} in [project] dependencies")]
    if declaration.unreadable:
        text = f"in Requires-Dist, {declaration.unreadable}"
        return [Finding("E-NO-DECLARATION", text, advice=bound)]
    findings = [
        *_check_span(declaration, needed, running, bound),
        *_notes(declaration, needed, index, running),
    ]
    if not declaration.has_lower_bound:
        text = f"declares {declaration}, without a lower bound: it claims series that it never met"
        findings.append(Finding("E-NO-LOWER-BOUND", text, advice=bound))
    return findings


def _check_span(
    declaration: Declaration, needed: Sequence[Series], running: Version, bound: str
) -> list[Finding]:
    covered = [series.name for series in needed if declaration.admits_series(series, running)]
    missing = [series.name for series in needed if series.name not in covered]
    findings = []
    if not declaration.admits(running):
        text = f"declares {declaration}, which leaves out the running core {running}"
        findings.append(Finding("E-EXCLUDES-CORE", text, advice=bound))
        # the running series is told of by the rule above
        missing = [name for name in missing if name != series_of(running)]
    if missing:
        covers = f"covers {join_words(covered)}" if covered else "covers none"
        share = f"{covers} ({len(covered)} of {len(needed)})"
        text = f"declares {declaration}   {share}; missing {join_words(missing)}"
        findings.append(Finding("E-SPAN", text, advice=bound))
    return findings


def _notes(
    declaration: Declaration, needed: Sequence[Series], index: Index, running: Version
) -> list[Finding]:
    findings = []
    for series in needed:
        newest = series.live[-1] if series.live else None
        partly = newest is not None and not declaration.specifiers.contains(newest, prereleases=True)
        if partly and declaration.admits_series(series, running):
            findings.append(Finding("W-PARTIAL", f"leaves out {newest}, the newest", (series.name,)))
    if declaration.is_capped:
        findings.append(
            Finding("I-CAPPED", f"declares {declaration}; a core beyond it will refuse the plugin")
        )
    if len(needed) < SPAN:
        since_role = len(needed) < len(window(index, running))
        text = (
            f"{'its role has been in' if since_role else 'this core has had'} {len(needed)} series so far, "
            f"and the plugin is held to all of them; once there are more, it will be held to the last {SPAN}"
        )
        findings.append(Finding("I-BOOTSTRAP", text))
    current = index.up_to(running)[-1]
    if str(running.public) in current.yanked:
        findings.append(
            Finding("W-YANKED-CORE", f"the running core {running} was withdrawn; install another")
        )
    if running.is_prerelease:
        what = f"core {running} is not final" if current.finals else f"series {current.name} is still open"
        findings.append(Finding("I-PROVISIONAL", f"{what}; its hooks may still change"))
    return findings


def _missing_records(claimed: Sequence[Series], needed: Sequence[Series], index: Index) -> list[Finding]:
    """Tell of claimed series without a snapshot: none may be missing in the window."""
    without = [series.name for series in claimed if series.name not in index.snapshots]
    window_names = {series.name for series in needed}
    old = tuple(name for name in without if name not in window_names)
    lost = tuple(name for name in without if name in window_names)
    findings = []
    if old:
        findings.append(Finding("I-UNKNOWN-SERIES", "the core keeps no record; not checked", old))
    if lost:
        text = "the core has no record of its hooks, so nothing can be checked"
        findings.append(
            Finding("U-SERIES", text, lost, advice="none; the installation of the core is damaged")
        )
    return findings
