"""The processes of a run as the harness finds them: trainer, zygote, workers, and what is left of them."""

import contextlib
import ctypes
import os
import signal
import time
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_ZYGOTE = b"ringfence.isolation.worker.zygote"
#: A process that has ended, and that nobody has collected yet.
_GONE = ("Z", "X", "")


def adopt_orphans():
    """Become the parent of whatever a child leaves behind."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with(parent):
    """Ask the kernel to end this process with its parent."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def children(pid):
    """Return the children of a process, the eldest first."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += [int(word) for word in path.read_text().split()]
    return sorted(found)


def state(pid):
    """Return the state letter of a process, ``""`` if there is none."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def is_live(pid):
    """Tell whether a process is there and has not ended."""
    return state(pid) not in _GONE


def zygote_of(host):
    """Return the zygote of a trainer, None if there is none now."""
    for pid in children(host):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if _ZYGOTE in Path(f"/proc/{pid}/cmdline").read_bytes() and is_live(pid):
                return pid
    return None


def workers_of(host):
    """Return the workers of a trainer that are there now."""
    zygote = zygote_of(host)
    return [] if zygote is None else [pid for pid in children(zygote) if is_live(pid)]


def collect():
    """Collect children that have ended; returns process id to status, as ``os.waitstatus_to_exitcode``."""
    ended = {}
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            ended[found[0]] = os.waitstatus_to_exitcode(found[1])
    return ended


def left_after(seconds):
    """Return the processes below this one that have not ended by then."""
    deadline = time.monotonic() + seconds
    while (there := _live_below()) and time.monotonic() < deadline:
        collect()
        time.sleep(0.005)
    return there


def _live_below():
    found, queue = [], [os.getpid()]
    while queue:
        for pid in children(queue.pop()):
            queue.append(pid)
            if is_live(pid):
                found.append(pid)
    return found
