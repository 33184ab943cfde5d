"""Turn what a job grants into what the kernel can be told, or say what is wrong with it."""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from ....hooks.permissions import GrantedPath, Target
from .addresses import CLOUD_KEYS, has_keys, is_one_host
from .protected_paths import why_reserved

MAX_GRANTS_PER_KIND = 32
#: All paths of one plugin together; they travel to its workers in one message.
MAX_PATH_CHARACTERS = 16_384
_MAX_HOST_CHARACTERS = 253
_MAX_PORT = 65_535

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_PORT = re.compile(r"[0-9]{1,5}")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class GrantError(ValueError):
    """A grant cannot be given; the message says why, and what would be right."""


def open_path(
    text: str, base: Path, *, write: bool, modules: Sequence[Path] = (), code: Sequence[Path] = ()
) -> GrantedPath:
    """Find the file or folder that a job grants, and check that it may be.

    It is opened first, and what was opened is then judged: no link that changes
    meanwhile leads elsewhere.

    Args:
        text: As in the job; ``~`` is the home folder.
        base: Folder that a relative path starts from.
        write: Whether the plugin may change it.
        modules: See ``why_reserved``.
        code: See ``why_reserved``.

    Raises:
        GrantError: It does not exist, is no file or folder, or may not be granted.
    """
    if not text.strip():
        raise GrantError("is empty; name a file or folder")
    try:
        place = base / Path(text).expanduser()
        handle = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        make = "; make it first, as a plugin cannot" if write else ""
        raise GrantError(f"'{text}' does not exist (looked for {place}){make}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise GrantError(f"'{text}' cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    try:
        found = os.fstat(handle)
        path = str(Path(f"/proc/self/fd/{handle}").readlink())
    finally:
        os.close(handle)
    _check_kind(text, path, found)
    shown = f"'{text}'" if text == path else f"'{text}' ({path})"
    why = why_reserved(Path(path), write=write, modules=modules, code=code)
    if why:
        raise GrantError(f"{shown} may be granted to no plugin{' for writing' if write else ''}: {why}")
    _check_reach(shown, Path(path), found, write=write)
    return GrantedPath(path, found.st_dev, found.st_ino, write)


def is_unchanged(grant: GrantedPath) -> bool:
    """Tell whether the path still leads to what was checked."""
    try:
        found = os.stat(grant.path, follow_symlinks=False)  # noqa: PTH116 - a Path adds nothing here
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (grant.device, grant.inode)


def parse_target(text: str) -> Target:
    """Read ``HOST:PORT``.

    Raises:
        GrantError: It names no host and port, or one that no plugin may reach.
    """
    if "://" in text or "/" in text:
        raise GrantError(f"'{text}' is a URL or a path; write HOST:PORT, like 'example.com:443'")
    if "*" in text:
        raise GrantError(f"'{text}' stands for many hosts; name each, like 'example.com:443'")
    host, colon, port = text.strip().lower().rpartition(":")
    if not colon or not host:
        raise GrantError(f"'{text}' is not HOST:PORT; write it like 'example.com:443'")
    if not (_PORT.fullmatch(port) and 1 <= int(port) <= _MAX_PORT):
        raise GrantError(f"'{text}' has no port from 1 to {_MAX_PORT}; write it like 'example.com:443'")
    return Target(_host(host, text), int(port))


def _host(host: str, text: str) -> str:
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        address = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        return _name(host, text)
    if (address.version == 6) != is_bracketed:  # noqa: PLR2004 - IPv6
        raise GrantError(
            f"'{text}' has an address of IPv{address.version}; only IPv6 stands in brackets: '[::1]:443'"
        )
    if has_keys(address):
        raise _keys(text)
    if not is_one_host(address):
        raise GrantError(f"'{text}' may be granted to no plugin: {address} is no address of one host")
    return str(address)


def _keys(text: str) -> GrantError:
    return GrantError(f"'{text}' may be granted to no plugin: cloud machines get their keys there")


def _name(host: str, text: str) -> str:
    name = host.removesuffix(".")
    if name in CLOUD_KEYS:
        raise _keys(text)
    labels = name.split(".")
    # The last part of a name is no number: '127.1' would be an address to the C library.
    if len(name) > _MAX_HOST_CHARACTERS or _NUMBER.fullmatch(labels[-1]):
        raise GrantError(f"'{text}' has no name of a host before the port; write it like 'example.com:443'")
    if not all(_LABEL.fullmatch(label) for label in labels):
        why = "" if name.isascii() else " (write a name with other letters as xn--…)"
        raise GrantError(
            f"'{text}' has no name of a host before the port{why}; write it like 'example.com:443'"
        )
    return name


def _check_kind(text: str, path: str, found: os.stat_result) -> None:
    if found.st_nlink == 0:
        raise GrantError(f"'{text}' has just been removed")
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
        raise GrantError(f"'{text}' is neither a file nor a folder; only those can be granted")
    if not path.startswith("/") or not path.isprintable():
        raise GrantError(f"'{text}' leads to {path!r}, which cannot be shown as text; rename it")


def _check_reach(shown: str, path: Path, found: os.stat_result, *, write: bool) -> None:
    """Refuse what a plugin could not use anyway: it runs as this user, without what only root may do."""
    for folder in reversed(path.parents):
        if not _may(folder, os.X_OK):
            raise GrantError(f"{shown} cannot be reached by a plugin: {folder} is closed to {_user()}")
    is_folder = stat.S_ISDIR(found.st_mode)
    wanted = (os.R_OK | os.X_OK if is_folder else 0) | (os.W_OK if write else os.R_OK)
    if not _may(path, wanted):
        raise GrantError(
            f"{shown} cannot be {'changed' if write else 'read'} by a plugin: its mode is "
            f"{stat.filemode(found.st_mode)} and its owner {found.st_uid}, and a plugin runs as {_user()}"
        )


def _may(path: Path, wanted: int) -> bool:
    if os.geteuid() != 0:
        return os.access(path, wanted, effective_ids=True)
    # What root may once it has given up its capabilities: what the mode says.
    found = path.stat()
    if found.st_uid == 0:
        bits = found.st_mode >> 6
    elif found.st_gid in {os.getegid(), *os.getgroups()}:
        bits = found.st_mode >> 3
    else:
        bits = found.st_mode
    return bits & wanted == wanted


def _user() -> str:
    return f"user {os.geteuid()} without special rights"
