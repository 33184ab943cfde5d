"""What a plugin's author needs to see of a fault: the plugin's own part of its traceback."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .hooks.errors import PluginLoadError, PluginRaisedError, RunAbortedError, visible

_OURS = Path(__file__).parent
_FRAME = '  File "'


def told_by_plugin(error: BaseException) -> list[str]:
    """Return the traceback behind ``error`` in lines, or none if no plugin raised."""
    cause: BaseException | None = error
    while isinstance(cause, RunAbortedError):
        cause = cause.__cause__
    if not isinstance(cause, PluginRaisedError | PluginLoadError):
        return []
    return list(own_frames(visible(cause.remote_traceback).splitlines()))


def own_frames(lines: list[str]) -> Iterator[str]:
    """Yield a traceback without the frames of ringfence that stand before the plugin's first."""
    is_inside = drops = False
    for line in lines:
        if line.startswith(_FRAME):
            drops = not is_inside and _is_ours(line)
            is_inside = is_inside or not drops
        elif not line.startswith("    "):
            drops = False
            is_inside = is_inside and not line.startswith("Traceback ")
        if not drops:
            yield line


def _is_ours(frame: str) -> bool:
    file = Path(frame.removeprefix(_FRAME).partition('"')[0])
    return file.is_relative_to(_OURS) and not file.is_relative_to(_OURS / "builtin")
