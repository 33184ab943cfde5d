"""Import modules from their source alone, never from compiled code that lies beside it."""

from __future__ import annotations

import sys

#: A device is no folder, so that nothing can lie in it, whoever writes there.
NOWHERE = "/dev/null"


def import_from_source() -> None:
    """Have this process compile every module that it imports from now on, and keep nothing of that.

    Python takes ``__pycache__/*.pyc`` for a module's code if size and time of its source are as noted in it,
    and anybody who could write there once can note them.
    """
    sys.pycache_prefix = NOWHERE
    sys.dont_write_bytecode = True
