"""Errors that may pass by themselves: raised twice, they do not mean that they come every time."""

from __future__ import annotations

from ..hooks.errors import PluginRaisedError

#: Errors of the system that come again, however often one tries.
_LASTING = (FileExistsError, FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError)
#: Errors that one is looked for among the causes of; theirs may be in a circle.
_MAX_CAUSES = 20


def as_transient(error: PluginRaisedError) -> PluginRaisedError:
    """Return ``error`` marked as one of which ``may_pass`` held where it was raised."""
    error._is_transient = True  # noqa: SLF001 - no part of what authors of plugins are promised
    return error


def is_transient(error: PluginRaisedError) -> bool:
    """Tell whether the same error twice does not mean that it comes every time."""
    return error._is_transient  # noqa: SLF001 - no part of what authors of plugins are promised


def may_pass(error: BaseException) -> bool:
    """Tell whether an error is of the system, or comes of one that is: a disk, a network, a busy machine.

    What a file's name or the sandbox decides is the same the next time.
    """
    found: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if found is None:
            return False
        if isinstance(found, OSError) and not isinstance(found, _LASTING):
            return True
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)
    return False
