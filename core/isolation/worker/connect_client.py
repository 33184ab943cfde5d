"""The inside of ``ringfence.connect``: ask the host for a connection, be handed its socket.

A request names a grant by its number, never a host: what a plugin can ask for is
what the job lists, and nothing else has a spelling. Both sides' messages have a
fixed form; a reply may carry one descriptor.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from typing import NamedTuple

from ...hooks.permissions import Target, grant_line
from ..policy.confinement import Network
from ..transport.connect_messages import MAX_CONNECT_S, MAX_REASON_BYTES, REPLY, REQUEST

#: How much longer than the connection itself the answer may take: the resolver has its own patience.
_RESOLVER_S = 60.0


class ConnectClient:
    """Makes connections by way of the host; an ``Opener``.

    Args:
        network: What is granted.
        line: The worker's end of the pair that leads to the ``ConnectionBroker``; None if nothing is granted.
    """

    def __init__(self, network: Network, line: socket.socket | None) -> None:
        self._network = network
        self._line = line
        self._number = 0
        self._owed = False
        self._lock = threading.Lock()

    def __call__(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Return a connected socket; see ``ringfence.connect``."""
        index = self._index(host, port)
        if self._line is None:
            raise ConnectionError(f"the host of {host}:{port} cannot be asked: there is no line to it")
        timeout_s = min(timeout_s, MAX_CONNECT_S)
        with self._lock:
            self._line.settimeout(timeout_s + _RESOLVER_S)
            if self._owed:  # to a request that nobody waited for to the end; the host takes one at a time
                for fd in self._reply(self._line, f"{host}:{port}").fds:
                    os.close(fd)
            self._number += 1
            self._line.send(REQUEST.pack(self._number, index, int(timeout_s * 1000)))
            self._owed = True
            opened = self._reply(self._line, f"{host}:{port}").opened(f"{host}:{port}")
        opened.settimeout(timeout_s)
        return opened

    def _index(self, host: str, port: int) -> int:
        targets = self._network.targets
        wanted = Target(normal(host), port)
        if wanted in targets:
            return targets.index(wanted)
        line = grant_line("connect", [*map(str, targets), str(wanted)])
        raise PermissionError(
            f"the job does not grant plugin '{self._network.plugin}' a connection to {wanted}; "
            f"if it should have one, write '{line}' beside '{self._network.plugin}' in the job"
        )

    def _reply(self, line: socket.socket, shown: str) -> _Reply:
        data, fds, _, _ = socket.recv_fds(line, REPLY.size + MAX_REASON_BYTES, 1)
        if len(data) < REPLY.size:
            raise ConnectionError(f"the connection to {shown} cannot be made: the host makes none any more")
        self._owed = False
        _, code = REPLY.unpack_from(data)
        return _Reply(code, data[REPLY.size :].decode(errors="replace"), fds)


class _Reply(NamedTuple):
    """The host's reply, and the descriptors that came along."""

    code: int
    reason: str
    fds: list[int]

    def opened(self, shown: str) -> socket.socket:
        """Return the connection; raises why there is none."""
        if self.code or not self.fds:
            raise _error(self.code, f"{shown}: {self.reason}")
        opened = socket.socket(fileno=self.fds[0])
        opened.set_inheritable(False)
        return opened


def normal(host: str) -> str:
    """Return a name or address as ``Target`` spells it, as far as case and brackets go."""
    return host.lower().removesuffix(".").removeprefix("[").removesuffix("]")


def _error(code: int, text: str) -> OSError:
    if code == errno.ETIMEDOUT:
        return TimeoutError(text)
    # Python makes it a ConnectionRefusedError or the like.
    return OSError(code, text)
