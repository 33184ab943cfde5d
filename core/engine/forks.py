"""Processes that the user's code forks, and that come back out of it."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator

from ..hooks.errors import CutOffError

_CAME_BACK = "a process that your code has forked came back from it, and ends here: the run is its parent's"


@contextlib.contextmanager
def ending_forks() -> Iterator[None]:
    """End a process that the user's code has forked where it leaves the context; also a decorator.

    The run is its parent's: it must not end plugins, nor write to the folder, nor train on beside it.
    """
    trainer = os.getpid()
    try:
        yield
        if os.getpid() != trainer:
            sys.exit(_CAME_BACK)
    except BaseException as error:
        if os.getpid() != trainer:
            _end(error)
        raise


def _end(error: BaseException) -> None:
    """End this process as Python would with ``error``, but for what the frames above would still do."""
    status = 1
    if isinstance(error, KeyboardInterrupt):
        status = CutOffError.exit_status  # Ctrl-C reaches every process of the terminal: one of them says so
    elif not isinstance(error, SystemExit):
        traceback.print_exception(error)
    elif error.code is None or isinstance(error.code, int):
        status = error.code or 0
    else:
        sys.stderr.write(f"{error.code}\n")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status & 0xFF)
