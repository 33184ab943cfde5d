"""Type into the user's terminal, and listen to it."""

import ctypes
import fcntl
import os
import signal

from lowlevel import opens

from ringfence.isolation.policy import kernel

_STI, _LINUX, _SCTTY, _SETD, _CONS = 0x5412, 0x541C, 0x540E, 0x5423, 0x541D
_HIGH = (1 << 32, 1 << 63, 0xFFFFFFFF << 32)


def _terminal():
    """Return a terminal of our own, or where there is none to be had, a pipe; and what to close."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what a session gets when its terminal is closed
    try:
        ours, theirs = os.openpty()
    except OSError:
        return os.pipe()
    return theirs, ours


def _ask(request, value=b"x"):
    """Ask a terminal for something, as it stands in a register: 64 bits of which the kernel reads 32."""
    asked, other = _terminal()
    try:
        return kernel.syscall("ioctl", asked, request, ctypes.create_string_buffer(value)) == 0
    finally:
        os.close(asked)
        os.close(other)


def _types(request):
    """Make a terminal ours, type into it, and read that back."""
    asked, other = _terminal()
    try:
        if os.isatty(asked):
            fcntl.ioctl(asked, _SCTTY, 0)
        kernel.syscall("ioctl", asked, request, ctypes.create_string_buffer(b"\n"))
        return os.read(asked, 1) == b"\n"
    finally:
        os.close(asked)
        os.close(other)


def _numbered(device):
    return lambda: opens(device, os.O_RDWR | os.O_NOCTTY)


def typing(aim):
    """Push characters into a terminal as if its user had typed them (CVE-2019-10063)."""
    attempts = {"type": lambda: _types(_STI)}
    attempts |= {f"type_high_{high:x}": lambda high=high: _types(_STI | high) for high in _HIGH}
    return attempts | {
        "select": lambda: _ask(_LINUX, b"\0" * 16),
        "select_high": lambda: _ask(_LINUX | _HIGH[0], b"\0" * 16),
        "discipline": lambda: _ask(_SETD, b"\0\0\0\0"),
        "console": lambda: _ask(_CONS),
        "control": _takes_control,
    }


def _takes_control():
    asked, other = _terminal()
    try:
        return kernel.syscall("ioctl", asked, _SCTTY, 0) == 0
    finally:
        os.close(asked)
        os.close(other)


def listening(aim):
    """Open terminals, and see whether one controls this process."""
    devices = {
        "ptmx": "/dev/ptmx",
        "pts_ptmx": "/dev/pts/ptmx",
        "console": "/dev/console",
        "tty0": "/dev/tty0",
        "tty1": "/dev/tty1",
        "pts0": "/dev/pts/0",
    }
    attempts = {name: _numbered(path) for name, path in devices.items() if os.path.exists(path)}
    return attempts | {
        "own": lambda: _with_own_terminal(lambda: opens("/dev/tty", os.O_RDWR)),
        "controlled": lambda: _with_own_terminal(lambda: _terminal_number() != 0),
        "standard_input": lambda: os.read(0, 1) != b"",
    }


def _with_own_terminal(use):
    """Use the terminal that controls us, after having asked for one."""
    asked, other = _terminal()
    try:
        if os.isatty(asked):
            fcntl.ioctl(asked, _SCTTY, 0)
        return use()
    finally:
        os.close(asked)
        os.close(other)


def _terminal_number():
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(")")[2].split()[4])
