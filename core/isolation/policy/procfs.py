"""Read ``/proc``: memory, threads, mounts and network of a process."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_OWN = ("RssAnon:", "VmSwap:", "VmPTE:", "HugetlbPages:")
_PROC = Path("/proc")
_PF_EXITING = 0x4
#: The bit of SIGKILL among signals that wait.
_KILLED = 1 << 8


@dataclass(frozen=True, slots=True)
class Usage:
    """The memory and threads of a process at one moment.

    Attributes:
        own_bytes: As for ``used_bytes``; None when its main thread has ended.
        threads: All of its threads, one that has ended and was not collected included.
        held_bytes: What RLIMIT_DATA counts: private memory that may be written, touched or not.
        file_bytes: Pages of files that it maps, and of whatever the kernel calls one.
    """

    own_bytes: int | None
    threads: int
    held_bytes: int = 0
    file_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Mount:
    """A file system where it is mounted.

    Attributes:
        place: Where.
        kind: Its type, for example ``tmpfs``.
        device: Major and minor number, for example ``0:25``.
        root: Which folder of it is mounted there.
        options: Its own options, joined by commas.
    """

    place: Path
    kind: str
    device: str
    root: str
    options: str


def usage(pid: int) -> Usage | None:
    """Return what process ``pid`` uses; None when it is gone.

    Its name, which it chooses, comes first in the file and without a line end.
    """
    try:
        lines = (_PROC / str(pid) / "status").read_bytes().split(b"\n")[1:]
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(b":", 1) for line in lines if b":" in line)
    own = [_first_number(fields[key]) for name in _OWN if (key := name[:-1].encode()) in fields]
    has_memory = b"RssAnon" in fields  # a zombie has none left
    held, files = (_first_number(fields.get(name, b"")) * 1024 for name in (b"VmData", b"RssFile"))
    threads = _first_number(fields.get(b"Threads", b""))
    return Usage(sum(own) * 1024 if has_memory else None, threads, held, files)


def used_bytes(pid: int) -> int | None:
    """Return the memory that process ``pid`` has to itself, in bytes; None when it is gone.

    Private anonymous pages, in memory or swapped out, huge ones included, and the page tables that
    map them (a process can grow those without owning a page). Pages inherited over fork
    count while they are mapped, written to or not: the host knows what the zygote
    started them with. Pages of files and shared memory (RssFile, RssShmem) do not count here: they are
    everybody's, or the host's, who keeps the books on that. What else they may be counts by ``foreign``.
    """
    now = usage(pid)
    return None if now is None else now.own_bytes


def held_bytes(pid: int) -> int:
    """Return what RLIMIT_DATA counts of process ``pid``; 0 when it is gone."""
    now = usage(pid)
    return 0 if now is None else now.held_bytes


def has_released_memory(pid: int) -> bool:
    """Tell whether process ``pid`` is gone, or has given its memory back because its main thread has ended.

    From then on its files of ``/proc`` belong to root, and an ordinary user is told that it may not look.
    """
    now = usage(pid)
    return now is None or now.own_bytes is None


def while_there(pid: int, count: Callable[[], int]) -> int:
    """Return what ``count`` finds in the ``/proc`` of process ``pid``; 0 once it is gone.

    Raises:
        PermissionError: It is there, and does not let itself be looked at.
    """
    try:
        return count()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:
        if has_released_memory(pid):
            return 0
        raise


def threads_go_on(pid: int) -> bool:
    """Tell whether a thread of ``pid`` runs and is not about to end; False when it is gone.

    For a process whose main thread has ended: the others may be on their way out too.
    """
    try:
        threads = list((_PROC / str(pid) / "task").iterdir())
    except (FileNotFoundError, ProcessLookupError):
        return False
    for thread in threads:
        try:
            # State, flags and signals that wait are fields 3, 9 and 31, counted after the name, which may
            # hold anything.
            fields = (thread / "stat").read_bytes().rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # One that waits to be killed does nothing more, however long a busy machine takes to let it.
        ends = int(fields[6]) & _PF_EXITING or int(fields[28]) & _KILLED
        if fields[0] not in (b"Z", b"X") and not ends:
            return True
    return False


def own_bytes(fields: dict[str, int]) -> int:
    """Return what ``used_bytes`` counts, from the fields of a status file."""
    return sum(fields.get(name, 0) for name in _OWN)


def read_only_bytes(smaps: Iterable[str]) -> int:
    """Return the private memory in mappings that may not be written, from lines of ``/proc/pid/smaps``."""
    total = 0
    counts = False
    for line in smaps:
        words = line.split()
        if not words[0].endswith(":"):
            counts = "w" not in words[1]
        elif counts and words[0] == "Anonymous:":
            total += int(words[1]) * 1024
    return total


def kilobyte_fields(text: str) -> dict[str, int]:
    """Return the fields given in kB of a ``/proc`` file such as status or meminfo, in bytes."""
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) * 1024 for row in rows if len(row) == 3 and row[2] == "kB"}  # noqa: PLR2004 - name, number, unit


def _first_number(text: bytes) -> int:
    words = text.split()
    return int(words[0]) if words and words[0].isdigit() else 0


def network_inode() -> int:
    """Return what tells this process's network namespace from others, or 0 if the kernel does not say."""
    try:
        return os.stat("/proc/self/ns/net").st_ino  # noqa: PTH116 - a Path adds nothing here
    except FileNotFoundError:
        return 0


def mounts(proc: Path = _PROC) -> list[Mount]:
    """Return what is mounted for this process.

    Raises:
        OSError: ``mountinfo`` cannot be read.
    """
    found = []
    for line in (proc / "self/mountinfo").read_bytes().splitlines():
        before, _, after = line.partition(b" - ")
        _, _, device, root, place, *_ = before.split(b" ")
        kind, _, options = after.split(b" ", 2)
        where, what = Path(_unescaped(place)), _unescaped(root)
        found.append(Mount(where, kind.decode(), device.decode(), what, os.fsdecode(options)))
    return found


def _unescaped(text: bytes) -> str:
    r"""Return a path of ``mountinfo``, which writes a space as ``\040``."""
    return os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda match: bytes([int(match[1], 8)]), text))
