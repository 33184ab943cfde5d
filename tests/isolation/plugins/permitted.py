"""A plugin that tries what it is told to, and logs for each attempt the error that it met; 0 if none."""

import ctypes
import errno
import os
import socket
import struct
from pathlib import Path

import ringfence
from ringfence import passthrough


def _write(path):
    Path(path).write_text("written by a plugin")


def _append(path):
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(" and more")


def _link_out(folder, target):
    Path(folder, "link").symlink_to(target)


def _talk(host, port):
    with ringfence.connect(host, port, timeout_s=5.0) as opened:
        opened.sendall(b"hello from inside")
        if opened.recv(100) != b"granted":
            raise OSError(errno.EPROTO, "another server answered")


def _on_socket(host, port, act):
    with ringfence.connect(host, port, timeout_s=5.0) as opened:
        opened.sendall(b"hello from inside")
        act(opened)


def _connect_anew(host, port, other):
    _on_socket(host, port, lambda opened: opened.connect((host, other)))


def _fast_open(host, port, other):
    _on_socket(host, port, lambda opened: opened.sendto(b"x", socket.MSG_FASTOPEN, (host, other)))


def _fast_open_message(host, port, other):
    _on_socket(host, port, lambda opened: opened.sendmsg([b"x"], [], socket.MSG_FASTOPEN, (host, other)))


def _listen(host, port):
    _on_socket(host, port, lambda opened: opened.listen())


def _option(host, port):
    _on_socket(host, port, lambda opened: opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20))


def _map_what_comes(host, port):
    # Not that of Python, whose buffer holds what lay there: the kernel reads it, as where to map how much.
    request, size = (ctypes.c_char * 64)(), ctypes.c_uint(64)

    def act(opened):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.getsockopt(opened.fileno(), socket.IPPROTO_TCP, 35, request, ctypes.byref(size)):
            raise OSError(ctypes.get_errno(), "not mapped")

    _on_socket(host, port, act)


def _usual_options(host, port):
    def act(opened):
        for level, option in (
            (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        ):
            opened.setsockopt(level, option, 1)
            if opened.getsockopt(level, option) != 1:
                raise OSError(errno.EINVAL, "not set")

    _on_socket(host, port, act)


def _interfaces(host, port):
    import fcntl

    siocgifconf = 0x8912
    request = struct.pack("iP", 0, 0)
    _on_socket(host, port, lambda opened: fcntl.ioctl(opened, siocgifconf, request))


def _big(path):
    with Path(path).open("wb") as file:
        file.seek(1 << 40)
        file.write(b"x")


TRIES = {
    "read": lambda path: Path(path).read_bytes(),
    "list": os.listdir,
    "write": _write,
    "append": _append,
    "make folder": os.mkdir,
    "remove": os.unlink,
    "rename": os.rename,
    "link out": _link_out,
    "hard link": os.link,
    "pipe": os.mkfifo,
    "mode": lambda path: Path(path).chmod(0o700),
    "big": _big,
    "talk": _talk,
    "connect anew": _connect_anew,
    "fast open": _fast_open,
    "fast open message": _fast_open_message,
    "listen": _listen,
    "option": _option,
    "usual options": _usual_options,
    "map what comes": _map_what_comes,
    "interfaces": _interfaces,
    "plain socket": lambda host, port: socket.create_connection((host, port), 5.0).close(),
}


def attempt(what, arguments):
    """Return the number of the error that an attempt meets."""
    try:
        TRIES[what](*arguments)
    except OSError as error:
        return error.errno or (errno.EACCES if isinstance(error, PermissionError) else errno.EIO)
    return 0


class Tries:
    role = "gradient"
    forward = passthrough

    def __init__(self, tries, at_start=()):
        self.tries = tries
        for what, *arguments in at_start:
            TRIES[what](*arguments)

    def backward(self, gradients, step):
        for number, (what, *arguments) in enumerate(self.tries):
            step.log(str(number), attempt(what, arguments))


class Raises(Tries):
    def backward(self, gradients, step):
        for what, *arguments in self.tries:
            TRIES[what](*arguments)


class Posts:
    """Posts something for every batch."""

    role = "augment"
    backward = passthrough

    def __init__(self, host, port):
        self.where = host, port

    def forward(self, batch):
        _talk(*self.where)
        return batch
