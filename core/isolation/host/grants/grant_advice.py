"""Advice on a refusal: how a job would allow what a plugin tried, if it may, or what to do instead."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from ....hooks.connect import connect
from ....hooks.permissions import KINDS, Kind, Need, Permissions, covers, grant_line
from ...policy.syscalls import OPEN_A_CONNECTION, START_A_PROCESS, START_A_PROGRAM
from .protected_paths import why_reserved

#: What Python and the C library say of a system call that the filter refuses; no file is named.
_CANNOT_BE = re.compile(
    r"\[Errno (?:1\] Operation not permitted|13\] Permission denied)(?![:\w])"
    r"|Temporary failure in name resolution|Name or service not known|No address associated with hostname"
)
_NAMES_A_HOST = re.compile(r"name resolution|Name or service|with hostname")
_PROCESSES = (
    "; a plugin has one process, which starts no other and no program: compute in it, or in threads "
    "('threads: N' beside its name), with a library in place of a program, and num_workers=0 in a DataLoader"
)
_COMPILES = (
    "; torch.compile starts a compiler, and a plugin starts no program: leave it out, or pass "
    "backend='aot_eager', which compiles nothing"
)
_EVENTS = "; the loop of asyncio needs sockets, which no plugin can make: use threads"
_OFFLINE = (
    "; a plugin makes no connections. Get files before the run, and have the job grant them (read: [PATH]); "
    "to reach a host in the run, have the job grant it (connect: [HOST:PORT]) and call ringfence.connect"
)
_BY_OTHER_WAYS = (
    "; the grants of 'connect' hold for ringfence.connect(host, port) alone, which returns a connected "
    "socket: socket, urllib, requests and others make connections of their own, which no grant allows"
)
#: Where in a library a call was refused, to what to do instead; the first that fits.
_INSTEAD = (
    (re.compile(r"/torch/_inductor/|InductorError"), _COMPILES),
    (re.compile(r"/asyncio/"), _EVENTS),
    (re.compile(r"/multiprocessing/|/concurrent/futures/process\.py|/subprocess\.py"), _PROCESSES),
)
#: In a traceback of ``ringfence.connect``, which says itself what is wrong.
_GRANTED = f'"{connect.__code__.co_filename}"'
_MAKES_CONNECTIONS = re.compile(r"/socket\.py|/urllib/|/urllib3/|/http/client\.py")


def what_instead(cause: str, traceback: str, permissions: Permissions, tried: Collection[str] = ()) -> str:
    """Return the end of a message about what no plugin can do: why it cannot be, and what to do instead.

    Args:
        cause: What the plugin raised, as ``type: message``.
        traceback: Of it; the libraries in it tell what was wanted.
        permissions: What it is granted.
        tried: What it tried and was refused so far, for calls that no library makes.

    Returns:
        ``""`` if this is about something else.
    """
    refused = _CANNOT_BE.search(cause) or _CANNOT_BE.search(traceback)
    if refused is None or _GRANTED in traceback:
        return ""
    network = _BY_OTHER_WAYS if permissions.targets else _OFFLINE
    if _NAMES_A_HOST.search(refused[0]):
        return network
    for where, instead in _INSTEAD:
        if where.search(traceback):
            return instead
    if _MAKES_CONNECTIONS.search(traceback):
        return network
    kinds = {kind.partition(" (")[0] for kind in tried}
    if kinds & {START_A_PROCESS, START_A_PROGRAM}:
        return _PROCESSES
    return network if OPEN_A_CONNECTION in kinds else ""


def how_to_allow(refused: bytes, plugin: str, permissions: Permissions, code: tuple[str, ...] = ()) -> str:
    """Return the end of a message about a refused file: the line of the job that would allow it.

    The name is the plugin's and may be made up; what it leads to is judged as any
    grant is, so nothing is advised here that a job may not grant.

    Args:
        refused: The file; empty if none was.
        plugin: Its name.
        permissions: What it is granted now.
        code: Files and folders of its own code, which it need not be granted.

    Returns:
        ``""`` if this is about no file, or one that may not be granted.
    """
    path = Path(os.fsdecode(refused))
    if not path.is_absolute():
        return ""
    try:
        path = Path(os.path.realpath(path))
    except (ValueError, OSError):
        return ""
    kind: Kind = "read"
    if _is_readable(path, permissions, code):
        kind = "write"
    elif not os.path.exists(path):  # noqa: PTH110 - a Path raises where this user may not look
        # It was to be made: that takes the folder.
        kind, path = "write", path.parent
    exists = os.path.exists(path)  # noqa: PTH110
    if not exists or why_reserved(path, write=kind == "write", code=tuple(map(Path, code))):
        return ""
    line = grant_line(kind, [*permissions.granted()[kind], str(path)])
    return f"; the job does not grant '{plugin}' this file. If it should, write beside '{plugin}': {line}"


def _is_readable(path: Path, permissions: Permissions, code: tuple[str, ...]) -> bool:
    if any(path.is_relative_to(os.path.realpath(place)) for place in code):
        return True
    need = Need("read", str(path), "")
    granted = permissions.granted()
    return any(covers(kind, each, need) for kind in KINDS for each in granted[kind])
