"""Tracebacks of faults for a plugin's author: the plugin's own part."""

from __future__ import annotations

from ..hooks.errors import PluginError, RunAbortedError, traceback_of, visible
from ..plugins.plugin_frames import own_frames


def traceback_lines(error: BaseException) -> list[str]:
    """Return the traceback behind ``error`` in lines, or none if no plugin raised."""
    cause: BaseException | None = error
    while isinstance(cause, RunAbortedError):
        cause = cause.__cause__
    if not isinstance(cause, PluginError):
        return []
    return own_frames(visible(traceback_of(cause)).splitlines())
