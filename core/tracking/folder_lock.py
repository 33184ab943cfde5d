"""The lock on a run's folder: one process a run.

The kernel holds it for the process and lets go of it when that ends, however it ends, so
that a lock is never left behind. It belongs to an open file that no child inherits.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from ..hooks.errors import JobError
from .run_folder import LOCK, unusable
from .untrusted_folder import Tree

#: What a file system answers that knows no locks.
_UNKNOWN = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_MAX_HOLDER_BYTES = 256


class FolderTakenError(JobError):
    """Another run has the folder."""


@contextlib.contextmanager
def hold_lock(folder: Path, flag: str) -> Iterator[bool]:
    """Keep other processes from running in ``folder`` until the end of the context.

    Args:
        folder: Of the run; exists.
        flag: That named it, for messages.

    Yields:
        Whether the file system knows locks; where it does not, nothing keeps others out.

    Raises:
        FolderTakenError: Another process holds it.
        JobError: The folder cannot be written.
    """
    try:
        handle = Tree(folder).open(LOCK, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise unusable(flag, folder, error) from error
    try:
        locked = _lock(handle, fcntl.LOCK_EX, folder, flag)
        # Only for the message that another process shows; the lock holds without.
        with contextlib.suppress(OSError):
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield locked
    finally:
        os.close(handle)


def check_free(folder: Path, flag: str) -> None:
    """Check that no process runs in ``folder``; nothing is written or kept.

    Raises:
        FolderTakenError: One does.
    """
    try:
        handle = Tree(folder).open(LOCK, os.O_RDONLY)
    except OSError:
        # There is no lock yet, or it cannot be read: ``hold_lock`` tells of that.
        return
    try:
        _lock(handle, fcntl.LOCK_SH, folder, flag)
    finally:
        os.close(handle)


def _lock(handle: int, kind: int, folder: Path, flag: str) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(handle, _MAX_HOLDER_BYTES, 0).decode(errors="replace").strip()
        raise FolderTakenError(
            f"{flag} {folder}: a run is going on in it{f' ({holder})' if holder else ''}; "
            "wait until it has ended, or end it with Ctrl-C or SIGTERM"
        ) from None
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise unusable(flag, folder, error) from error
        return False
    return True
