"""The kernel's filter of system calls, and the descriptor by which the host hears of some that it refuses.

A call is refused with an error rather than a signal, so that libraries which
only try it fall back. What ``calls`` does not name does not exist for a plugin,
and a program of another architecture is killed. Calls that are told are answered by
the host with the error that they would get without it; were it gone, or had it
stopped listening, the kernel would refuse them itself.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Callable

import seccompy
from seccompy import Action, Filter

from ...policy import kernel
from ...policy.layer_status import LayerError, LayerStatus, active
from ...policy.syscall_arguments import BY_ARGUMENT
from ...policy.syscalls import ALLOWED, BY_HOST, QUIET, SIGNALS, TOLD, number_of
from . import own_process_filter

_SET_MODE_FILTER, _NEW_LISTENER = 1, 1 << 3
_INSTRUCTION_BYTES = 8
_STANDARD = (0, 1, 2)


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def prepare() -> None:
    """Compile what is the same for every plugin, with and without a listener."""
    for told in (True, False):
        build(told=told)


@functools.cache
def build(*, told: bool) -> bytes:
    """Return the part of the filter that is the same for every plugin, as instructions for the kernel.

    Cached: the zygote builds it once for all its children. Names are resolved to numbers, and
    all that is refused comes before what is allowed, as two names may share one number; of the
    rules of one number the first that fits decides.

    Args:
        told: Leave calls that are told to the listener; without one they get EPERM at once.
    """
    built = Filter(default=int(Action.ERRNO) | errno.ENOSYS)
    tell = built.notify if told else functools.partial(built.errno, error=errno.EPERM)
    for name, then, when in BY_ARGUMENT:
        number = number_of(name)
        if number is None:
            continue
        if then is None:
            built.allow(number, args=when)
        elif isinstance(then, int):
            built.errno(number, then, args=when)
        else:
            tell(number, args=when)
    for names in (*TOLD.values(), BY_HOST):
        for number in _numbers(names):
            tell(number)
    for error, names in QUIET.items():
        for number in _numbers(names):
            built.errno(number, error)
    for number in _numbers((*ALLOWED, *SIGNALS)):  # signals: ``own_process_filter`` comes first
        built.allow(number)
    return built.program


def _numbers(names: tuple[str, ...]) -> list[int]:
    return [number for name in names if (number := number_of(name)) is not None]


def apply(take_listener: Callable[[int], object] | None = None) -> LayerStatus:
    """Load the filter on this thread and all that it starts.

    Args:
        take_listener: Is handed the descriptor by which refused attempts are told and answered. It
            must be out of this process before anybody else's code runs here: who holds it can
            allow what the filter refuses. Without it, or where the kernel gives no such
            descriptor, the kernel refuses everything by itself.

    Raises:
        LayerError: The architecture or the kernel has no seccomp filters.
        OSError: The kernel refused the filter.
    """
    if not seccompy.supported():
        raise LayerError("seccomp", "this kernel was built without seccomp filters", "unavailable")
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    told = ""
    if take_listener is None:
        _load(os.getpid(), told=False)
    else:
        told = _load_and_listen(take_listener)
    allowed, partly = len(_numbers(ALLOWED)), len({rule.call for rule in BY_ARGUMENT}) + len(SIGNALS)
    return active("seccomp", f"{allowed} system calls allowed, {partly} with some arguments, no others{told}")


def _load_and_listen(take_listener: Callable[[int], object]) -> str:
    """Load the filter with a listener if the kernel gives one, and return what to say of it."""
    pid = os.getpid()
    try:
        listener = _load(pid, told=True)
    except OSError as error:
        # Another supervisor has the only listener that there may be, or the kernel is older than 5.0.
        _load(pid, told=False)
        return f"; it cannot change modes of its files, and attempts cannot be told: {error.strerror}"
    if listener in _STANDARD:  # those are open: what has been given is no new descriptor
        raise LayerError("seccomp", "the kernel says that the filter is loaded, and gave no listener for it")
    take_listener(listener)
    return "; attempts are told"


def _load(pid: int, *, told: bool) -> int:
    """Load the filter for good; returns its listener, or 0 if it has none."""
    instructions = own_process_filter.program(pid, told=told) + build(told=told)
    program = _Program(len(instructions) // _INSTRUCTION_BYTES, instructions)
    return kernel.syscall("seccomp", _SET_MODE_FILTER, _NEW_LISTENER if told else 0, program)
