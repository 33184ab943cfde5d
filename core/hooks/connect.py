"""``ringfence.connect``: open a connection to a host that the job grants the plugin.

In a sandbox no process can make a connection. There the host makes it, and only
to what the job grants; the plugin is handed the connected socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

DEFAULT_TIMEOUT_S = 10.0

#: Host, port and seconds to a connected socket.
Opener = Callable[[str, int, float], socket.socket]


class _Route:
    """Where connections of this process come from; None makes them here."""

    opener: Opener | None = None


def connect(host: str, port: int, *, timeout_s: float = DEFAULT_TIMEOUT_S) -> socket.socket:
    """Connect to a host that the job grants, and return the socket, a TCP one.

    In a sandbox, ``host`` and ``port`` must be as the job grants them
    (``connect: [HOST:PORT]`` beside the plugin's name). A trusted plugin connects to
    whatever it likes, as any code of the trainer may.

    Args:
        host: Name or address.
        port: 1 to 65535.
        timeout_s: Seconds for the connection, and then the socket's own timeout; > 0.

    Raises:
        ValueError: ``timeout_s`` is not above 0.
        PermissionError: The job does not grant it.
        TimeoutError: There was no answer in time.
        OSError: The host has no address, or refused.
    """
    if not timeout_s > 0:
        raise ValueError(f"timeout_s is {timeout_s!r}; it must be above 0")
    opener = _Route.opener
    if opener is None:
        return socket.create_connection((host, port), timeout_s)
    return opener(host, port, timeout_s)


def route_through(opener: Opener) -> None:
    """Have every connection of this process come from ``opener``; called once, inside a sandbox."""
    _Route.opener = opener
