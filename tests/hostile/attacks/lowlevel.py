"""Small things that attacks are made of."""

import ctypes
import os

from ringfence.isolation.policy import kernel


def opens(path, flags=os.O_RDONLY, dir_fd=None):
    """Open a file, and close it again: that it opens is all there is to prove."""
    os.close(os.open(path, flags, 0o600, dir_fd=dir_fd))
    return True


def makes(path):
    """Make a file that was not there, and take it away again."""
    opens(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.unlink(path)
    return True


def past(call, *errors):
    """Make a call so that it fails, harmlessly, but only after the kernel let us make it.

    Args:
        call: With arguments that no caller would get through.
        errors: What the kernel says of such arguments.
    """
    try:
        call()
    except OSError as error:
        if error.errno not in errors:
            raise
    return True


def by_name(name, *args):
    """Return an attempt to make one system call; what it opens stays open."""
    return lambda: kernel.syscall(name, *args) >= 0


def gets_fd(name, *args):
    """Return an attempt to make a system call that opens something."""

    def attempt():
        os.close(kernel.syscall(name, *args))
        return True

    return attempt


def text(value):
    """Return a buffer that a system call can be handed as a path or a name."""
    return ctypes.create_string_buffer(os.fsencode(value))
