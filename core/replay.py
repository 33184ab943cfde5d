"""Train a few steps with a plugin as each series that it must work with, in a sandbox.

The job is real and small. What an earlier series lacks is hidden from the plugin
(``hooks/earlier.py``), so a use that neither its text nor its class shows fails here,
and not in the middle of a user's job.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from packaging.version import Version

from .catalog import Found, catalog
from .hooks.earlier import Lack
from .hooks.errors import PluginError, RingfenceError, shortened, visible
from .hooks.snapshot import Index, series_of
from .hooks.source import PluginSource
from .hooks.verdict import Finding, Verdict, listed
from .job import check_job
from .job.yaml_file import dump_yaml, parse_yaml
from .run import prepare, run
from .small_job import SMALL, plugins_of

#: What stands beside the plugin's name: the first fault ends the job, which has no time for long calls.
_SETTINGS: Mapping[str, Any] = MappingProxyType({"on_failure": "abort", "deadline_s": 10.0})
#: Characters of what a plugin says that are quoted.
_QUOTED = 300


def replay(
    found: Found,
    source: PluginSource,
    verdict: Verdict,
    options: Mapping[str, Any] | None = None,
    index: Index | None = None,
) -> list[Finding]:
    """Return what a short job shows as each series of the window.

    Args:
        found: The plugin; it need not be installed.
        source: What its text says.
        verdict: What the check says of it so far; it is accepted.
        options: Its options; all that have no default are among them.
        index: The series that the core knows; those that it ships by default.

    Raises:
        SandboxUnavailableError: It cannot be sandboxed on this machine.
    """
    if found.is_builtin:
        return []
    index = Index.read() if index is None else index
    options = options or {}
    usual = _failure(found, source, options, None)
    if usual:
        # It is the job that does not suit the plugin, and nothing follows for earlier series.
        text = f"failed in a short job, so nothing was told by running it: {usual}"
        return [Finding("W-REPLAY", text, path=source.path, line=source.line)]
    failures = {
        group: _failure(found, source, options, lack) for group, lack in _groups(verdict, index).items()
    }
    return [
        Finding(
            "E-REPLAY",
            f"failed in a short job: {said}",
            group,
            advice=f"do without what {listed(group)} lacks, or raise the lower bound",
            path=source.path,
            line=source.line,
        )
        for group, said in failures.items()
        if said
    ] or [Finding("I-REPLAYED", f"trained for {SMALL['steps']} steps as {listed(verdict.window)}")]


def _groups(verdict: Verdict, index: Index) -> dict[tuple[str, ...], Lack]:
    """Return series to what they lack of the running one; those that lack the same are run as one."""
    running = index.snapshots[series_of(Version(verdict.core))]
    groups: list[tuple[list[str], Lack]] = []
    for name in verdict.window:
        lack = Lack.between(index.snapshots[name], running)
        if lack.is_empty:
            continue  # what offers all that the running one does is the running one, to the plugin
        same = next((names for names, known in groups if replace(known, series=name) == lack), None)
        if same is None:
            groups.append(([name], lack))
        else:
            same.append(name)
    return {tuple(names): lack for names, lack in groups}


def _failure(found: Found, source: PluginSource, options: Mapping[str, Any], lack: Lack | None) -> str:
    """Run the job once; return what the plugin failed with, ``""`` if it did not."""
    plugins = plugins_of(found.name, source.role, options, _SETTINGS, optimizer={"isolation": "trusted"})
    installed = catalog()
    known = replace(installed, plugins={**installed.plugins, found.name: found}, conflicts={})
    with tempfile.TemporaryDirectory(prefix="ringfence-replay-") as name:
        folder = Path(name)
        job = check_job(parse_yaml(dump_yaml({**SMALL, "plugins": plugins}), f"a job with '{found.name}'"))
        prepared = prepare(job, folder, known)
        planned = [
            replace(item, spec=replace(item.spec, lack=lack)) if item.spec.name == found.name else item
            for item in prepared.plugins
        ]
        try:
            run(replace(prepared, plugins=planned), folder / "run", report=False)
        except RingfenceError as error:
            failure = next((cause for cause in _causes(error) if isinstance(cause, PluginError)), None)
            if failure is None:
                raise
            return _quoted(failure.cause)
    return ""


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _quoted(text: str) -> str:
    return shortened(" ".join(visible(text).split()), _QUOTED)
