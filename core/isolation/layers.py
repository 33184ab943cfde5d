"""Confine this process: every layer that a plugin's own process puts on itself.

Called once in a freshly forked child with one thread, before any of the plugin's
code is loaded. The order matters: what a later layer forbids, an earlier one
still needs, and seccomp is last. Nothing here imports lazily, as files may be
out of reach half-way through.
"""

from __future__ import annotations

import os
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import landlockpy
import msgspec
import seccompy

from . import budget, kernel, landlock, namespaces, privileges, seccomp
from .status import REQUIRED, LayerError, LayerStatus, active, lacking

__all__ = ["REQUIRED", "Confinement", "LayerError", "LayerStatus", "confine", "prepare"]

_STACK_BYTES = 8 << 20
_PENDING_SIGNALS = 128
_PAGES_BY_TABLE = 512  # a page of page tables, which the budget counts too, maps this many
_ALWAYS_OPEN = (0, 1, 2)
_CHANGE_CREDENTIALS = ("namespaces", "privileges")  # then the kernel forgets the signal of the parent's death


class Confinement(msgspec.Struct, frozen=True):
    """What one plugin's process may have.

    Attributes:
        readable: Files and folders that it may read, besides the system's libraries: the interpreter,
            installed packages, the plugin's own code. Missing ones are skipped.
        scratch: The only folder where it may write; also its working and temporary folder.
        data_limit_bytes: Private memory that it may have, pages inherited over fork included.
        scratch_file_bytes: Largest file that it may write.
        max_fds: Open files that it may have.
        keep_fds: Open files that it keeps, besides 0, 1 and 2.
        environment: All of its environment variables.
        parent_pid: The zygote's process id; the process dies with it.
        skip: Layers left out, for tests that show what each one holds; they are reported as disabled.
        max_threads: Threads that it may have, where the kernel can count them by process.
    """

    readable: tuple[str, ...]
    scratch: str
    data_limit_bytes: int
    scratch_file_bytes: int
    max_fds: int
    keep_fds: tuple[int, ...]
    environment: dict[str, str]
    parent_pid: int
    skip: tuple[str, ...] = ()
    max_threads: int = 64


def prepare() -> None:
    """Do what all children need once, so that forking stays cheap: call it in the zygote.

    Looks up the C library (which may run a program) and compiles the system call filter.
    """
    landlockpy.abi_version()
    if seccompy.supported():
        seccomp.build()


def confine(confinement: Confinement) -> list[LayerStatus]:
    """Apply every layer to this process, in order, for good.

    Returns:
        The state of each layer, in the order of application. ``active`` means applied;
        that it holds is for the probes to find out.

    Raises:
        LayerError: A required layer could not be applied, the parent is gone, or there is
            more than one thread (the others would stay free). The process is half confined: end it.
    """
    prepare()
    _require_one_thread()
    return [_attempt(name, apply, confinement) for name, apply in _STEPS]


def _require_one_thread() -> None:
    threads = len(os.listdir("/proc/self/task"))  # noqa: PTH208 - a Path adds nothing here
    if threads != 1:
        raise LayerError("process", f"{threads} threads run already, and layers would bind one of them")


def _attempt(name: str, apply: Callable[[Confinement], LayerStatus], confinement: Confinement) -> LayerStatus:
    if name in confinement.skip:
        return lacking(name, "disabled", "switched off")
    try:
        status = apply(confinement)
    except (OSError, ValueError) as error:
        if name in REQUIRED:
            raise LayerError(name, f"{type(error).__name__}: {error}") from error
        status = lacking(name, "failed", f"{type(error).__name__}: {error}")
    if name in _CHANGE_CREDENTIALS and "process" not in confinement.skip:
        _die_with(confinement.parent_pid)
    return status


def _die_with(parent_pid: int) -> None:
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:  # it died before we asked
        raise LayerError("process", f"its parent {parent_pid} is gone")


def _process(confinement: Confinement) -> LayerStatus:
    if os.getsid(0) != os.getpid():
        os.setsid()
    null = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.dup2(null, 0)
    os.close(null)
    _die_with(confinement.parent_pid)
    return active("process", "own session, no terminal, ends with its parent")


def _fds(confinement: Confinement) -> LayerStatus:
    kept = {*_ALWAYS_OPEN, *confinement.keep_fds}
    for fd in _open_fds() - kept:
        try:
            os.close(fd)
        except OSError:
            continue  # the one that listing the folder had open
    left = _open_fds() - kept
    if len(left) > 1:  # one is the listing's own
        raise OSError(f"{len(left) - 1} inherited files could not be closed")
    return active("fds", f"{len(confinement.keep_fds)} open besides 0, 1 and 2")


def _open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - a Path adds nothing here


def _environment(confinement: Confinement) -> LayerStatus:
    os.environ.clear()
    os.environ.update(confinement.environment)
    os.chdir(confinement.scratch)
    os.umask(0o077)
    tempfile.tempdir = confinement.scratch  # a library may have asked for it in the zygote
    return active("environment", f"{len(confinement.environment)} variables, working in its scratch folder")


def _rlimits(confinement: Confinement) -> LayerStatus:
    data = _data_limit(confinement.data_limit_bytes)
    limits = {
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_FSIZE: confinement.scratch_file_bytes,
        resource.RLIMIT_NOFILE: confinement.max_fds,
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(kind, (value, value))
    own = confinement.data_limit_bytes >> 20
    return active("rlimits", f"{own} MiB of private memory, {confinement.max_fds} open files, no core dumps")


def _data_limit(limit_bytes: int) -> int:
    """Return the RLIMIT_DATA at which private memory will have grown to ``limit_bytes``.

    The limit counts address space that may be written, the budget counts pages in use; at
    this moment both are known, and what is mapped from now on adds to both.
    """
    fields = budget.kilobyte_fields(Path("/proc/self/status").read_text())
    mapped, used = fields["VmData:"], budget.own_bytes(fields)
    if used >= limit_bytes:
        raise ValueError(
            f"a budget of {limit_bytes >> 20} MiB is less than the {used >> 20} MiB that torch needs"
        )
    left = limit_bytes - used
    return mapped + left - left // _PAGES_BY_TABLE


_STEPS: tuple[tuple[str, Callable[[Confinement], LayerStatus]], ...] = (
    ("process", _process),
    ("fds", _fds),
    ("environment", _environment),
    ("rlimits", _rlimits),
    ("namespaces", lambda c: namespaces.apply(c.max_threads)),
    ("privileges", lambda _: privileges.apply()),
    ("landlock", lambda c: landlock.apply(c.readable, c.scratch)),
    ("seccomp", lambda _: seccomp.apply()),
)
