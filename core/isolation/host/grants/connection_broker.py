"""The broker of connections: makes those that a job grants a plugin, and hands them to its workers.

A worker has no network and may make no socket. It sends the number of a grant
over a pair of its own; a thread of the host looks the name up, connects, and
sends the connected socket back. From then on the plugin reads and writes it
itself. Nothing that a plugin sends is a name, an address or a port.
"""

from __future__ import annotations

import errno
import fcntl
import ipaddress
import os
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ....hooks.permissions import Target
from ...transport.connect_messages import MAX_CONNECT_S, MAX_REASON_BYTES, REPLY, REQUEST
from ..limits.stray_descriptors import Queue, refuse_descriptors
from .addresses import Address, forms, has_keys, is_loopback, is_one_host, is_ours, is_private, spellings

#: Connections that one plugin may have open at a time, all its workers together; one that was closed before
#: all was sent counts too, as the kernel keeps the rest for minutes.
MAX_OPEN = 16
#: Of a connection, each way. The kernel keeps what is under way, and no budget of a process counts it.
BUFFER_BYTES = 256 * 1024
#: Connections that one plugin may ask for at once, and then each second: each costs the trainer a
#: moment and the machine a port, which stays taken for a minute.
BURST = 32
RATE_PER_S = 20.0
_MAX_ADDRESSES_PER_NAME = 4
#: Replies that a worker may leave unread, in bytes as the kernel counts them.
_MAX_UNREAD_BYTES = 16 * 1024
_END_S = 1.0

#: ``socket.getaddrinfo``, or what stands in for it.
Resolve = Callable[[str, int], Sequence[tuple[Any, Any, Any, Any, Any]]]


def resolve(host: str, port: int) -> Sequence[tuple[Any, Any, Any, Any, Any]]:
    """Return the addresses of a host, by this machine's resolver."""
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)


class _ClosedError(Exception):
    """The broker was closed while it waited."""


class _ImpatientError(Exception):
    """A worker has asked again before it was answered."""


