"""Where the command starts: nobody's plugin may be imported by what the command line imports."""

from __future__ import annotations

import gc
import signal
import sys

from ..hooks.errors import CutOffError, RingfenceError, visible
from ..imports.entry_point_autoload import forbid_autoload
from ..imports.import_guard import guard, own_library_first
from .standard_streams import secure_streams


def main() -> None:
    """Run the command line; what it is made of is imported behind the guard."""
    # What a command starts with stays to its end; those that run for long enable it (``cli``).
    gc.disable()
    secure_streams()
    try:
        forbid_autoload()
        # A folder of PYTHONPATH may hold anybody's packages: none takes the place of a module of Python's.
        sys.path[:] = own_library_first(sys.path)
        guard()
        from .app import main as run  # noqa: PLC0415 - the point of this function

        run()
    except RingfenceError as error:
        # It is not known whose modules there are, or what the command line needs is a plugin's.
        sys.stderr.write(visible(f"error: {error}\n"))
        sys.exit(error.exit_status)
    except KeyboardInterrupt:
        sys.exit(CutOffError.exit_status)
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            # All is said and done: what Python still does to end itself has nothing to tell.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        # Python would search all modules for garbage, several times, as it takes them down: nearly a second.
        gc.freeze()
