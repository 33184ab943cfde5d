"""Confine this process: every layer that a plugin's own process puts on itself.

Called once in a freshly forked child with one thread, before any of the plugin's
code is loaded. The order matters: what a later layer forbids, an earlier one
still needs, and seccomp is last. Nothing here imports lazily, as files may be
out of reach half-way through.
"""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import landlockpy
import seccompy

from ...policy import kernel, procfs
from ...policy.confinement import Confinement
from ...policy.layer_status import REQUIRED, LayerError, LayerStatus, active, lacking
from . import capabilities, landlock, namespaces, seccomp

_STACK_BYTES = 8 << 20
_PENDING_SIGNALS = 128
_PAGES_BY_TABLE = 512  # a page of page tables, which the budget counts too, maps this many
_SPACE_BY_BUDGET = 8  # page tables of this much address space are 1.6 % of the budget
_ALWAYS_OPEN = (0, 1, 2)
_GIVEN_UP_FIRST = 1000  # the most that oom_score_adj takes; to raise it takes no rights
#: A dump of one byte is none, and to a program that takes dumps, which no other limit holds up, it
#: means that there is to be none (core(5), fs/coredump.c).
_NO_CORE = 1
_CHANGE_CREDENTIALS = ("namespaces", "privileges")  # then the kernel forgets the signal of the parent's death


def prepare() -> None:
    """Do what all children need once, so that forking stays cheap: call it in the zygote.

    Looks up the C library (which may run a program), compiles the system call filter and measures the
    memory that is inherited. What this machine refuses is for ``confine`` to tell, layer by layer.
    """
    with contextlib.suppress(OSError):
        landlockpy.abi_version()
    with contextlib.suppress(OSError):
        if seccompy.supported():
            seccomp.prepare()
    with contextlib.suppress(OSError):
        _read_only_bytes()


def confine(
    confinement: Confinement, take_listener: Callable[[int], object] | None = None
) -> list[LayerStatus]:
    """Apply every layer to this process, in order, for good.

    Args:
        confinement: What it may have.
        take_listener: See ``seccomp.apply``.

    Returns:
        The state of each layer, in the order of application. ``active`` means applied;
        that it holds is for the probes to find out.

    Raises:
        LayerError: A required layer could not be applied, the parent is gone, or there is
            more than one thread (the others would stay free). The process is half confined: end it.
            The layers after the first that failed were tried all the same, so that all that is
            missing can be told at once.
    """
    prepare()
    _require_one_thread()
    steps = (*_STEPS, ("seccomp", lambda _: seccomp.apply(take_listener)))
    applied = [_attempt(name, apply, confinement) for name, apply in steps]
    for status in applied:
        if status.name in REQUIRED and status.status in ("failed", "unavailable"):
            raise LayerError(status.name, status.detail, status.status, tuple(applied))
    return applied


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
        status = lacking(name, "failed", f"{type(error).__name__}: {error}")
    except LayerError as error:
        if error.layer != name or name not in REQUIRED:  # the process itself is at fault
            raise
        status = lacking(name, error.status, error.reason)
    if name in _CHANGE_CREDENTIALS and "process" not in confinement.skip:
        # Where the kernel refuses this, that has been told of the layer 'process', and a probe looks again.
        with contextlib.suppress(OSError):
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
    return active("process", f"own session, no terminal, ends with its parent, {_give_up_first()}")


def _give_up_first() -> str:
    """Have the kernel end this process before any other when memory is short; returns what came of it."""
    try:
        Path("/proc/self/oom_score_adj").write_text(str(_GIVEN_UP_FIRST))
    except OSError as error:
        return f"but may outlive the trainer when the machine's memory is short ({error.strerror})"
    return "and before others when the machine's memory is short"


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
    names = 0 if "landlock" in confinement.skip else len(landlock.pins())
    kept_open = f"{len(confinement.keep_fds)} open besides 0, 1 and 2"
    return active("fds", f"{kept_open}, and {names} names in /proc, which landlock holds and give no access")


