"""An empty network, and System V objects and a host name of its own, where the kernel allows it.

An extra, not a need: Ubuntu and containers often refuse it, and seccomp and
Landlock hold without it.
"""

from __future__ import annotations

import os
import resource
import socket
from pathlib import Path

from ...policy import kernel
from ...policy.layer_status import LayerStatus, active, lacking

_KINDS = kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS
_HOST_NAME = "plugin"  # the machine's is nobody else's business


def apply(max_threads: int) -> LayerStatus:
    """Move this process into namespaces of its own; it must have one thread.

    First as a privileged process may; otherwise inside a new user namespace, where its user
    stays the same. There the number of threads is limited too: RLIMIT_NPROC counts by user and
    namespace, so that outside it would count the trainer's.

    Raises:
        OSError: The kernel gave a user namespace but no user in it.
    """
    before = _uts()
    try:
        kernel.syscall("unshare", _KINDS)
    except OSError:
        return _as_a_user(max_threads, before)
    _rename(before)
    return active("namespaces", "network, ipc, uts")


def _as_a_user(max_threads: int, before: int) -> LayerStatus:
    uid, gid = os.getuid(), os.getgid()
    try:
        # One call: either all of it happens, or nothing does.
        kernel.syscall("unshare", _KINDS | kernel.CLONE_NEWUSER)
    except OSError as error:
        return lacking("namespaces", "unavailable", f"the kernel refuses them: {error.strerror}")
    own = Path("/proc/self")
    (own / "setgroups").write_text("deny")
    (own / "uid_map").write_text(f"{uid} {uid} 1")
    (own / "gid_map").write_text(f"{gid} {gid} 1")
    _rename(before)
    resource.setrlimit(resource.RLIMIT_NPROC, (max_threads, max_threads))
    return active("namespaces", f"user, network, ipc, uts; at most {max_threads} threads")


def _uts() -> int:
    """Return the number of the namespace that this process has its host name from."""
    return Path("/proc/self/ns/uts").stat().st_ino


def _rename(before: int) -> None:
    """Take another host name, but only in a namespace of its own: elsewhere it is the machine's.

    Raises:
        OSError: It is in the namespace that it was in ``before``, whatever the kernel said.
    """
    if _uts() == before:
        raise OSError("the kernel said that it gave namespaces, and gave none")
    socket.sethostname(_HOST_NAME)
