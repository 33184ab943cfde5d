"""Tell the user what takes long while nothing else is told."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator

#: Who waits longer wonders whether anything goes on.
TOLD_AFTER_S = 2.0


@contextlib.contextmanager
def tell_if_slow(tell: Callable[[str], None], what: str) -> Iterator[None]:
    """Tell what is being done, from another thread, if the context takes longer than a user likes to wait."""
    timer = threading.Timer(TOLD_AFTER_S, tell, [f"{what} …"])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