def _open_fds() -> set[int]:
    return {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208 - a Path adds nothing here


def _environment(confinement: Confinement) -> LayerStatus:
    os.environ.clear()
    os.environ.update(confinement.environment)
    os.chdir(confinement.scratch)
    os.umask(0o077)
    _require_room(Path(confinement.scratch))
    tempfile.tempdir = confinement.scratch  # a library may have asked for it in the zygote
    return active("environment", f"{len(confinement.environment)} variables, working in its scratch folder")


def _require_room(scratch: Path) -> None:
    """Find out by writing whether the folder takes a file: the disk may be full, or read-only."""
    trial = scratch / "room"
    trial.write_bytes(b"x")
    trial.unlink()


def _rlimits(confinement: Confinement) -> LayerStatus:
    data = _data_limit(confinement.data_limit_bytes)
    own = f"{confinement.data_limit_bytes >> 20} MiB of private memory"
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if 0 <= most < data:
        own = (
            f"{max(confinement.data_limit_bytes - (data - most), 0) >> 20} MiB of private memory, "
            f"not the {confinement.data_limit_bytes >> 20} of its budget (ulimit -d is lower)"
        )
    limits = {
        resource.RLIMIT_DATA: data,
        resource.RLIMIT_AS: _address_space(confinement.data_limit_bytes),
        resource.RLIMIT_STACK: _STACK_BYTES,
        resource.RLIMIT_FSIZE: confinement.scratch_file_bytes,
        resource.RLIMIT_NOFILE: confinement.max_fds,
        resource.RLIMIT_SIGPENDING: _PENDING_SIGNALS,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_NICE: 0,
        resource.RLIMIT_RTPRIO: 0,
    }
    for kind, wanted in limits.items():
        _, hard = resource.getrlimit(kind)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        # The host widens this one by each buffer of its own that it has the worker map.
        resource.setrlimit(kind, (value, hard if kind == resource.RLIMIT_AS else value))
    return active("rlimits", f"{own}, {confinement.max_fds} open files, {_no_core_dumps()}")


def _no_core_dumps() -> str:
    """Forbid core dumps to programs as well, where the limit that was inherited leaves room to say so."""
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (_NO_CORE, _NO_CORE))
    except (OSError, ValueError):
        return "no core dumps but to a program of the machine's (ulimit -c 1 forbids those, 0 does not)"
    return "no core dumps"


def _data_limit(limit_bytes: int) -> int:
    """Return the RLIMIT_DATA at which private memory can never grow past ``limit_bytes``.

    The kernel counts all private address space that may be written, touched or not. What
    it does not count is left out beforehand: the main thread's stack, page tables, and pages that were
    written to and then made read-only, as the linker does.
    """
    fields = procfs.kilobyte_fields(Path("/proc/self/status").read_text())
    uncounted = _STACK_BYTES + limit_bytes // _PAGES_BY_TABLE
    uncounted += _read_only_bytes()
    least = fields["VmData:"] + uncounted
    if least >= limit_bytes:
        raise ValueError(
            f"a budget of {limit_bytes >> 20} MiB is less than the {least >> 20} MiB that torch needs"
        )
    return limit_bytes - uncounted


@functools.cache
def _read_only_bytes() -> int:
    """Return the private memory of this process that may not be written; it is the same in every child.

    To read it takes longer than all else that a child does to lock itself up, and leaves megabytes behind.
    """
    with Path("/proc/self/smaps").open() as lines:
        return procfs.read_only_bytes(lines)


def _address_space(limit_bytes: int) -> int:
    """Return the RLIMIT_AS that bounds page tables, which grow without a page being owned.

    Libraries and reserved memory are free in the budget, and need room for themselves.
    """
    fields = procfs.kilobyte_fields(Path("/proc/self/status").read_text())
    return fields["VmSize:"] + _SPACE_BY_BUDGET * limit_bytes


#: All but the last one, seccomp.
_STEPS: tuple[tuple[str, Callable[[Confinement], LayerStatus]], ...] = (
    ("process", _process),
    ("fds", _fds),
    ("environment", _environment),
    ("rlimits", _rlimits),
    ("namespaces", lambda c: namespaces.apply(c.max_threads)),
    ("privileges", lambda _: capabilities.apply()),
    ("landlock", lambda c: landlock.apply(c.readable, c.scratch, c.grants)),
)
