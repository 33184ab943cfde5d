"""Say how a job would allow what a plugin was refused, if it may."""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

from ..hooks.permissions import KINDS, Kind, Need, Permissions, covers, grant_line
from .reserved import why_reserved

#: What Python says of a file that the kernel refused: error number, words, and the file as by ``repr``.
_REFUSED = re.compile(
    r"PermissionError: \[Errno (?:1|13)\] [^:'\"]{1,60}: (?P<file>'[^'\n]{1,4096}'|\"[^\"\n]{1,4096}\")"
)


def how_to_allow(cause: str, plugin: str, permissions: Permissions, code: tuple[str, ...] = ()) -> str:
    """Return the end of a message about a refused file: the line of the job that would allow it.

    The words are the plugin's and may be made up; what they lead to is judged as any
    grant is, so nothing is advised here that a job may not grant.

    Args:
        cause: What the plugin raised, as ``type: message``.
        plugin: Its name.
        permissions: What it is granted now.
        code: Files and folders of its own code, which it need not be granted.

    Returns:
        ``""`` if this is about no file, or one that may not be granted.
    """
    path = _refused_file(cause)
    if path is None:
        return ""
    kind: Kind = "read"
    if _is_readable(path, permissions, code):
        kind = "write"
    elif not os.path.exists(path):  # noqa: PTH110 - a Path raises where this user may not look
        # It was to be made: that takes the folder.
        kind, path = "write", path.parent
    exists = os.path.exists(path)  # noqa: PTH110
    if not exists or why_reserved(path, write=kind == "write", code=tuple(map(Path, code))):
        return ""
    line = grant_line(kind, [*permissions.granted()[kind], str(path)])
    return f"; the job does not grant '{plugin}' this file. If it should, write beside '{plugin}': {line}"


def _refused_file(cause: str) -> Path | None:
    found = _REFUSED.match(cause)
    if found is None:
        return None
    try:
        path = Path(str(ast.literal_eval(found["file"])))
        return Path(os.path.realpath(path)) if path.is_absolute() else None
    except (ValueError, SyntaxError, OSError):
        return None


def _is_readable(path: Path, permissions: Permissions, code: tuple[str, ...]) -> bool:
    if any(path.is_relative_to(os.path.realpath(place)) for place in code):
        return True
    need = Need("read", str(path), "")
    granted = permissions.granted()
    return any(covers(kind, each, need) for kind in KINDS for each in granted[kind])
