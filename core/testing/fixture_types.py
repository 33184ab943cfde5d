"""Types of the fixtures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .job_runs import JobRun
    from .plugin_host import StartedPlugin


class StartPlugin(Protocol):
    """What the fixture ``ringfence_plugin`` is."""

    def __call__(
        self,
        plugin: str,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> StartedPlugin:
        """Start a plugin in a sandbox; see ``PluginHost.start``."""


class RunJob(Protocol):
    """What the fixture ``ringfence_job`` is."""

    def __call__(
        self,
        plugin: str,
        options: Mapping[str, Any] | None = None,
        *,
        settings: Mapping[str, Any] | None = None,
        job: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> JobRun:
        """Train with a plugin; see ``run_job``."""
