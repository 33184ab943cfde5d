"""Plugins that try what they may not, and one that cannot do without."""

import contextlib
import os
import socket
import subprocess
from pathlib import Path

from ringfence import passthrough

TIMES = 3


def attempts():
    """Return what to try, in the order in which it is told."""
    return (
        lambda: subprocess.run(["/bin/true"], check=False),
        lambda: socket.create_connection(("127.0.0.1", 9)),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.setuid(os.getuid()),
    )


def errors():
    """Try everything and return the numbers of the errors."""
    found = []
    for attempt in attempts():
        try:
            attempt()
        except OSError as error:
            found.append(error.errno)
    return found


class OnImport:
    """Tries while it is constructed, as a module may when it is imported."""

    role = "gradient"
    forward = passthrough

    def __init__(self, fail: bool = False):
        self.errors = errors()
        if fail:
            raise ValueError("nothing to be had")

    def backward(self, gradients):
        return None

    def state_dict(self):
        return {"errors": self.errors}

    def load_state_dict(self, state):
        self.errors = state["errors"]


class InHook:
    """Tries ``times`` times in each call."""

    role = "gradient"
    forward = passthrough

    def __init__(self, times: int = 1):
        self.times = times
        self.errors = []

    def backward(self, gradients):
        self.errors = []
        for _ in range(self.times):
            try:
                os.setuid(os.getuid())
            except OSError as error:
                self.errors.append(error.errno)

    def state_dict(self):
        return {"errors": self.errors}

    def load_state_dict(self, state):
        self.errors = state["errors"]


class Quiet:
    """Tries what libraries do, and does without."""

    role = "gradient"
    forward = passthrough

    def backward(self, gradients):
        import pwd
        import shutil
        import tempfile

        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        Path("from").write_text("x")
        for attempt in (
            lambda: shutil.copy2("from", "to"),
            lambda: os.sched_setaffinity(0, [0]),
            lambda: os.memfd_create("buffer"),
            socket.socketpair,
            lambda: pwd.getpwuid(12345),
        ):
            with contextlib.suppress(OSError, KeyError):
                attempt()
