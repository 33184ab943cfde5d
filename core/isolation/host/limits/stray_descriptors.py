"""Stray descriptors that a worker sends along: nobody takes any, and none is to lie on the way.

In a message that has not been read yet they keep deleted files, which neither a folder nor a process shows.
"""

from __future__ import annotations

import errno
import os
import re
import socket

_SO_PASSRIGHTS = 83
_FIELDS = re.compile(rb"^(ino|scm_fds):\s*(\d+)$", re.MULTILINE)
#: What the kernel tells of a socket is some 80.
_INFO_BYTES = 4096


def refuse_descriptors(sock: socket.socket) -> bool:
    """Take no descriptors from the other end from now on; to send one is an error there.

    Returns:
        Whether the kernel sees to it. Before Linux 6.16 it cannot, and somebody has to look: see ``Queue``.
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_PASSRIGHTS, 0)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return False
    return True


class Queue:
    """The queue of a socket whose other end may send descriptors; may be asked for after it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self._inode = os.fstat(self._fd).st_ino

    def descriptors(self) -> int:
        """Return how many descriptors wait in messages that have not been received yet."""
        try:
            fields = dict(_FIELDS.findall(_read(f"/proc/self/fdinfo/{self._fd}")))
        except FileNotFoundError:
            return 0
        # Closed meanwhile, its number may be another's by now.
        is_ours = int(fields.get(b"ino", self._inode)) == self._inode
        return int(fields.get(b"scm_fds", 0)) if is_ours else 0


def _read(path: str) -> bytes:
    # Asked for 200 times a second and worker where files are memory: by a Path it would cost twice as much.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _INFO_BYTES)
    finally:
        os.close(descriptor)
