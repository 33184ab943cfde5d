"""Drop capabilities: no rights beyond those of an ordinary user, and no way to get any."""

from __future__ import annotations

import ctypes
import os

from ...policy import kernel
from ...policy.layer_status import LayerStatus, active

_CAPABILITY_VERSION_3 = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    """Effective, permitted and inheritable: capabilities 0-31, then 32-63."""

    _fields_ = (("words", ctypes.c_uint32 * 6),)


def apply() -> LayerStatus:
    """Set no_new_privs and give up every capability, for good.

    The user stays the same: as another, root would lose the interpreter under its own home.

    Raises:
        OSError: The kernel refused.
    """
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    _drop_bounding()
    kernel.prctl(kernel.PR_CAP_AMBIENT, kernel.PR_CAP_AMBIENT_CLEAR_ALL)
    kernel.syscall("capset", _Header(_CAPABILITY_VERSION_3, 0), _Sets())
    return active("privileges", f"no_new_privs, no capabilities, user {os.geteuid()}")


def held() -> tuple[int, ...]:
    """Return the capability words that this thread has left; all zero means none."""
    sets = _Sets()
    kernel.syscall("capget", _Header(_CAPABILITY_VERSION_3, 0), sets)
    return tuple(sets.words)


def _drop_bounding() -> None:
    for capability in range(64):
        try:
            if kernel.prctl(kernel.PR_CAPBSET_READ, capability):
                kernel.prctl(kernel.PR_CAPBSET_DROP, capability)
        except PermissionError:
            return  # only a privileged process may, and only it would need to
        except OSError:
            return  # past the last capability of this kernel