class ConnectionBroker:
    """One plugin's way to the hosts that it is granted; one thread, until closed.

    Args:
        plugin: Name of the plugin.
        targets: What is granted.
        workers: How many processes it has.
        look_up: Finds the addresses of a name.

    Attributes:
        ends: The workers' ends, one each; to be handed over, then closed.
        queues: What workers send their requests to, where the kernel cannot keep descriptors out of it.
    """

    def __init__(
        self, plugin: str, targets: Sequence[Target], workers: int, look_up: Resolve = resolve
    ) -> None:
        self._targets = tuple(targets)
        self._look_up = look_up
        #: Of connections that may still be there, as the kernel's tables spell them.
        self._ends: list[tuple[str, str]] = []
        self._credit = float(BURST)
        self._credited_at = time.monotonic()
        self.ends: list[socket.socket] = []
        self.queues: list[Queue] = []
        self._lines: dict[int, socket.socket] = {}
        self._closing, self._closed = socket.socketpair()
        #: The line of the worker that waits for an answer.
        self._asking = self._closed
        try:
            for _ in range(workers):
                self._add_line()
        except BaseException:
            for each in (*self.ends, *self._lines.values(), self._closing, self._closed):
                each.close()
            raise
        self._thread = threading.Thread(target=self._run, name=f"ringfence-broker-{plugin}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; safe to call twice.

        A resolver that does not answer holds it up for a second at most: the thread then
        ends by itself once the resolver does.
        """
        for end in self.ends:
            end.close()
        self._closing.close()
        self._thread.join(_END_S)

    # the thread

    def _add_line(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        if not refuse_descriptors(ours):
            self.queues.append(Queue(ours))
        self.ends.append(theirs)
        self._lines[ours.fileno()] = ours

    def _run(self) -> None:
        try:
            poll = select.poll()
            for fd in (self._closed.fileno(), *self._lines):
                poll.register(fd, select.POLLIN)
            while True:
                for fd, _ in poll.poll():
                    if fd == self._closed.fileno():
                        return
                    if not self._serve(self._lines[fd]):
                        poll.unregister(fd)
                        self._lines.pop(fd).close()
        except _ClosedError:
            return
        finally:
            for each in (*self._lines.values(), self._closed):
                each.close()

    def _serve(self, line: socket.socket) -> bool:
        """Answer one request; tell whether the worker kept to the form, and may go on."""
        try:
            # recv, not recvmsg: the kernel drops what descriptors a plugin may send along.
            data = line.recv(REQUEST.size + 1)
            if len(data) != REQUEST.size or _unread_bytes(line) > _MAX_UNREAD_BYTES:
                return False
            number, index, milliseconds = REQUEST.unpack(data)
            if index >= len(self._targets):
                return False
            self._asking = line
            self._answer(line, number, self._targets[index], milliseconds / 1000)
        except (OSError, _ImpatientError):
            # It is gone, does not read what it asked for, or fills the line while it is to wait.
            return False
        return True

    def _answer(self, line: socket.socket, number: int, target: Target, timeout_s: float) -> None:
        self._take_turn()
        try:
            opened = self._connect(target, min(timeout_s, MAX_CONNECT_S))
        except OSError as error:
            self._pause(0.0)
            code, reason = _reason_of(error)
            line.send(REPLY.pack(number, code) + reason.encode()[:MAX_REASON_BYTES])
            return
        with opened:
            self._pause(0.0)
            socket.send_fds(line, [REPLY.pack(number, 0)], [opened.fileno()])
            self._ends.append((_spelt(opened.getsockname()), _spelt(opened.getpeername())))

    def _take_turn(self) -> None:
        """Wait until the plugin may have another connection."""
        now = time.monotonic()
        self._credit = min(BURST, self._credit + (now - self._credited_at) * RATE_PER_S)
        self._credited_at = now
        self._credit -= 1
        if self._credit < 0:
            self._pause(-self._credit / RATE_PER_S)

    def _connect(self, target: Target, timeout_s: float) -> socket.socket:
        if self._count_open() >= MAX_OPEN:
            raise OSError(errno.EMFILE, f"{MAX_OPEN} connections are open; a plugin may have no more")
        deadline = time.monotonic() + timeout_s
        failed: OSError = OSError(errno.EHOSTUNREACH, "the name has no address")
        for family, kind, protocol, _, address in self._look_up(target.host, target.port)[
            :_MAX_ADDRESSES_PER_NAME
        ]:
            try:
                return self._reach(socket.socket(family, kind, protocol), address, target, deadline)
            except OSError as error:
                failed = error
        raise failed

    def _reach(self, opened: socket.socket, address: Any, target: Target, deadline: float) -> socket.socket:
        """Return ``opened``, connected to where ``target`` may lead; it is closed if that fails."""
        try:
            self._check(str(address[0]), target)
            self._connect_to(opened, address, deadline)
            # Both ends: an address may have become this machine's meanwhile.
            self._check(str(opened.getpeername()[0]), target)
        except BaseException:
            opened.close()
            raise
        return opened

    def _check(self, address: str, target: Target) -> None:
        why = why_not(address, target, self._targets)
        if why:
            raise OSError(errno.EACCES, why)

    def _connect_to(self, opened: socket.socket, address: Any, deadline: float) -> None:
        opened.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            opened.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        # Libraries for HTTP would set it.
        opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = opened.connect_ex(address)
        if code == errno.EINPROGRESS:
            self._wait(opened, deadline)
            code = opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))

    def _wait(self, opened: socket.socket, deadline: float) -> None:
        if not self._pause(max(deadline - time.monotonic(), 0.0), opened):
            raise OSError(errno.ETIMEDOUT, "no answer in time")

    def _pause(self, seconds: float, opened: socket.socket | None = None) -> bool:
        """Wait, at most until ``opened`` is connected or not to be; returns whether it is.

        Raises:
            _ClosedError: Nobody waits for an answer any more.
            _ImpatientError: Whoever does has sent something else, or is gone.
        """
        poll = select.poll()
        for fd in (self._closed, self._asking):
            poll.register(fd, select.POLLIN)
        if opened is not None:
            poll.register(opened, select.POLLOUT)
        ready = dict(poll.poll(seconds * 1000))
        if self._closed.fileno() in ready:
            raise _ClosedError
        if self._asking.fileno() in ready:
            raise _ImpatientError
        return bool(ready)

    def _count_open(self) -> int:
        """Return how many connections the plugin has not closed, or the kernel still has to send for it."""
        if len(self._ends) >= MAX_OPEN:  # looked up only where it matters
            there = _connections()
            self._ends = [ends for ends in self._ends if ends in there]
        return len(self._ends)


def why_not(address: str, target: Target, targets: Sequence[Target] = ()) -> str:
    """Return why a connection to ``target`` may not go to ``address``, or ``""``.

    Whoever owns a name decides what it stands for, and may do so anew at any time. Unless the
    job grants the address itself, none leads back to this machine or to what only it can reach.

    Args:
        address: What the name stands for now.
        target: What is asked for.
        targets: All that is granted.

    Raises:
        OSError: The kernel does not say whether it is this machine's.
    """
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return f"{address} is no address"
    if has_keys(found) or not is_one_host(found):
        return f"the name stands for {found}, which no name may stand for here"
    if is_granted(found, target, targets):
        return ""
    if _is_localhost(target.host):
        return "" if is_loopback(found) else f"the name stands for {found}, which is not this machine"
    what = _what(found)
    if not what:
        return ""
    return (
        f"the name stands for {found}, {what}; if it should, grant the address itself: "
        f"'{Target(str(found), target.port)}'"
    )


def is_granted(address: Address, target: Target, targets: Sequence[Target]) -> bool:
    """Tell whether the job grants an address as it stands, on the port of ``target``."""
    spelt = [str(each) for each in spellings(address)]
    return any(each.port == target.port and each.host in spelt for each in (target, *targets))


def _is_localhost(host: str) -> bool:
    return host == "localhost" or host.endswith(".localhost")


def _what(address: Address) -> str:
    """Return what an address is if it is not a host of the world's, in words."""
    if is_loopback(address) or any(map(is_ours, forms(address))):
        return "this machine"
    return "an address of a private network" if is_private(address) else ""


def _reason_of(error: OSError) -> tuple[int, str]:
    if isinstance(error, socket.gaierror):
        return errno.EHOSTUNREACH, f"the name cannot be looked up: {error.strerror}"
    return error.errno or errno.EIO, error.strerror or str(error)


def _unread_bytes(line: socket.socket) -> int:
    """Return how much of what was sent to the other end waits there."""
    return int.from_bytes(fcntl.ioctl(line, termios.TIOCOUTQ, bytes(4)), "little")


def _spelt(address: Any) -> str:
    """Spell an address and port as the kernel's tables do: words of the machine's order, in hexadecimal."""
    packed = ipaddress.ip_address(address[0].partition("%")[0]).packed
    words = struct.unpack(f"={len(packed) // 4}I", packed)
    return "".join(f"{word:08X}" for word in words) + f":{address[1]:04X}"


def _connections() -> set[tuple[str, str]]:
    """Return both ends of each TCP connection that some process has open, or that has data to send."""
    found = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/self/net", table)
        lines = path.read_text().splitlines()[1:] if path.exists() else ()
        for _, ours, theirs, _, queued, *_, inode in (line.split()[:10] for line in lines):
            # Its end is told by a byte more.
            if inode != "0" or int(queued.partition(":")[0], 16) > 1:
                found.add((ours, theirs))
    return found
