"""Plugins that copy files, and change their modes as they do."""

import errno
import os
import shutil
from pathlib import Path

from ringfence import passthrough


def _copy_as_the_library_of_cpp_does():
    """``std::filesystem::copy``: what it writes is nobody's to read until it is whole."""
    target = os.open("to", os.O_WRONLY | os.O_CREAT, 0o200)
    os.write(target, Path("from").read_bytes())
    os.fchmod(target, 0o100644)
    os.close(target)
    return _seen("to")


def _copy():
    Path("from").chmod(0o755)
    shutil.copy("from", "to-2")
    return _seen("to-2")


def _seen(name):
    return f"{Path(name).read_text()}, {oct(Path(name).stat().st_mode & 0o7777)}"


def _outcome(attempt):
    try:
        return attempt()
    except OSError as error:
        return errno.errorcode[error.errno]


class Copies:
    role = "gradient"
    forward = passthrough

    def backward(self, gradients):
        Path("from").write_text("copied")
        self.came_of_it = {
            "as the library of C++ does": _outcome(_copy_as_the_library_of_cpp_does),
            "shutil.copy": _outcome(_copy),
            "a file outside": _outcome(lambda: Path(__file__).chmod(0o644)),
            "set-uid": _outcome(lambda: Path("from").chmod(0o4700)),
            "its folder": _outcome(lambda: Path.cwd().chmod(0o755)),
        }

    def state_dict(self):
        return self.came_of_it

    def load_state_dict(self, state):
        self.came_of_it = state


class OnAndOn:
    """Changes a mode ``times`` times; before that and after it tries ``tried`` times what it may not."""

    role = "gradient"
    forward = passthrough

    def __init__(self, times: int, tried: int = 0):
        self.times = times
        self.tried = tried
        self.done = 0
        self.errors = []

    def backward(self, gradients):
        with open("file", "w") as file:  # noqa: PTH123 - as a plugin might
            self._try()
            for _ in range(self.times):
                self.done += _outcome(lambda: os.fchmod(file.fileno(), 0o600)) is None
            self._try()

    def _try(self):
        self.errors += [_outcome(lambda: os.setuid(os.getuid())) for _ in range(self.tried)]

    def state_dict(self):
        return {"done": self.done, "errors": self.errors}

    def load_state_dict(self, state):
        self.done, self.errors = state["done"], state["errors"]
