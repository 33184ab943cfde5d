"""How a probe tries something forbidden, and what counts as refused."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from ...policy import kernel

#: The sandbox said no. Any other error means that the attempt got past it and failed later.
REFUSED = frozenset({errno.EPERM, errno.EACCES, errno.ENOSYS})


class ProbeContext(msgspec.Struct, frozen=True):
    """What probes aim at.

    Attributes:
        host_pid: The trainer, or another process of its user; nothing is done to it that it would notice.
        canary_path: A file of the host's, outside everything readable.
        scratch: The plugin's own folder.
        env_canary: Name of a variable in the host's environment.
        keep_fds: Open files that the plugin is meant to have, besides 0, 1 and 2.
        host_network: Inode of the host's network namespace; 0 if unknown, and then nothing is proved.
    """

    host_pid: int
    canary_path: str
    scratch: str
    env_canary: str
    keep_fds: tuple[int, ...] = ()
    host_network: int = 0

    @property
    def canary(self) -> Path:
        """The canary's path."""
        return Path(self.canary_path)

    def in_scratch(self, name: str) -> Path:
        """Return the path of a file in the scratch folder."""
        return Path(self.scratch) / name


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
