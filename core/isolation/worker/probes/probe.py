"""A probe: how it tries something forbidden, and what counts as refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from ...policy import kernel
from ...policy.confinement import ProbeContext

#: The sandbox said no. Any other error means that the attempt got past it and failed later.
REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})


Probe = Callable[[ProbeContext], bool]


def refused(attempt: Callable[[], object], also: frozenset[int] = frozenset()) -> bool:
    """Return whether ``attempt`` was refused.

    Args:
        attempt: Does what must not work, so that success does no harm.
        also: Further errors that mean refusal here.
    """
    try:
        attempt()
    except OSError as error:
        return error.errno in REFUSED | also
    return False


def opens(attempt: Callable[[], int], also: frozenset[int] = frozenset()) -> bool:
    """Return whether getting a file descriptor was refused; one that was got is closed."""
    return refused(lambda: os.close(attempt()), also)


def call_refused(name: str, *args: int | None) -> bool:
    """Return whether the system call ``name`` was refused."""
    return refused(lambda: kernel.syscall(name, *args))
