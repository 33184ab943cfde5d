"""Memory that is counted nowhere."""

import ctypes
import errno
import os

from ..row import Row


def lacking():
    """Return the attempts that cannot succeed on this machine, with why."""
    missing = {}
    libc = ctypes.CDLL(None, use_errno=True)
    secret = libc.syscall(447, 0)
    if secret < 0:
        missing["memfd_secret"] = f"this kernel has none: {os.strerror(ctypes.get_errno())}"
    else:
        os.close(secret)
    if not os.access("/run", os.W_OK):
        missing["run"] = f"user {os.geteuid()} may not write there"
    return missing


ROWS = (
    Row(
        22,
        "memory in files without a name, shared mappings and temporary file systems",
        "seccomp, landlock",
        "hidden_memory:attempts",
        # Files without a name are refused as if no file system had them.
        also={"dev_shm_without_name": frozenset({errno.EOPNOTSUPP})},
        no_control=lacking(),
    ),
)
