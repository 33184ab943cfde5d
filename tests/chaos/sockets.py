"""Tamper with messages between processes that are under way, by copies of the ends of their sockets.

What is done can be told by whoever gets it: bytes that are no message, a message cut short, one that never
comes, one that comes twice. A message that is changed into another good one is none of these: what a plugin
itself answers is its own affair, and nobody else writes to these sockets.
"""

import contextlib
import ctypes
import errno
import os
import re
import socket
import time
from pathlib import Path

_PIDFD_GETFD = 438
_SOCKET = re.compile(r"socket:\[(\d+)\]")
#: How long a message to tamper with is waited for, before the run is looked at again.
_PATIENCE_S = 0.05
_BETWEEN_LOOKS_S = 0.0001
_LARGEST = 1 << 17
#: More than the host's buffer for a message holds.
_OVERSIZED = 100_000
_LIBC = ctypes.CDLL(None, use_errno=True)


class CannotTamperError(Exception):
    """There is nothing to tamper with, or no right to."""


def tamper(kind, host, other, chance, *, to_host):
    """Tamper with what passes between a trainer and a process of its own.

    Args:
        kind: ``garbage``, ``oversized``, ``truncate``, ``drop`` or ``double``.
        host: The trainer.
        other: A worker, or the zygote.
        chance: Random numbers.
        to_host: Whether with what the trainer is sent, or with what it sends.

    Raises:
        CannotTamperError: There is no such pair of sockets, or no message came.
    """
    with contextlib.ExitStack() as stack:
        theirs, ours = _pair(host, other, stack)
        sender, receiver = (theirs, ours) if to_host else (ours, theirs)
        if kind == "garbage":
            _send(sender, chance.randbytes(chance.randrange(1, 300)))
        elif kind == "oversized":
            _send(sender, bytes(_OVERSIZED))
        else:
            data = _take(receiver)
            for piece in _CHANGES[kind](data):
                _send(sender, piece)


_CHANGES = {
    "drop": lambda data: (),
    "truncate": lambda data: (data[: max(len(data) // 2, 1)],),
    "double": lambda data: (data, data),
}


def _pair(host, other, stack):
    """Return copies of both ends of the socket between two processes."""
    for inode, theirs in _sockets(other, stack).items():
        ours = _sockets(host, stack)
        # The two ends of a pair are made one after the other, and numbered so.
        for neighbour in (inode - 1, inode + 1):
            if neighbour in ours:
                return theirs, ours[neighbour]
    raise CannotTamperError("no pair of sockets")


def _sockets(pid, stack):
    """Return inode to a copy of each of a process's sockets of the kind that messages pass through."""
    found = {}
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise CannotTamperError("the process has ended") from error
    stack.callback(os.close, pidfd)
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            inode = _SOCKET.fullmatch(str(path.readlink()))
            if inode is not None and (end := _copy(pidfd, int(path.name))) is not None:
                stack.callback(end.close)
                if end.type == socket.SOCK_SEQPACKET:
                    found[int(inode[1])] = end
    return found


def _copy(pidfd, number):
    """Return a copy of another process's socket, None if it was closed by now."""
    copied = _LIBC.syscall(_PIDFD_GETFD, pidfd, number, 0)
    if copied < 0:
        if ctypes.get_errno() == errno.EPERM:
            raise CannotTamperError("no right to copy a descriptor")
        return None
    return socket.socket(fileno=copied)


def _send(end, data):
    try:
        end.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    except OSError as error:
        raise CannotTamperError(str(error)) from error


def _take(end):
    """Take the next message before the process that it is for does."""
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(BlockingIOError):
            data = end.recv(_LARGEST, socket.MSG_DONTWAIT)
            if not data:
                raise CannotTamperError("the other end is closed")
            return data
        time.sleep(_BETWEEN_LOOKS_S)
    raise CannotTamperError("no message came")
