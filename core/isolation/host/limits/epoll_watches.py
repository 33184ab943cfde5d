"""Watches of epoll: kernel memory that no limit on a process counts, some 160 bytes for each pair.

An entry is a pair of a file and a number, so that a few open files make millions. The kernel's own
bound is by user: who reaches it leaves none to the user's other programs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...policy.procfs import while_there

#: Of one worker; a server with a thousand connections has as many.
MAX_WATCHES = 10_000
_EPOLL = "anon_inode:[eventpoll]"
_ENTRY = b"tfd:"


def watches(pid: int) -> int:
    """Return how much process ``pid`` has epoll watch, up to ``MAX_WATCHES`` and one more; 0 if it is gone.

    Raises:
        PermissionError: It is there, and does not let itself be looked at.
    """
    return while_there(pid, lambda: _count(pid))


def _count(pid: int) -> int:
    found = 0
    for name in _epolls(f"/proc/{pid}/fd"):
        try:
            with open(f"/proc/{pid}/fdinfo/{name}", "rb") as entries:  # noqa: PTH123 - called often
                for line in entries:
                    found += line.startswith(_ENTRY)
                    if found > MAX_WATCHES:
                        return found
        except FileNotFoundError:
            continue
    return found


def _epolls(folder: str) -> Iterator[str]:
    for name in os.listdir(folder):  # noqa: PTH208 - a Path adds nothing here
        try:
            if os.readlink(f"{folder}/{name}") == _EPOLL:  # noqa: PTH115 - called often
                yield name
        except FileNotFoundError:
            continue
