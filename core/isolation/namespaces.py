"""An empty network, and System V objects and a host name of its own, where the kernel allows it.

An extra, not a need: Ubuntu and containers often refuse it, and seccomp and
Landlock hold without it.
"""

from __future__ import annotations

import os
import resource
from pathlib import Path

from . import kernel
from .status import LayerStatus, active, lacking

_KINDS = kernel.CLONE_NEWNET | kernel.CLONE_NEWIPC | kernel.CLONE_NEWUTS


def apply(max_threads: int) -> LayerStatus:
    """Move this process into namespaces of its own; it must have one thread.

    First as a privileged process may; otherwise inside a new user namespace, where its user
    stays the same. There the number of threads is limited too: RLIMIT_NPROC counts by user and
    namespace, so that outside it would count the trainer's.

    Raises:
        OSError: The kernel gave a user namespace but no user in it.
    """
    try:
        kernel.syscall("unshare", _KINDS)
    except OSError:
        return _as_a_user(max_threads)
    return active("namespaces", "network, ipc, uts")


def _as_a_user(max_threads: int) -> LayerStatus:
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
    resource.setrlimit(resource.RLIMIT_NPROC, (max_threads, max_threads))
    return active("namespaces", f"user, network, ipc, uts; at most {max_threads} threads")
