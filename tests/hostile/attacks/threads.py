"""The same from another thread: layers bind threads, and new ones have to be bound too."""

import os
import socket
import threading

import machine
import seccompy
from files import CREDENTIALS, read


def forbidden(aim):
    """Do one thing of each kind, from a thread of Python's and from one within it."""
    attempts = {
        "read": lambda: read(os.path.join(aim.home, CREDENTIALS[0])),
        "list": lambda: os.listdir(aim.home),
        "write": lambda: os.close(os.open(os.path.join(aim.project, "data.bin"), os.O_WRONLY)),
        "signal": lambda: os.kill(aim.host_pid, 0),
        "socket": lambda: socket.socket().close(),
        "spawn": lambda: os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", ":"], {}), 0),
        "memory": lambda: os.close(os.memfd_create("thread")),
        "own_code": lambda: machine.in_memory("call")(_number("kill"), aim.host_pid, 0) == 0,
    }
    return {
        f"{name}_{depth}": lambda attempt=attempt, depth=depth: _inside(attempt, depth)
        for name, attempt in attempts.items()
        for depth in (1, 2)
    }


def _inside(attempt, depth):
    """Make an attempt in a thread, in a thread, …, and return or raise what came of it."""
    came = []

    def run():
        try:
            came.append((attempt() if depth == 1 else _inside(attempt, depth - 1), None))
        except OSError as error:
            came.append((None, error))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    ((got, error),) = came
    if error is not None:
        raise error
    return got


def _number(name):
    return seccompy.syscall_nr(name)
