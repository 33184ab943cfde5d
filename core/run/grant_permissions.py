"""Compare what a plugin says it needs with what the job grants it, and work both out.

Nothing is granted unasked: a plugin whose needs exceed the job's grants is refused
with the line that would grant them, before anything is started.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path as FilePath
from typing import Any

from ..compat.source.declared_needs import fill, literal_defaults, options_in
from ..compat.source.plugin_source import Parameter
from ..hooks.permissions import KINDS, VERBS, GrantedPath, Need, Permissions, grant_line
from ..isolation.host.grants.grant import (
    MAX_GRANTS_PER_KIND,
    MAX_PATH_CHARACTERS,
    GrantError,
    open_path,
    parse_target,
)
from ..isolation.host.grants.protected_paths import why_reserved
from ..job.job_file import PluginJob
from ..job.problems import Problem


@dataclass(frozen=True, slots=True)
class GrantRules:
    """The rules on which paths a job may grant.

    Attributes:
        base: Folder that relative paths start from.
        job_file: The job.
        code: Files and folders of the job's plugins.
    """

    base: FilePath
    job_file: FilePath
    code: tuple[FilePath, ...] = ()


def granted_permissions(
    entry: PluginJob, needs: Sequence[Need], parameters: Sequence[Parameter], around: GrantRules
) -> tuple[Permissions, list[Problem]]:
    """Return what a plugin is granted, and what is wrong with that.

    Args:
        entry: The plugin as the job has it.
        needs: As its source states them.
        parameters: Options of its constructor; a need may name one that the job leaves at its default.
        around: Where the job stands.

    Returns:
        The permissions; and problems, each with its path inside the plugin's entry.
    """
    problems: list[Problem] = []
    resolved = _resolve(entry, needs, parameters, around, problems)
    if entry.isolation == "trusted":
        problems += _meaningless(entry)
        return Permissions(tuple(resolved)), problems
    paths = [*_paths(entry, "read", around, problems), *_paths(entry, "write", around, problems)]
    targets = list(_each("connect", entry.connect, parse_target, problems))
    permissions = Permissions(tuple(resolved), _unique(paths), tuple(dict.fromkeys(targets)))
    if not problems:
        problems += _lacking(entry, permissions, around)
    return permissions, problems


def resolve_paths(
    entry: PluginJob, needs: Sequence[Need], parameters: Sequence[Parameter], base: FilePath
) -> dict[str, Any]:
    """Return the plugin's options, with the paths in them that it needs made absolute.

    A sandboxed plugin works in its scratch folder, where a path relative to the job leads
    nowhere. That an option is a path is told by a need that consists of it: ``"{teacher}"``.
    """
    values = literal_defaults(parameters) | entry.options
    found = dict(entry.options)
    for need in needs:
        option = next(iter(options_in(need.what)), "")
        value = values.get(option)
        if need.kind != "connect" and need.what == f"{{{option}}}" and isinstance(value, str) and value:
            with contextlib.suppress(RuntimeError):  # no such user's home folder: told of as a need
                found[option] = os.path.abspath(base / FilePath(value).expanduser())  # noqa: PTH100 - keeps links
    return found


def write_reaches(permissions: Permissions, folder: FilePath) -> str | None:
    """Return the granted path through which a plugin could change what is in ``folder``, or None."""
    place = FilePath(os.path.realpath(folder))
    for grant in permissions.paths:
        granted = FilePath(grant.path)
        if grant.write and (place.is_relative_to(granted) or granted.is_relative_to(place)):
            return grant.path
    return None


# grants


def _paths(entry: PluginJob, kind: str, around: GrantRules, problems: list[Problem]) -> Iterator[GrantedPath]:
    write = kind == "write"

    def opened(text: str) -> GrantedPath:
        grant = open_path(text, around.base, write=write, modules=(around.base,), code=around.code)
        if write and around.job_file.is_relative_to(grant.path):
            raise GrantError(f"'{text}' may be granted to no plugin for writing: it is or holds the job file")
        return grant

    given = getattr(entry, kind)
    if sys.platform != "linux" and given:
        problems.append(Problem((kind,), "files can be granted on Linux only, where plugins can be isolated"))
        return
    if sum(map(len, given)) > MAX_PATH_CHARACTERS:
        problems.append(
            Problem((kind,), f"the paths are longer than {MAX_PATH_CHARACTERS} characters together")
        )
        return
    yield from _each(kind, given, opened, problems)


def _each(
    kind: str, given: Sequence[str], convert: Callable[[str], Any], problems: list[Problem]
) -> Iterator[Any]:
    if len(given) > MAX_GRANTS_PER_KIND:
        what = "a folder that holds them all" if kind != "connect" else "fewer hosts"
        problems.append(
            Problem((kind,), f"has {len(given)} entries; at most {MAX_GRANTS_PER_KIND}, so name {what}")
        )
        return
    for position, text in enumerate(given):
        try:
            yield convert(text)
        except GrantError as error:
            problems.append(Problem((kind, position), str(error)))


def _unique(paths: Sequence[GrantedPath]) -> tuple[GrantedPath, ...]:
    """Drop what is granted twice; to write includes to read."""
    written = {grant.path for grant in paths if grant.write}
    return tuple(dict.fromkeys(grant for grant in paths if grant.write or grant.path not in written))


def _meaningless(entry: PluginJob) -> Iterator[Problem]:
    for kind in KINDS:
        if getattr(entry, kind):
            message = (
                f"grants mean nothing with 'isolation: trusted': '{entry.name}' may do all that the trainer "
                f"may; remove '{kind}', or run it in a sandbox"
            )
            yield Problem((kind,), message, at_key=True)


# needs


def _resolve(
    entry: PluginJob,
    needs: Sequence[Need],
    parameters: Sequence[Parameter],
    around: GrantRules,
    problems: list[Problem],
) -> Iterator[Need]:
    values = literal_defaults(parameters) | entry.options
    for need in needs:
        try:
            what = fill(need.what, values)
            if what is not None:
                yield replace(need, what=_canonical(need.kind, what, around.base))
        except GrantError as error:
            told = f"says that it needs to {VERBS[need.kind]} what cannot be granted: {error}"
            problems.append(Problem((entry.name,), f"'{entry.name}' {told}"))
        except ValueError as error:
            problems.append(
                Problem((entry.name,), f"the plugin needs to {VERBS[need.kind]} '{need.what}', but {error}")
            )


def _canonical(kind: str, what: str, base: FilePath) -> str:
    if kind == "connect":
        return str(parse_target(what))
    try:
        return os.path.realpath(base / FilePath(what).expanduser())
    except (OSError, ValueError, RuntimeError) as error:
        raise GrantError(f"'{what}' is no path: {error}") from error


def _lacking(entry: PluginJob, permissions: Permissions, around: GrantRules) -> Iterator[Problem]:
    """Yield one problem for each kind of need that the grants do not cover, with the line that would."""
    never = {need: why for need in permissions.lacking() if (why := _why_not(need, around))}
    for need, why in never.items():
        message = (
            f"'{entry.name}' needs to {VERBS[need.kind]} {need.what} ({need.reason}), which may be granted "
            f"to no plugin: {why}. Set its options otherwise, or leave it out"
        )
        yield Problem((entry.name,), message)
    missing = [need for need in permissions.lacking() if need not in never and _is_missing(need)]
    for need in missing:
        message = (
            f"'{entry.name}' needs to {VERBS[need.kind]} {need.what} ({need.reason}), which does not exist; "
            "have its options name what does, or make it, and grant it then"
        )
        yield Problem((entry.name,), message)
    told = {*never, *missing}
    for kind in KINDS:
        wanted = [need for need in permissions.lacking() if need.kind == kind and need not in told]
        if wanted:
            given = getattr(entry, kind)
            listed = "; ".join(f"{need.what} ({need.reason})" for need in wanted)
            line = grant_line(kind, [*given, *(need.what for need in wanted)])
            message = (
                f"'{entry.name}' needs to {VERBS[kind]} {listed}, which the job does not grant; to grant it, "
                f"{'write' if given else 'add'} beside '{entry.name}' the line: {line}"
            )
            yield Problem((kind if given else entry.name,), message)


def _is_missing(need: Need) -> bool:
    return need.kind != "connect" and not os.path.lexists(need.what)


def _why_not(need: Need, around: GrantRules) -> str:
    if need.kind == "connect":
        return ""  # a target that cannot be granted was told of when it was read
    write = need.kind == "write"
    return why_reserved(FilePath(need.what), write=write, modules=(around.base,), code=around.code)
