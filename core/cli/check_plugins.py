"""``ringfence plugins check``: metadata and text first, then the class, loaded in a sandbox."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from ..compat.findings import Finding, Verdict, sort_findings
from ..compat.source.declared_needs import fill, literal_defaults
from ..compat.source.plugin_source import PluginSource
from ..discovery.catalog import Catalog, Found, catalog, check_found, source_of
from ..discovery.project import is_path, plugins_at
from ..hooks.errors import JobError, PluginError, shorten, traceback_of, visible
from ..hooks.permissions import VERBS
from ..plugins.plugin_frames import spot_in

_MAX_QUOTED_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class _Read:
    """A plugin as its metadata and its text tell it."""

    found: Found
    source: PluginSource
    verdict: Verdict
    options: Mapping[str, Any]


def judge_plugins(
    argument: str,
    options: Mapping[str, Any] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Verdict]:
    """Judge an installed plugin, or every plugin of a project or a wheel.

    Args:
        argument: Name of the plugin, or a path: what has a slash or ends in ``.whl``.
        options: Options to load and run it with.
        tell: Told which of several plugins is being run.

    Raises:
        JobError: It is not installed, or the path holds no plugin that can be read, or there are options for
            several plugins, or of another name or type than the plugin's.
        SandboxUnavailableError: It cannot be sandboxed on this machine.
    """
    options = options or {}
    if not is_path(argument):
        return _verdicts_of([_read(_find_installed(argument), options)], tell)
    with plugins_at(Path(argument)) as there:
        if options and len(there.plugins) > 1:
            names = ", ".join(found.name for found in there.plugins)
            raise JobError(
                f"--set is for one plugin, and {argument} holds {len(there.plugins)} ({names}): "
                "install it, and check each by its name"
            )
        installed = catalog()
        read = [_read(_add_name_clash(found, installed), options) for found in there.plugins]
        return [there.told(verdict) for verdict in _verdicts_of(read, tell)]


def _find_installed(name: str) -> Found:
    try:
        return catalog().find(name)
    except JobError as error:
        if not Path(name).exists():
            raise
        raise JobError(f"{error}. To check what lies here under that name, write ./{name}") from error


def _add_name_clash(found: Found, installed: Catalog) -> Found:
    """Return a plugin that is not installed, with what is wrong if it would stand beside one of its name."""
    other = installed.plugins.get(found.name)
    if other is None or canonicalize_name(other.distribution) == canonicalize_name(found.distribution):
        return found
    text = (
        f"'{found.name}' is the name of a plugin of {other.distribution} too; beside it, neither can be used"
    )
    taken = Finding("E-TAKEN", text, advice="give the plugin another name")
    return replace(found, hazards=(*found.hazards, taken))


def _verdicts_of(read: Sequence[_Read], tell: Callable[[str], None]) -> list[Verdict]:
    loadable = [item for item in read if item.verdict.decision != "refused" and not _missing_from_job(item)]
    loaded = _load(loadable, tell)
    return [
        loaded.get(item.found.name) or _not_loaded(item.verdict, _missing_from_job(item)) for item in read
    ]


def _read(found: Found, options: Mapping[str, Any]) -> _Read:
    source = source_of(found)
    if options:
        from ..job.plugin_options import check_plugin_options  # noqa: PLC0415 - imports pydantic

        told = check_plugin_options(options, source.parameters, takes_any=source.takes_any_option)
        wrong = [
            f"--set {'.'.join(map(str, problem.path))}: {problem.message}"
            for problem in told.problems
            if problem.path[0] in options
        ]
        if wrong:
            raise JobError("\n".join(wrong))
    return _Read(found, source, check_found(found, source), options)


def _missing_from_job(item: _Read) -> str:
    """Return what only a job can give the plugin, ``""`` if it can be loaded without one."""
    required = [
        parameter.name
        for parameter in item.source.parameters
        if parameter.required and parameter.name not in item.options
    ]
    if required:
        return f"a value for {', '.join(required)} (--set KEY=VALUE)"
    parameters = {**literal_defaults(item.source.parameters), **item.options}
    standing = [need for need in item.source.needs if fill(need.what, parameters)]
    return (
        "leave to " + " and to ".join(f"{VERBS[need.kind]} {need.what}" for need in standing)
        if standing
        else ""
    )


def _not_loaded(verdict: Verdict, needed: str) -> Verdict:
    if verdict.decision == "refused":
        return verdict
    text = f"not loaded, since it needs {needed}; a job that uses it settles the rest"
    return replace(verdict, findings=sort_findings([*verdict.findings, Finding("I-NOT-LOADED", text)]))


def _load(read: Sequence[_Read], tell: Callable[[str], None]) -> dict[str, Verdict]:
    """Load plugins in sandboxes, and return the verdict of each by its name."""
    if not read:
        return {}
    # Only here are torch and the sandbox needed; what is refused by its text is told at once.
    from ..isolation.sandbox import Sandbox  # noqa: PLC0415
    from ..run.load_plugins import confirm, plan_alone  # noqa: PLC0415

    verdicts = {}
    with Sandbox() as sandbox:
        for item in _announce_each("starting", read, tell):
            planned = plan_alone(item.found, item.source, item.verdict, item.options)
            try:
                plugin = sandbox.start(planned.spec)
            except PluginError as error:
                verdicts[item.found.name] = item.verdict.with_findings([_load_failure(item, error)])
                continue
            verdicts[item.found.name] = confirm(planned, plugin.accepts)
            plugin.close()
    fit = [item for item in read if verdicts[item.found.name].decision == "accepted"]
    for item in _announce_each("training with", fit, tell):
        verdicts[item.found.name] = _add_replay(item, verdicts[item.found.name])
    return verdicts


def _announce_each(what: str, read: Sequence[_Read], tell: Callable[[str], None]) -> Iterator[_Read]:
    """Yield plugins, and tell of each before where there are several: all together may take minutes."""
    for number, item in enumerate(read, 1):
        if len(read) > 1:
            tell(f"{what} '{item.found.name}', {number} of {len(read)}")
        yield item


def _add_replay(item: _Read, verdict: Verdict) -> Verdict:
    from ..run.replay import replay  # noqa: PLC0415 - imports the engine

    found = replay(item.found, item.source, verdict, item.options)
    return replace(verdict, findings=sort_findings([*verdict.findings, *found]))


def _load_failure(item: _Read, error: PluginError) -> Finding:
    """Return what a plugin's import or constructor died of, and at which of its own lines."""
    said = shorten(" ".join(visible(error.cause).split()), _MAX_QUOTED_CHARACTERS)
    # The traceback is the plugin's word: it picks one of the files that were read, and says no more.
    path, line = spot_in(traceback_of(error), item.source.files) or (item.source.path, item.source.line)
    return Finding(
        "E-LOAD",
        said,
        advice="mend what it does when it is imported and made; install what it needs beside it",
        path=path,
        line=line,
    )
