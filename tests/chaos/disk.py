"""The disk that a run writes to: a small one of its own, which can be filled."""

import contextlib
import ctypes
import os

_CLONE_NEWNS = 0x00020000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
#: Room for a run's folder several times over.
_SIZE = 48 << 20
_PIECES = (1 << 20, 4096)
_LIBC = ctypes.CDLL(None, use_errno=True)


class Disk:
    """A folder for runs that can be filled up or, by a user who may mount nothing, locked.

    Args:
        folder: An empty folder. Who may, mounts a small file system of this process's own there, which
            no other process sees and which goes with the last process of the namespace.
        small: Whether it is to be filled.

    Attributes:
        is_small: Whether it is one of its own.
    """

    def __init__(self, folder, *, small):
        self.folder = folder
        self._filler = folder / "filler"
        self._locked = []
        self.is_small = small and self._mount()

    def fill(self, leave):
        """Leave no more than ``leave`` bytes, or lock the run's folders; False if neither is possible."""
        if not self.is_small:
            return self._lock()
        with self._filler.open("wb", buffering=0) as file:
            for piece in _PIECES:
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(piece))
            os.ftruncate(file.fileno(), max(file.tell() - leave, 0))
        return True

    def relieve(self):
        """Make room again."""
        self._filler.unlink(missing_ok=True)
        for path in self._locked:
            path.chmod(0o755)
        self._locked.clear()

    def _mount(self):
        try:
            _check(_LIBC.unshare(_CLONE_NEWNS))
            _mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None)
            _mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", 0, f"size={_SIZE}".encode())
        except PermissionError:
            return False
        return True

    def _lock(self):
        if os.geteuid() == 0:
            return False  # whom no mode keeps out
        for path in (*self.folder.glob("run-*/checkpoints"), *self.folder.glob("run-*")):
            path.chmod(0o555)
            self._locked.append(path)
        return True


def _mount(source, target, kind, flags, options):
    _check(_LIBC.mount(source, target, kind, ctypes.c_ulong(flags), options))


def _check(result):
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
