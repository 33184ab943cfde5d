"""Frames of the user's own code in a traceback, without those of torch, Python and ringfence.

except Exception as error:
    raise DataError(f"the model failed: {type(error).__name__}: {error}, at {user_frame(error)}") from error
"""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from pathlib import Path
from types import FrameType

from ..hooks.errors import shorten, visible

#: Frames that are told of one exception: a recursion that has no end would have a thousand.
MAX_FRAMES = 8
_MAX_LINE = 160
_OURS = __name__.partition(".")[0]
_PYTHONS = tuple(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib"))
_PACKAGE_FOLDERS = {"site-packages", "dist-packages"}


def user_frame(error: BaseException) -> str:
    """Return the innermost of ``user_frames``; ``"an unknown line"`` if ``error`` was never raised."""
    return (user_frames(error) or ["an unknown line"])[-1]


def user_frames(error: BaseException) -> list[str]:
    """Return the user's own lines that ``error`` passed through, outermost first.

    Args:
        error: Caught; not its cause or context.

    Returns:
        ``"file:line, in function: source line"`` for each, at most the innermost ``MAX_FRAMES``. The user's
        own is what is no part of ringfence, of Python's library or of an installed package. Where there is
        none, the innermost line of all; of a ``SyntaxError`` the line that cannot be read.
    """
    if isinstance(error, SyntaxError) and error.filename is not None:
        return [_describe(error.filename, error.lineno or 0, "", error.text or "")]
    passed = list(traceback.walk_tb(error.__traceback__))
    own = [(frame, line) for frame, line in passed if _is_users(frame)] or passed[-1:]
    return [
        _describe(code.co_filename, line, code.co_qualname, linecache.getline(code.co_filename, line))
        for code, line in ((frame.f_code, line) for frame, line in own[-MAX_FRAMES:])
    ]


def is_in_users_code(error: BaseException) -> bool:
    """Tell whether ``error`` passed through any line of the user's own."""
    return any(_is_users(frame) for frame, _ in traceback.walk_tb(error.__traceback__))


def _is_users(frame: FrameType) -> bool:
    filename = frame.f_code.co_filename
    if filename.startswith("<") or frame.f_globals.get("__name__", "").partition(".")[0] == _OURS:
        return False  # made at run time, frozen into the interpreter, or ours
    path = Path(filename)
    return not (_PACKAGE_FOLDERS & set(path.parts) or any(map(path.is_relative_to, _PYTHONS)))


def _describe(filename: str, line: int, function: str, source: str) -> str:
    where = f"{filename}:{line}" + (f", in {function}" if function else "")
    source = shorten(source.strip(), _MAX_LINE)
    return visible(f"{where}: {source}" if source else where).replace("\n", " ")
