"""Fixtures, found by pytest through the entry point ``ringfence``; nothing is imported before one is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .fixture_types import RunJob, StartPlugin

if TYPE_CHECKING:
    from .conformance import Runs
    from .job_runs import JobRun
    from .plugin_host import PluginHost, StartedPlugin

pytest.register_assert_rewrite("ringfence.testing.conformance")


@pytest.fixture(scope="session")
def ringfence_host() -> Iterator[PluginHost]:
    """Where plugins are started: one for the session, since its start takes seconds."""
    from . import PluginHost  # noqa: PLC0415 - imports torch

    with PluginHost() as host:
        yield host


@pytest.fixture
def ringfence_plugin(ringfence_host: PluginHost) -> Iterator[StartPlugin]:
    """Start plugins in sandboxes and call their methods; they end with the test."""
    started: list[StartedPlugin] = []

    def start(
        plugin: str,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> StartedPlugin:
        started.append(ringfence_host.start(plugin, options, settings=settings))
        return started[-1]

    yield start
    for plugin in started:
        plugin.close()


@pytest.fixture
def ringfence_job(tmp_path: Path) -> RunJob:
    """Train a small model with a plugin, in the test's own folder."""
    from .job_runs import TIMEOUT_S, run_job  # noqa: PLC0415 - nothing before it is used

    def run(
        plugin: str,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> JobRun:
        longest = TIMEOUT_S if timeout_s is None else timeout_s
        return run_job(plugin, options, folder=tmp_path, settings=settings, job=job, timeout_s=longest)

    return run


@pytest.fixture(scope="class")
def ringfence_runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The runs of a class of conformance tests: sandboxed, and trusted where the class allows it."""
    from .conformance import runs_of  # noqa: PLC0415 - nothing before it is used

    return runs_of(request.cls, tmp_path_factory.mktemp("conformance"))
