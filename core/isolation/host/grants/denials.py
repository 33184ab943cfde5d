"""Denials: what plugins tried and were refused, as the kernel tells it.

The filter hands some refused system calls to the host, which counts them and
answers with the error that they would have got anyway. To change the mode of a
file is handed over too, and done where it is one of the plugin's own; nothing else
is ever answered. Until then the plugin waits, and what it does not survive meanwhile (its
deadline, its budget) ends it as always. When a host stops listening, or is no
more, the kernel refuses by itself.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import select
import threading
import weakref

import seccompy
from seccompy.notify import FdFlag, Listener, Notification

from ....plugins.interface import PluginUsage
from ...policy.syscall_arguments import what_was_tried
from ...policy.syscalls import BY_HOST
from ...transport.messages import MessageError
from .file_modes import change_mode

#: Of one worker: attempts that are counted, and modes of files that are changed for it.
MAX_TOLD = 100
MAX_MODES = 1000
#: Calls of one worker that are answered at all. A filter has one listener for both kinds, so that those which
#: are past one bound must go on being refused here for the other kind to go on; whatever a worker does, it
#: costs the host no more than these.
MAX_ANSWERED = 10_000


class Denials:
    """The refused calls of one worker, from when its filter was loaded until nobody listens any more.

    Args:
        listener: What the worker's filter sends them to.
        pid: The worker.
        usage: Where they are counted, together with those of the plugin's other workers.
        scratch: Folder of the worker, in which it may change modes; None if it has none.
    """

    def __init__(self, listener: Listener, pid: int, usage: PluginUsage, scratch: str | None = None) -> None:
        self.listener = listener
        self._pid = pid
        self._usage = usage
        self._counts = False
        self._from_probes = 0
        self._from_elsewhere = 0
        self._scratch = None if scratch is None else os.path.realpath(scratch)
        self._told_left = MAX_TOLD
        self._modes_left = MAX_MODES
        self._answers_left = MAX_ANSWERED
        self._poll = select.poll()
        self._poll.register(listener, select.POLLIN)

    def count_from_now(self) -> None:
        """Count what comes: the probes, which try on purpose, are over.

        Raises:
            MessageError: It was not the worker whose probes were heard.
        """
        if not self._from_probes or self._from_elsewhere:
            raise MessageError("a listener of another process than its own")
        self._counts = True
        if self._usage.attempts is None:
            self._usage.attempts = {}

    def answer(self) -> bool:
        """Count a call and refuse it, or make it; returns whether there may be more."""
        ready = self._poll.poll(0)
        if not ready:
            return True  # it was about a listener that had the same number
        if not ready[0][1] & select.POLLIN:
            return False  # the worker has ended
        self._answers_left -= 1
        try:
            call = self.listener.recv()
            name = seccompy.syscall_name(call.nr)
            # Counted before the plugin can go on, so that it is there when the plugin answers.
            error = self._change_mode(name, call) if name in BY_HOST else self._count(name, call)
            self.listener.respond(call.id, error=error)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise  # else it was withdrawn, as a signal came or its thread has ended
        goes_on = self._answers_left > 0
        if not goes_on:
            self._usage.attempts_at_least = True
        return goes_on

    def _change_mode(self, name: str, call: Notification) -> int:
        """Change a mode if it is one of a file of the worker's own; returns the error that it gets, or 0."""
        if self._scratch is None or not self._modes_left:
            return errno.EPERM
        self._modes_left -= 1
        return change_mode(self._scratch, call.pid, name, call.args, lambda: self.listener.valid(call.id))

    def _count(self, name: str, call: Notification) -> int:
        """Count an attempt; returns the error that it gets."""
        if not self._counts:
            self._from_probes += call.pid == self._pid
            self._from_elsewhere += call.pid != self._pid
            return errno.EPERM
        if not self._told_left:
            self._usage.attempts_at_least = True
            return errno.EPERM
        self._told_left -= 1
        kind = f"{what_was_tried(name, call.args)} ({name})"
        counts = self._usage.attempts or {}
        # A new one each time: another thread may be reading it.
        self._usage.attempts = {**counts, kind: counts.get(kind, 0) + 1}
        return errno.EPERM


class Answerer:
    """A thread that answers the attempts of all workers of a run as they come, and does nothing else.

    It is not the watchdog's, which may be busy with a folder of many files while a worker waits.
    """

    def __init__(self) -> None:
        self._watched: dict[int, Denials] = {}
        self._lock = threading.Lock()
        self._epoll = select.epoll()
        self._stop = os.eventfd(0, os.EFD_CLOEXEC)
        self._epoll.register(self._stop, select.EPOLLIN)
        self._thread = threading.Thread(target=self._run, name="ringfence-attempts", daemon=True)
        _close_in_children()
        _answerers.add(self)
        self._thread.start()

    def watch(self, fd: int, pid: int, usage: PluginUsage, scratch: str | None = None) -> Denials:
        """Answer what comes from a worker; nothing is counted until ``count_from_now``.

        Args:
            fd: What the worker calls its listener; closed in the end, and at once if it is none.
            pid: The worker.
            usage: Where to count.
            scratch: Folder of the worker, in which it may change modes.

        Raises:
            MessageError: It is no listener.
        """
        try:
            listener = Listener(fd)
            listener.valid(0)  # whether there is such a call or not: only a listener knows the question
            with contextlib.suppress(OSError):  # on Linux 6.6 and newer: both then run on one processor
                listener.set_flags(FdFlag.SYNC_WAKE_UP)
        except OSError as error:
            raise MessageError(f"something else than a listener: {error.strerror}") from error
        attempts = Denials(listener, pid, usage, scratch)
        with self._lock:
            self._watched[fd] = attempts
            self._epoll.register(fd, select.EPOLLIN)
        return attempts

    def forget(self, attempts: Denials) -> None:
        """Stop listening; from now on the kernel refuses by itself. Safe to call twice."""
        with self._lock:
            self._close(attempts)

    def close(self) -> None:
        """End the thread and close every listener; safe to call twice."""
        if self._stop < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join(timeout=5.0)
        _answerers.discard(self)
        self._epoll.close()
        stop, self._stop = self._stop, -1
        os.close(stop)

    def _run(self) -> None:
        try:
            while True:
                for fd, _ in self._epoll.poll():
                    if fd == self._stop:
                        return
                    self._answer(fd)
        finally:
            with self._lock:
                for attempts in list(self._watched.values()):
                    self._close(attempts)

    def _answer(self, fd: int) -> None:
        with self._lock:
            attempts = self._watched.get(fd)
            if attempts is not None and not attempts.answer():
                self._close(attempts)

    def _close(self, attempts: Denials) -> None:
        if not attempts.listener.closed:
            fd = attempts.listener.fileno()
            del self._watched[fd]
            self._epoll.unregister(fd)
            attempts.listener.close()

    def close_copies(self) -> None:
        """Close the listeners in a process that was forked from the host, which must not hold them open."""
        for attempts in self._watched.values():
            attempts.listener.close()


_answerers: weakref.WeakSet[Answerer] = weakref.WeakSet()


@functools.cache
def _close_in_children() -> None:
    """See to it, once, that a data loader's workers keep no listener open after the host has closed it."""
    os.register_at_fork(after_in_child=_close_copies)


def _close_copies() -> None:
    for answerer in _answerers:
        answerer.close_copies()
