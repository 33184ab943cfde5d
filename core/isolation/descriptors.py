"""Descriptors that a worker sends along: nobody takes any, and what nobody takes is not to lie on the way.

In a message that has not been read yet they keep deleted files, which neither a folder nor a process shows.
"""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path

_SO_PASSRIGHTS = 83


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
    """What waits in a socket whose other end may send descriptors; may be asked for after it was closed."""

    def __init__(self, sock: socket.socket) -> None:
        self._fd = sock.fileno()
        self._inode = os.fstat(self._fd).st_ino

    def descriptors(self) -> int:
        """Return how many descriptors wait in messages that have not been received yet."""
        try:
            text = Path(f"/proc/self/fdinfo/{self._fd}").read_text()
        except FileNotFoundError:
            return 0
        fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        # Closed meanwhile, its number may be another's by now.
        is_ours = int(fields.get("ino", self._inode)) == self._inode
        return int(fields.get("scm_fds", 0)) if is_ours else 0
