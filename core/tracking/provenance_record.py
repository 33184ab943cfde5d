"""Distributions of a run's plugins in ``run.json``, and what has changed of them since the run began."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from ..discovery.distribution_digest import DistributionDigest
from ..discovery.provenance import Provenance
from ..hooks.errors import shorten, visible
from .run_folder import MAX_RECORD_BYTES, RECORD
from .untrusted_folder import Tree

_SHOWN = 10
_SHOWN_CHARACTERS = 64


class Held(NamedTuple):
    """What a run knows of a distribution.

    Attributes:
        version: ``""`` where it was not installed.
        sha256: ``""`` where it was not digested.
    """

    version: str
    sha256: str


class _Entry(msgspec.Struct, frozen=True):
    name: str
    version: str | None = None
    sha256: str | None = None


class _Change(msgspec.Struct, frozen=True):
    name: str
    then: _Entry | None = None


class _Kept(msgspec.Struct, frozen=True):
    distributions: list[_Entry] = []
    distributions_changed: list[_Change] = []


def distribution_records(provenance: Provenance) -> list[dict[str, Any]]:
    """Return the digests as plain data, sorted by name."""
    return [_record(digest) for digest in provenance.distributions.values()]


def held(provenance: Provenance) -> dict[str, Held]:
    """Return what a later resume compares."""
    return {name: Held(each.version, each.sha256) for name, each in provenance.distributions.items()}


def read_beginning(folder: Path) -> dict[str, Held]:
    """Return the distributions that the run in ``folder`` began with, none where its record cannot tell."""
    try:
        kept = msgspec.json.decode(Tree(folder).read(RECORD, MAX_RECORD_BYTES), type=_Kept)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}  # that the record cannot be used is told with its counts
    began = {entry.name: _held(entry) for entry in kept.distributions}
    for change in kept.distributions_changed:
        if change.then is None:
            began.pop(change.name, None)
        else:
            began[change.name] = _held(change.then)
    return began


def changes(began: Mapping[str, Held], now: Mapping[str, Held]) -> list[dict[str, Any]]:
    """Return what differs, by distribution; nothing where the run does not know what it began with."""
    return [
        {"name": name, "then": _plain(name, began.get(name)), "now": _plain(name, now.get(name))}
        for name in sorted({*began, *now} if began else ())
        if _differs(began.get(name), now.get(name))
    ]


def change_words(began: Mapping[str, Held], now: Mapping[str, Held]) -> str:
    """Return what to tell of it, ``""`` if nothing has changed."""
    told = [_words(change["name"], change["then"], change["now"]) for change in changes(began, now)]
    if not told:
        return ""
    more = f"; and {len(told) - _SHOWN} more, see distributions_changed in {RECORD}" * (len(told) > _SHOWN)
    return f"what plugins run has changed since this run began: {'; '.join(told[:_SHOWN])}{more}"


def _words(name: str, then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    name, before, after = (
        shorten(visible(" ".join(str(text).split())), _SHOWN_CHARACTERS)
        for text in (name, (then or {}).get("version"), (now or {}).get("version"))
    )
    if then is None or then["version"] is None:
        return f"{name} {after} is new"
    if now is None or now["version"] is None:
        return f"{name} {before} is no longer there"
    return f"{name} {before} has other files" if before == after else f"{name} {before} is now {after}"


def _differs(then: Held | None, now: Held | None) -> bool:
    if then is None or now is None or then.version != now.version:
        return True
    return then.sha256 != now.sha256 and bool(then.sha256 and now.sha256)


def _held(entry: _Entry) -> Held:
    return Held(entry.version or "", entry.sha256 or "")


def _plain(name: str, found: Held | None) -> dict[str, Any] | None:
    return found and {"name": name, "version": found.version or None, "sha256": found.sha256 or None}


def _record(digest: DistributionDigest) -> dict[str, Any]:
    return {
        "name": digest.name,
        "version": digest.version or None,
        "sha256": digest.sha256 or None,
        "digested": None if digest.gap else "list" if digest.record else "files",
        "files": len(digest.files),
        "not_digested": digest.gap or None,
    }


def of_plugin(provenance: Provenance | None, plugin: str) -> Iterator[tuple[str, Any]]:
    """Yield what ``run.json`` says of one plugin's provenance, keys and values."""
    names = () if provenance is None else provenance.plugins.get(plugin, ())
    yield "sha256", (provenance.distributions[names[0]].sha256 or None) if provenance and names else None
    yield "requires", list(names[1:])
