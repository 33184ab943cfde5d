"""Probes of files: reading, writing, listing, links, other processes' files, the environment."""

from __future__ import annotations

import ctypes
import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...policy import kernel
from ...policy.confinement import ProbeContext
from ...policy.procfs import network_inode
from ..layers import landlock
from .probe import Probe, opens, refused

_NO_TERMINAL = frozenset({errno.ENXIO, errno.ENOENT})
# Landlock's refusal to link or move out of a folder looks like two file systems; neither does it.
_TWO_FILE_SYSTEMS = frozenset({errno.EXDEV})
# A small container has no accounts and no /dev/shm; /proc may hide processes that may not be inspected.
_NOT_THERE = frozenset({errno.ENOENT})
_LAST_FD = 1024


def _reads(path: str | Path, also: frozenset[int] = frozenset()) -> bool:
    return opens(lambda: os.open(path, os.O_RDONLY), also)


def _makes(path: Path, also: frozenset[int] = frozenset()) -> bool:
    def attempt() -> None:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        path.unlink()

    return refused(attempt, also)


def _links(make: Callable[[Path, Path], None], context: ProbeContext) -> bool:
    link = context.in_scratch("probe-link")

    def attempt() -> None:
        make(context.canary, link)
        try:
            os.close(os.open(link, os.O_RDONLY))
        finally:
            link.unlink()

    return refused(attempt, _TWO_FILE_SYSTEMS)


def _rename_out(context: ProbeContext) -> bool:
    inside, outside = context.in_scratch("probe-rename"), context.canary.with_name(f"probe-{os.getpid()}")
    inside.touch()

    def attempt() -> None:
        inside.rename(outside)
        outside.rename(inside)

    blocked = refused(attempt, _TWO_FILE_SYSTEMS)
    inside.unlink()
    return blocked


def _truncate(context: ProbeContext) -> bool:
    return refused(lambda: os.truncate(context.canary, context.canary.stat().st_size))


def _chmod(context: ProbeContext) -> bool:
    return refused(lambda: context.canary.chmod(context.canary.stat().st_mode & 0o7777))


def _touch(context: ProbeContext) -> bool:
    def attempt() -> None:
        stat = context.canary.stat()
        os.utime(context.canary, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    return refused(attempt)


def _setuid_bit(context: ProbeContext) -> bool:
    path = context.in_scratch("probe-setuid")
    path.touch()
    blocked = refused(lambda: path.chmod(0o4755))
    path.unlink()
    return blocked


def _write_canary(context: ProbeContext) -> bool:
    return opens(lambda: os.open(context.canary, os.O_WRONLY))


def _of_host(name: str) -> Probe:
    return lambda context: _reads(f"/proc/{context.host_pid}/{name}", _NOT_THERE)


def _host_link(context: ProbeContext) -> bool:
    return refused(lambda: Path(f"/proc/{context.host_pid}/cwd").readlink(), _NOT_THERE)


def _scratch_is_own(context: ProbeContext) -> bool:
    """Tell whether the working and the temporary folder are the scratch folder."""
    wanted = Path(context.scratch).stat()
    return all(os.path.samestat(wanted, Path(path).stat()) for path in (".", tempfile.gettempdir()))


def _env_canary(context: ProbeContext) -> bool:
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_char_p
    return context.env_canary not in os.environ and getenv(context.env_canary.encode()) is None


def _inherited_fd(context: ProbeContext) -> bool:
    kept = {0, 1, 2, *context.keep_fds}
    return all(landlock.is_pin(fd) for fd in range(_LAST_FD) if fd not in kept and _is_open(fd))


def _is_open(fd: int) -> bool:
    try:
        os.get_inheritable(fd)
    except OSError:
        return False
    return True


def _stdin(_: ProbeContext) -> bool:
    return os.fstat(0).st_rdev == os.makedev(1, 3)


def _own_network(context: ProbeContext) -> bool:
    """Tell whether the network is another one; that seccomp refuses sockets too says nothing of it."""
    return context.host_network not in (0, network_inode())


def _fallocate(context: ProbeContext) -> bool:
    path = context.in_scratch("probe-fallocate")
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        return refused(lambda: kernel.syscall("fallocate", fd, 0, 0, 4096), frozenset({errno.EOPNOTSUPP}))
    finally:
        os.close(fd)
        path.unlink()


#: Name to probe; each returns True when the attempt was refused.
PROBES: dict[str, Probe] = {
    "read_canary": lambda context: _reads(context.canary),
    "write_canary": _write_canary,
    "truncate_canary": _truncate,
    "chmod_canary": _chmod,
    "touch_canary": _touch,
    "write_beside_canary": lambda context: _makes(context.canary.with_name(f"probe-{os.getpid()}")),
    "list_canary_folder": lambda context: refused(lambda: os.listdir(context.canary.parent)),  # noqa: PTH208
    "list_root": lambda _: refused(lambda: os.listdir("/")),  # noqa: PTH208
    "list_processes": lambda _: refused(lambda: os.listdir("/proc")),  # noqa: PTH208
    "read_accounts": lambda _: _reads("/etc/passwd", _NOT_THERE),
    "read_through_root_link": lambda context: _reads(f"/proc/self/root{context.canary_path}"),
    "symlink_escape": lambda context: _links(lambda target, link: link.symlink_to(target), context),
    "hardlink_escape": lambda context: _links(lambda target, link: link.hardlink_to(target), context),
    "rename_out": _rename_out,
    "setuid_bit": _setuid_bit,
    "shared_memory_file": lambda _: _makes(Path(f"/dev/shm/probe-{os.getpid()}"), _NOT_THERE),  # noqa: S108 - must be refused
    "shared_zero_device": lambda _: _reads("/dev/zero", _NOT_THERE),
    "terminal": lambda _: opens(lambda: os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY), _NO_TERMINAL),
    "host_environment": _of_host("environ"),
    "host_memory": _of_host("mem"),
    "host_maps": _of_host("maps"),
    "host_folder": _host_link,
    "own_network": _own_network,
    "own_network_table": lambda _: _reads("/proc/self/net/unix", _NOT_THERE),
    "fallocate": _fallocate,
    "scratch_is_own": _scratch_is_own,
    "env_canary": _env_canary,
    "inherited_fd": _inherited_fd,
    "stdin": _stdin,
}
