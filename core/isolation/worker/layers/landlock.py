"""Files, TCP, signals and abstract sockets, by Landlock.

What Landlock cannot guard at any version (who may read a file, UDP, sockets with
a path), seccomp does. It cannot hide that a file exists: a plugin may still ask
for the size and times of a path that it knows.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterable

import landlockpy
from landlockpy import AccessFS, Ruleset, Scope

from ....hooks.permissions import GrantedPath
from ...policy.layer_status import LayerError, LayerStatus, active
from ...policy.system_paths import PINNED, SYSTEM

_READ = AccessFS.READ_FILE | AccessFS.READ_DIR
# No links, sockets or devices: what a plugin leaves behind must be safe to list and remove.
_SCRATCH = (
    _READ
    | AccessFS.WRITE_FILE
    | AccessFS.TRUNCATE
    | AccessFS.MAKE_REG
    | AccessFS.MAKE_DIR
    | AccessFS.REMOVE_FILE
    | AccessFS.REMOVE_DIR
)
_OF_A_FILE = AccessFS.READ_FILE | AccessFS.WRITE_FILE | AccessFS.TRUNCATE


#: (first ABI that has it, what it holds, what takes its place before)
_ABILITIES = (
    (1, "files", ""),
    (3, "truncation", "seccomp"),
    (4, "TCP", "seccomp"),
    (6, "signals and abstract sockets", "seccomp"),
)


def apply(readable: Iterable[str], scratch: str, grants: Iterable[GrantedPath] = ()) -> LayerStatus:
    """Confine this thread, and all that it starts, to reading ``readable`` and writing ``scratch``.

    Args:
        readable: Files and folders; what does not exist, or could not be reached anyway, is skipped.
        scratch: The only folder where files may be made, unless ``grants`` has others.
        grants: What the job grants besides; each must be what it was when it was checked.

    Raises:
        LayerError: The kernel has no Landlock, it is not switched on, or a grant is no longer what it was.
        OSError: The kernel refused a rule, or there is no ``scratch``.
    """
    abi = landlockpy.abi_version()
    if abi == 0:
        raise LayerError(
            "landlock",
            "this kernel has no Landlock (Linux 5.13 or newer, with 'landlock' in the boot option lsm=)",
            "unavailable",
        )
    with Ruleset(scoped=Scope.SIGNAL | Scope.ABSTRACT_UNIX_SOCKET) as rules:
        rules.allow_path(scratch, _SCRATCH)
        _allow(rules, "/dev/null", _OF_A_FILE)
        for path in (*SYSTEM, *PINNED, *readable):
            _allow(rules, path, _READ)
        for grant in grants:
            _grant(rules, grant)
        for path in pins():
            os.open(path, os.O_PATH | os.O_CLOEXEC)
        rules.restrict()
    return _describe(abi)


def pins() -> list[str]:
    """Return the names that ``apply`` holds open."""
    return [path for path in PINNED if os.path.exists(path)]  # noqa: PTH110 - a Path adds nothing here


def is_pin(fd: int) -> bool:
    """Return whether ``fd`` is one of the names that ``apply`` holds open; it gives no access."""
    if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH:
        return False
    found = os.fstat(fd)
    return any(os.path.samestat(found, os.stat(path)) for path in pins())  # noqa: PTH116


def _allow(rules: Ruleset, path: str, access: AccessFS) -> None:
    # The kernel refuses a folder's right on a file, and with it the whole ruleset.
    wanted = access if os.path.isdir(path) else access & _OF_A_FILE  # noqa: PTH112 - a Path adds nothing here
    try:
        rules.allow_path(path, wanted)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return


def _grant(rules: Ruleset, grant: GrantedPath) -> None:
    """Allow the very file or folder that was checked: what is opened here is compared, then ruled on."""
    try:
        handle = os.open(grant.path, os.O_PATH | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise LayerError(
            "landlock", f"{grant.path}, which the job grants, is gone: {error.strerror}"
        ) from error
    try:
        found = os.fstat(handle)
        if (found.st_dev, found.st_ino) != (grant.device, grant.inode):
            raise LayerError("landlock", f"{grant.path} is no longer what the job granted: it was replaced")
        access = _SCRATCH if grant.write else _READ
        rules.allow_path(
            f"/proc/self/fd/{handle}", access if stat.S_ISDIR(found.st_mode) else access & _OF_A_FILE
        )
    finally:
        os.close(handle)


def _describe(abi: int) -> LayerStatus:
    held = ", ".join(what for first, what, _ in _ABILITIES if abi >= first)
    missing = [f"{what} by {instead} alone" for first, what, instead in _ABILITIES if abi < first]
    if not missing:
        return active("landlock", f"ABI {abi}: {held}")
    return LayerStatus(
        "landlock",
        "degraded",
        f"ABI {abi}: {held}",
        consequence=f"guarded {'; '.join(missing)} on this kernel",
    )
