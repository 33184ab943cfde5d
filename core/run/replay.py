"""Train a few steps with a plugin as each series that it must work with, in a sandbox.

The job is real and small: grey images, or colour where those do not suit the plugin. What an
earlier series lacks is hidden from the plugin (``plugins/earlier_series.py``), so a use that neither its
text nor its class shows fails here, and not in the middle of a user's job.
"""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from packaging.version import Version

from ..compat.findings import Finding, Verdict, join_words
from ..compat.source.plugin_source import PluginSource
from ..discovery.catalog import Found, catalog
from ..hooks.errors import PluginError, RingfenceError, shorten, traceback_of, visible
from ..hooks.series import Index, series_of
from ..job.job_file import check_job
from ..job.smoke_job import SMALL, plugins_of
from ..job.yaml_document import dump_yaml, parse_yaml
from ..plugins.earlier_series import Lack
from ..plugins.plugin_frames import spot_in
from .execute import RunOptions, execute
from .prepare import prepare

#: What stands beside the plugin's name: the first fault ends the job, which has no time for long calls.
_SETTINGS: Mapping[str, Any] = MappingProxyType({"on_failure": "abort", "deadline_s": 10.0})
#: Characters of what a plugin says that are quoted.
_QUOTED = 300
_COLOUR = "colour.npz"
#: Keys of the job to what they are: those of ``SMALL``, and those for a plugin that wants colour.
_GREY: Mapping[str, Any] = MappingProxyType({})
_IN_COLOUR: Mapping[str, Any] = MappingProxyType(
    {"data": {"name": "arrays", "path": _COLOUR, "task": "classification", "layout": "channels_first"}}
)


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
    run_as = functools.partial(_failure, found, source, options)
    failed = run_as(_GREY, None)
    data = _GREY if failed is None or run_as(_IN_COLOUR, None) else _IN_COLOUR
    if failed is not None and data is _GREY:
        # It fails in any job, or none of these suits it: nothing follows for earlier series.
        text = f"failed in a short job, so nothing was told by running it: {_quoted(failed.cause)}"
        advice = "mend what it does there; if these jobs' data do not suit it, its own tests have to do"
        return [Finding("U-REPLAY", text, (), advice, *_where(failed, source))]
    failures = {group: run_as(data, lack) for group, lack in _groups(verdict, index).items()}
    return [
        Finding(
            "E-REPLAY",
            f"failed in a short job: {_quoted(error.cause)}",
            group,
            f"do without what {join_words(group)} lacks, or raise the lower bound",
            *_where(error, source),
        )
        for group, error in failures.items()
        if error is not None
    ] or [Finding("I-REPLAYED", f"trained for {SMALL['steps']} steps as {join_words(verdict.window)}")]


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


def _where(error: PluginError, source: PluginSource) -> tuple[Path | None, int]:
    """Return the plugin's line that raised, or that of its class."""
    return spot_in(traceback_of(error), source.files) or (source.path, source.line)


def _failure(
    found: Found,
    source: PluginSource,
    options: Mapping[str, Any],
    data: Mapping[str, Any],
    lack: Lack | None,
) -> PluginError | None:
    """Run the job once; return what the plugin failed with, None if it did not."""
    plugins = plugins_of(found.name, source.role, options, _SETTINGS, optimizer={"isolation": "trusted"})
    installed = catalog()
    known = replace(installed, plugins={**installed.plugins, found.name: found}, conflicts={})
    with tempfile.TemporaryDirectory(prefix="ringfence-replay-") as name:
        folder = Path(name)
        if data is _IN_COLOUR:
            _draw_colours(folder / _COLOUR)
        job = check_job(
            parse_yaml(dump_yaml({**SMALL, **data, "plugins": plugins}), f"a job with '{found.name}'")
        )
        prepared = prepare(job, folder, known)
        planned = [
            replace(item, spec=replace(item.spec, lack=lack)) if item.spec.name == found.name else item
            for item in prepared.plugins
        ]
        try:
            execute(replace(prepared, plugins=planned), folder / "run", RunOptions(report=False))
        except RingfenceError as error:
            failure = next((cause for cause in _causes(error) if isinstance(cause, PluginError)), None)
            if failure is None:
                raise
            return failure
    return None


def _draw_colours(path: Path) -> None:
    """Write as many small images of ten classes as ``SMALL`` has, of three channels."""
    generator = np.random.default_rng(0)
    count = SMALL["data"]["limit"]
    images = generator.random((count, 3, 32, 32), dtype=np.float32)
    np.savez(path, inputs=images, targets=np.arange(count) % 10)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _quoted(text: str) -> str:
    return shorten(" ".join(visible(text).split()), _QUOTED)
