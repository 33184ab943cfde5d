"""System calls that Python has no function for, by name, on every architecture that seccompy knows."""

from __future__ import annotations

import ctypes
import errno
import os

import seccompy

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG = 1
PR_GET_PDEATHSIG = 2
PR_SET_SECCOMP = 22
PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

CLONE_FILES = 0x400
CLONE_SIGHAND = 0x800
CLONE_THREAD = 0x10000
CLONE_NEWNS = 0x20000
CLONE_NEWCGROUP = 0x2000000
CLONE_NEWUTS = 0x4000000
CLONE_NEWIPC = 0x8000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_DROPPABLE = 0x08
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_NORESERVE = 0x4000
MAP_HUGETLB = 0x40000


def syscall(name: str, *args: int | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """Make the system call ``name`` and return its result.

    Args:
        name: As the kernel's tables spell it.
        args: Integers (cut to a machine word), buffers, structures by reference, or None for NULL.

    Raises:
        OSError: The call failed, or this architecture lacks it (ENOSYS).
    """
    try:
        number = seccompy.syscall_nr(name)
    except ValueError:
        raise OSError(errno.ENOSYS, f"this architecture has no system call {name}") from None
    return syscall_number(number, *args)


def syscall_number(number: int, *args: int | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> int:
    """Make the system call of this number; see ``syscall``."""
    call = _libc.syscall
    call.restype = ctypes.c_long
    result: int = call(ctypes.c_long(number), *(_word(arg) for arg in args))
    if result == -1:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _word(arg: int | ctypes.Array[ctypes.c_char] | ctypes.Structure | None) -> object:
    if isinstance(arg, int):
        return ctypes.c_long(arg)
    return ctypes.c_void_p(None) if arg is None else ctypes.byref(arg)


def prctl(option: int, *args: int) -> int:
    """Make the prctl call ``option``; missing arguments are 0.

    Raises:
        OSError: The kernel refused.
    """
    padded = (*args, 0, 0, 0, 0)[:4]
    return syscall("prctl", option, *padded)
