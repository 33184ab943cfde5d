"""Names of files and classes as text of one line that a terminal can be shown."""

from __future__ import annotations

from ..hooks.errors import visible


def one_line(name: str) -> str:
    """Return a name with control characters, line ends too, written as escapes."""
    # Most are as they should be, and there may be millions.
    return name if name.isprintable() else visible(name).replace("\n", "\\n")
