"""A control group that holds one plugin to its memory, where one can be made.

Found out by making one, never by asking who we are: version 1 with the memory
controller, or version 2 where the groups around us were handed to us. The new
group lies below our own, or beside it where that leaves no limit behind, so that
every limit on us goes on holding.
"""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ...policy.procfs import _PROC, Mount, mounts
from .owner import _PREFIX, is_stale, owner_prefix

#: Threads of a plugin's processes together; a thread costs kernel memory that only this bounds.
MAX_TASKS = 256

#: How long ``close`` waits for the kernel to let go of the last process.
_RMDIR_TRIES = 20
_RMDIR_PAUSE_S = 0.05


class CgroupUnavailableError(Exception):
    """No control group can be made here.

    Attributes:
        reason: Which step failed, on which file, and why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class _Files:
    """File names of one version, and what is written besides the limit, if the kernel has it."""

    limit: str
    usage: str
    peak: str
    events: str
    extra: tuple[tuple[str, str], ...]  # "{limit}" stands for the limit


_V1 = _Files(
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    peak="memory.max_usage_in_bytes",
    events="memory.oom_control",
    extra=(("memory.memsw.limit_in_bytes", "{limit}"),),
)
_V2 = _Files(
    limit="memory.max",
    usage="memory.current",
    peak="memory.peak",
    events="memory.events",
    extra=(("memory.swap.max", "0"), ("memory.oom.group", "1"), ("pids.max", str(MAX_TASKS))),
)


class Cgroup:
    """A control group with a memory limit; made by ``create``.

    The kernel charges whoever touches a page first: what the host has written
    before is the host's, and the zygote's pages stay the zygote's.
    """

    def __init__(self, folders: tuple[Path, ...], files: _Files) -> None:
        self._folders = list(folders)
        self._memory = folders[0]
        self._files = files
        self._last = (0, 0)

    @classmethod
    def create(cls, label: str, limit_bytes: int) -> Cgroup:
        """Make a group below our own that may use ``limit_bytes``, swap included.

        Args:
            label: What it is for; becomes part of its name, beside our process id.
            limit_bytes: Most memory that its processes may be charged with together.

        Raises:
            CgroupUnavailableError: None can be made; nothing is left behind.
        """
        own = own_groups()
        if "memory" in own:
            return _create_v1(own, label, limit_bytes)
        if "" in own:
            return _create_v2(own[""], label, limit_bytes)
        raise CgroupUnavailableError("no cgroup file system with a memory controller is mounted")

    @property
    def path(self) -> Path:
        """Folder of the group."""
        return self._memory

    def add(self, pid: int) -> None:
        """Move process ``pid``, with all its threads, into the group.

        Raises:
            OSError: The process is gone, or may not be moved.
        """
        for folder in self._folders:
            (folder / "cgroup.procs").write_text(str(pid))

    def holds(self, pid: int) -> bool:
        """Tell whether process ``pid`` is in the group, and the group has a limit."""
        members = (self._memory / "cgroup.procs").read_text().split()
        return str(pid) in members and read_limit(self._memory / self._files.limit) is not None

    def peak_bytes(self) -> int:
        """Return the most that it was ever charged with; what the kernel keeps no record of is 0."""
        return read_limit(self._memory / self._files.peak) or self._last[0]

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed at the limit."""
        try:
            text = (self._memory / self._files.events).read_text()
        except OSError:
            return self._last[1]
        counts = dict(line.split(maxsplit=1) for line in text.splitlines())
        return int(counts.get("oom_kill", 0))

    def put_last(self) -> None:
        """Let its processes have only the processor time that no other group wants, if it shares that out."""
        for name, value in (("cpu.idle", "1"), ("cpu.weight", "1")):
            try:
                (self._memory / name).write_text(value)
            except OSError:
                continue  # an older kernel, or none with the processor in it: threads are weighed instead
            return

    def close(self) -> None:
        """Remove the group; safe to call twice.

        Waits at most a second for processes that are still dying. A group that is
        still in use then is left to a later call, or to ``sweep_stale``.
        """
        self._last = (self.peak_bytes(), self.oom_kills())
        self._folders = [folder for folder in self._folders if not _remove(folder, _RMDIR_TRIES)]


def own_groups(proc: Path = _PROC) -> dict[str, Path]:
    """Return the folders of the groups that we run in, by controller; ``""`` is version 2's."""
    hierarchies = _mounts(proc)
    groups = {}
    for line in _lines(proc / "self/cgroup"):
        _, controllers, inside = line.split(":", 2)
        for controller in controllers.split(","):
            if controller in hierarchies:
                groups[controller] = _locate(hierarchies[controller], inside)
    return groups


def memory_groups(proc: Path = _PROC) -> list[Path]:
    """Return our own groups and all above them that may limit memory, nearest first."""
    own, hierarchies = own_groups(proc), _mounts(proc)
    return [
        folder
        for controller in ("memory", "")
        if controller in own
        for folder in _upwards(own[controller], hierarchies[controller].place)
    ]


