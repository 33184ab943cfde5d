"""Send more than anybody wants: output, replies, file descriptors."""

import os
import socket
import threading
import time

import inside

MIB = 1 << 20
AMOUNT = 48 * MIB
_LINE = b"x" * 999 + b"\n"
#: In one message the kernel takes 253.
_FDS = 200


def _flood(fd, piece, amount=AMOUNT):
    piece *= max(MIB // len(piece), 1)
    sent = 0
    while sent < amount:
        sent += os.write(fd, piece)


def lines(aim, gradients, step):
    _flood(1, _LINE)


def errors(aim, gradients, step):
    _flood(2, _LINE)


def one_line(aim, gradients, step):
    _flood(1, b"x")


def bytes_of_any_kind(aim, gradients, step):
    _flood(1, bytes(range(256)) + b"\x1b[2J\xff\xfe\x9b")


def one_gibibyte(aim, gradients, step):
    _flood(1, _LINE, 1 << 30)


def and_leave(aim, gradients, step):
    _flood(1, b"\x1b[2J\x00\xff\r", 4 * MIB)
    os._exit(3)


def in_the_background(aim, gradients, step):
    threading.Thread(target=_flood, args=(1, _LINE, 1 << 40), daemon=True).start()


def replies(aim, gradients, step):
    """Answer the same request until the host's queue is full."""
    from ringfence.isolation.transport.messages import Done, encoder

    sock = inside.worker()._sock
    reply = encoder.encode(Done(inside.call().seq, "none", 0.0, 0.0, {"a" * 200: 1.0}, None))
    try:
        while True:
            sock.send(reply, socket.MSG_DONTWAIT)
    except BlockingIOError:
        time.sleep(60)


def descriptors_without_a_message(aim, gradients, step):
    sock, fds = inside.worker()._sock, _descriptors()
    try:
        while True:
            socket.send_fds(sock, [b"\xc1"], fds, socket.MSG_DONTWAIT)
    except PermissionError:
        # From Linux 6.16 on the host takes none, and the kernel says so.
        sock.send(b"\xc1")
    except OSError:
        pass
    time.sleep(60)


def descriptors(aim, gradients, step):
    """Send as many as there may be along with every reply from now on."""
    try:
        worker = inside.worker()
    except LookupError:
        return  # no sandbox: what it is tried on there asks for them by itself
    sock, fds = worker._sock, _descriptors()

    def send(data):
        try:
            socket.send_fds(sock, [data], fds)
        except PermissionError:
            sock.send(data)

    worker._send_bytes = send


def _descriptors():
    return [os.open(".", os.O_RDONLY) for _ in range(_FDS)]


def send_all(sock):
    """Send to one that takes descriptors, ten times."""
    fds = _descriptors()
    for _ in range(10):
        socket.send_fds(sock, [b"x"], fds)
