"""Foreign mappings: memory of a worker that is neither its own, nor a file's, nor given by the host.

Nothing that a worker may do makes any: sockets and other objects of the kernel have pages that no figure of
a process tells from those of a file, or from what the host shares. So they count as far as they are mapped.
"""

from __future__ import annotations

import contextlib

from ...policy.procfs import while_there
from ...transport.shared_memory import REGION_NAME
from .deleted_files import TooManyMappingsError, mappings

_REGION = f"/memfd:{REGION_NAME} (deleted)\n".encode()
#: What the kernel names like files of a file system: memory without one, shared or of devices.
_NAMED_LIKE_FILES = (b"/memfd:", b"/dev/zero", b"/SYSV", b"/dmabuf", b"/secretmem", b"/anon_hugepage", b"/[")
_FIELDS, _INODE, _NAME = 6, 4, 5


def foreign_bytes(pid: int) -> int:
    """Return how much memory of nobody's process ``pid`` has mapped, touched or not; 0 once it is gone.

    Of one that has more mapped than is looked through, and is ended for that, as much as was looked through.

    Raises:
        PermissionError: It is there, and does not let itself be looked at.
    """
    return while_there(pid, lambda: _foreign_bytes(pid))


def _foreign_bytes(pid: int) -> int:
    total = 0
    with contextlib.suppress(TooManyMappingsError):
        for line in mappings(pid):
            fields = line.split(maxsplit=_NAME)
            if fields[_INODE] != b"0" and not _is_known(fields[_NAME] if len(fields) == _FIELDS else b""):
                start, _, end = fields[0].partition(b"-")
                total += int(end, 16) - int(start, 16)
    return total


def _is_known(name: bytes) -> bool:
    """Tell whether it is a file of a file system, or a region of the host's."""
    return name == _REGION or (name.startswith(b"/") and not name.startswith(_NAMED_LIKE_FILES))
