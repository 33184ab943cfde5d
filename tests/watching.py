"""Look at what is there for a moment only, at what stays open, and wait for what is to come."""

import contextlib
import gc
import os
import signal
import threading
import time
from pathlib import Path

import psutil

#: Nobody waits as long as this where all goes well: a busy machine takes its time.
_LONGEST_S = 60.0
#: How long a process on a busy machine may take from making a file to having taken its name away.
_MOMENT_S = 10.0
#: No machine has anything there, as the null device is no folder.
NOWHERE = "/dev/null/nowhere"

#: How a folder of a test begins that lies in shared memory: another that looks there may run beside it.
BESIDE = "a-test-of-ringfence-"


def in_shared_memory():
    """Return what lies in ``/dev/shm``, but for the folders of other tests, and what they hand to processes.

    The latter, which torch makes, is gone in a moment; one that stays is told.
    """
    found, deadline = _shared_names(), time.monotonic() + _MOMENT_S
    while any(name.startswith("torch_") for name in found) and time.monotonic() < deadline:
        time.sleep(0.005)
        found &= _shared_names()
    return sorted(found)


def _shared_names():
    return {name for name in os.listdir("/dev/shm") if not name.startswith(BESIDE)}  # noqa: PTH208, S108 - names


def descriptors():
    """Return how many this process has open; the least of a few looks, as others come and go."""
    return min(len(os.listdir("/proc/self/fd")) for _ in range(20))  # noqa: PTH208 - a count


def settled_descriptors(expected):
    """Return how many are open, once no more than ``expected`` are or a minute is over.

    The watchdog has a file of ``/proc`` open now and then, and an error that a test has caught holds
    the frames that it went through, with all that is open in them.
    """
    deadline = time.monotonic() + _LONGEST_S
    while (count := descriptors()) > expected and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    return count


def is_running(pid):
    """Tell whether there is such a process that has not ended, collected or not."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() not in {psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD}
    return False


def children(pid, *, recursive=False):
    """Return the children of a process, and theirs if so asked for; none if it is gone."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive)]
    return []


def until(condition, seconds=_LONGEST_S):
    """Return what ``condition()`` comes to, once that is something or the time is over."""
    deadline = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < deadline:
        time.sleep(0.005)
    return found


def hang(zygote, patience_s=0.3):
    """Stop the process that plugins are forked from; what is asked of it next is waited for so long.

    No sooner, or a busy machine answers too late what comes before.
    """
    os.kill(zygote.pid, signal.SIGSTOP)
    zygote._patience_s = patience_s


def open_files():
    """Return what this process has open, by number."""
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found[int(path.name)] = str(path.readlink())
    return found


class Watching:
    """A context in which ``look`` is called again and again, from a thread of its own."""

    every_s = 0.001

    def __init__(self):
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join(5)

    def look(self):
        """Look once, and keep what is wanted of it."""
        raise NotImplementedError

    def _watch(self):
        while not self._stop.wait(self.every_s):
            self.look()