def sweep_stale() -> int:
    """Remove groups of trainers that no longer run; return how many.

    Looks below our own group and below those beside it: each shell, service or
    batch job tends to get one of its own.
    """
    own = own_groups()
    parents = {own[name] for name in ("memory", "pids") if name in own}
    parents.update(_parents_v2(own[""]) if "" in own else ())
    found = {child for parent in parents for child in parent.glob(f"{_PREFIX}-*")}
    found.update(child for parent in parents for child in parent.parent.glob(f"*/{_PREFIX}-*"))
    return sum(_remove(child, 1) for child in found if is_stale(child.name))


def read_limit(path: Path) -> int | None:
    """Return the number in a control file; None for ``max``, or if there is no such file."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _create_v1(own: dict[str, Path], label: str, limit_bytes: int) -> Cgroup:
    memory = _make(own["memory"], label)
    _limit(memory, _V1, limit_bytes)
    try:
        tasks = _make(own["pids"], label) if "pids" in own else None
    except CgroupUnavailableError:
        tasks = None  # the watchdog counts threads as well
    if tasks is None:
        return Cgroup((memory,), _V1)
    try:
        (tasks / "pids.max").write_text(str(MAX_TASKS))
    except OSError:
        _remove(tasks, 1)
        return Cgroup((memory,), _V1)
    return Cgroup((memory, tasks), _V1)


def _create_v2(own: Path, label: str, limit_bytes: int) -> Cgroup:
    reasons = []
    for parent in _parents_v2(own):
        try:
            return _create_v2_below(parent, label, limit_bytes)
        except CgroupUnavailableError as error:
            reasons.append(error.reason)
    raise CgroupUnavailableError("; ".join(reasons))


def _parents_v2(own: Path) -> list[Path]:
    """Return where a group may be made: below our own, or beside it.

    A group that holds processes hands no controller down, and ours holds us. Beside it is
    as good where our own group has no limit that would be left behind, which is
    what a desktop session looks like.
    """
    limited = any(read_limit(own / name) is not None for name in ("memory.max", "memory.high", "pids.max"))
    return [own] if limited or not (own.parent / "cgroup.procs").exists() else [own, own.parent]


def _create_v2_below(parent: Path, label: str, limit_bytes: int) -> Cgroup:
    folder = _make(parent, label)
    if not (folder / _V2.limit).exists():
        _remove(folder, 1)
        raise CgroupUnavailableError(f"the memory controller is not handed down to groups below {parent}")
    _limit(folder, _V2, limit_bytes)
    return Cgroup((folder,), _V2)


def _make(parent: Path, label: str) -> Path:
    clean = re.sub(r"[^A-Za-z0-9_-]", "_", label)[:64]
    stem = f"{owner_prefix()}{clean}"
    for number in range(1000):
        folder = parent / f"{stem}-{number}"
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        except OSError as error:
            raise CgroupUnavailableError(f"cannot make a group in {parent}: {error.strerror}") from error
        return folder
    raise CgroupUnavailableError(f"{parent} already holds 1000 groups of this process")


def _limit(folder: Path, files: _Files, limit_bytes: int) -> None:
    try:
        (folder / files.limit).write_text(str(limit_bytes))
        for name, value in files.extra:
            if (folder / name).exists():
                (folder / name).write_text(value.format(limit=limit_bytes))
    except OSError as error:
        _remove(folder, 1)
        raise CgroupUnavailableError(f"cannot set a limit in {folder}: {error.strerror}") from error


def _remove(folder: Path, tries: int) -> bool:
    for attempt in range(tries):
        try:
            folder.rmdir()
        except FileNotFoundError:
            return True
        except OSError as error:
            if error.errno != errno.EBUSY:
                return False
            if attempt + 1 < tries:
                time.sleep(_RMDIR_PAUSE_S)
        else:
            return True
    return False


def _mounts(proc: Path) -> dict[str, Mount]:
    """Return where the hierarchy of each controller is mounted; ``""`` is version 2's."""
    found: dict[str, Mount] = {}
    try:
        everything = mounts(proc)
    except FileNotFoundError:
        return {}
    for mount in everything:
        for name in {"cgroup": mount.options.split(","), "cgroup2": [""]}.get(mount.kind, []):
            found.setdefault(name, mount)
    return found


def _locate(mount: Mount, inside: str) -> Path:
    """Return the folder of the group ``inside`` a hierarchy."""
    if mount.root != "/" and (inside == mount.root or inside.startswith(mount.root + "/")):
        inside = inside[len(mount.root) :]
    folder = mount.place / inside.lstrip("/")
    # In a container the path may be told from outside; then what is mounted is our own group.
    return folder if folder.is_dir() else mount.place


def _upwards(folder: Path, top: Path) -> Iterator[Path]:
    while True:
        yield folder
        if folder in (top, folder.parent):
            return
        folder = folder.parent


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except FileNotFoundError:
        return []
