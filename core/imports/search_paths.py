"""Search paths of a sandbox's processes: those of this one, less what only lies about."""

from __future__ import annotations

import os
import site
import sys
from pathlib import Path

from .import_guard import own_library_first


def import_paths() -> tuple[str, ...]:
    """Return the folders of ``sys.path``, in order, that a process elsewhere should search too.

    Those of ``PYTHONPATH`` and of ``pip install --user`` are among them. Without the
    current folder and that of the running script: Python puts them there for
    whatever is started by hand, and they tend to hold everything else as well.
    Python's own library comes first: its modules are imported before there is a guard.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    left_out = {os.getcwd(), *([os.path.dirname(os.path.realpath(main))] if main else [])}  # noqa: PTH109, PTH120 - as on sys.path, plain strings
    absolute = (path for path in sys.path if os.path.isabs(path))  # noqa: PTH117 - "" is not
    paths = dict.fromkeys(path for path in absolute if os.path.realpath(path) not in left_out)
    return tuple(own_library_first(paths))


def user_site() -> str:
    """Return the folder of ``pip install --user`` if this process searches it, else ``""``."""
    folder = site.getusersitepackages() if site.ENABLE_USER_SITE else ""
    return folder if folder in sys.path and Path(folder).is_dir() else ""
