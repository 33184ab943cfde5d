"""The process that workers are forked from.

It is a clean exec of Python: no file descriptor, environment variable or memory
of the trainer reaches it. It imports torch once and runs no operation of it, so
that a fork costs milliseconds, shares nearly all memory, and may still use
threads. It never runs a line of a plugin.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import signal
import socket
import sys

from ..transport.messages import (
    Fork,
    Forked,
    Reap,
    Reaped,
    Refused,
    StillEnding,
    receive_with_fds,
    send,
    to_zygote,
)
from . import serve as worker
from .layers import confine

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

#: Imported before the first fork, because plugins would import them anyway and
#: each would pay for it in time and memory.
PRELOAD = ("torch", "numpy", "numpy.random")
#: Imported before the first fork for an optimizer: the first step of one of torch's pulls in
#: torch._dynamo, a second, 70 MiB and nearly a thousand files that nobody else needs.
FOR_OPTIMIZERS = ("torch._dynamo", "torch.optim")


def main(*, eager: bool = False) -> None:
    """Serve the host that passed its socket as the first argument, until it closes.

    The host has made it the leader of a session, and it has asked to be ended with the host.

    Args:
        eager: Import at once what is otherwise imported for the first optimizer.
    """
    sock = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    load((*PRELOAD, *FOR_OPTIMIZERS) if eager else PRELOAD)
    confine.prepare()
    serve(sock)


def load(modules: tuple[str, ...]) -> None:
    """Import modules for all workers to share."""
    # Nearly all of what is imported stays: to look for garbage takes a fifth of the time, and finds a MiB.
    gc.disable()
    for module in modules:
        importlib.import_module(module)
    # Objects that the collector never visits again stay shared with every worker.
    gc.freeze()
    gc.enable()


def serve(sock: socket.socket) -> None:
    """Fork and reap workers as the host asks; what the kernel refuses is answered, not died of."""
    while True:
        try:
            message, fds = receive_with_fds(sock, to_zygote, 2)
        except (EOFError, ConnectionError):
            return
        match message:
            case Fork(for_optimizer):
                if for_optimizer:
                    load(FOR_OPTIMIZERS)
                _fork(sock, *fds)
            case Reap(pid):
                _reap(sock, pid)


def _reap(sock: socket.socket, pid: int) -> None:
    try:
        # Never waited for: one that hangs in the kernel would hold up, and so end, all others.
        collected, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError as error:
        send(sock, Refused(f"process {pid} is none of mine: {error.strerror}"))
    else:
        send(sock, Reaped(pid, os.waitstatus_to_exitcode(status)) if collected else StillEnding(pid))


def _fork(sock: socket.socket, worker_socket: int, log: int) -> None:
    parent = os.getpid()
    reply: Forked | Refused
    fds: tuple[int, ...]
    try:
        pid = os.fork()
    except OSError as error:
        reply, fds = _refuse(error), ()
    else:
        if pid == 0:
            sock.close()
            die_with_parent(parent)
            worker.main(socket.socket(fileno=worker_socket), log)
        reply, fds = _introduce(pid)
    try:
        send(sock, reply, fds)
    finally:
        for fd in (worker_socket, log, *fds):
            os.close(fd)


def _introduce(pid: int) -> tuple[Forked | Refused, tuple[int, ...]]:
    """Return what to tell of a new worker, with a descriptor to signal it by; without one it must not be."""
    # Nobody but this process reaps the worker, so the number cannot have been reused.
    try:
        return Forked(pid), (os.pidfd_open(pid),)
    except OSError as error:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        return _refuse(error), ()


def _refuse(error: OSError) -> Refused:
    return Refused(f"no process could be added: {error.strerror}")


def die_with_parent(parent: int) -> None:
    """Ask the kernel for SIGKILL when ``parent`` ends; exit if it has ended already.

    After that ``ps`` and ``top`` tell the process from the trainer.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)
    libc.prctl(_PR_SET_NAME, b"rf:plugin", 0, 0, 0)
