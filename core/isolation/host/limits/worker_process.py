"""One worker as the host holds it: its numbers, its limits, and what it prints."""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import signal
import threading
from collections import deque

from ....hooks.errors import visible
from ....plugins.plugin_frames import DUMP, split_dump
from ....plugins.printed_output import MAX_LINES, Output
from .cpu_time import CallClock
from .rlimit_ceiling import Ceiling

MAX_LOG_LINES = 50
#: Lines that are kept beyond those, for what Python writes of where it was when a signal ends it.
_MAX_DUMP_LINES = 200
_READ_BYTES = 64 * 1024
#: Reads of one worker's log in a row, so that one that floods leaves time for the others.
_MAX_READS = 16
_MAX_LINE = 500
#: How long one that was killed is waited for. Then it hangs in the kernel, mostly for a slow disk.
DEATH_S = 5.0
#: How long one that hangs has to say where.
LAST_WORDS_S = 0.1


class Process:
    """A worker as the watchdog sees it.

    Args:
        pid: Its process id, valid until it is reaped.
        pidfd: By which it is signalled; never hits another process.
        log: Read end of its standard output and error, non-blocking.
        generation: Which zygote forked it, counted from the first; only that one can collect it.

    Attributes:
        output: Where the lines go that its plugin prints.
    """

    def __init__(self, pid: int, pidfd: int, log: int, generation: int = 0) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.log = log
        self.generation = generation
        #: Set once it has been collected; its number may then belong to another process.
        self.reaped = False
        #: Exit code, or minus the number of the signal that ended it, once it has been collected.
        self.status: int | None = None
        #: It was killed and had not ended in the time that is waited for it.
        self.hangs = False
        #: Memory that it was forked with and shares with all others until it writes there.
        self.inherited_bytes = 0
        #: Pages of files that it maps, when it was last measured.
        self.file_bytes = 0
        #: What it has mapped of nobody's, when that was last looked for.
        self.foreign_bytes = 0
        #: Its limits on memory, once it is locked up.
        self.ceiling: Ceiling | None = None
        #: When it has a call in hand.
        self.calls = CallClock()
        #: Folder that it may write to, once it has one.
        self.scratch: str | None = None
        #: Its main thread had ended, and others had not, when it was last looked at.
        self.headless = False
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES + _MAX_DUMP_LINES)
        self._partial = ""
        self._is_dumping = False
        self.output = Output()
        self._lock = threading.Lock()

    def kill(self) -> None:
        """Send SIGKILL; a process that has ended already is left alone."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def abort(self) -> None:
        """Have it say where it hangs, as it does when a signal ends it; one that does not say so is left."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, signal.SIGABRT)
            ends_within(self.pidfd, LAST_WORDS_S)

    def has_ended(self) -> bool:
        """Tell whether all its threads have ended, so that its number may soon be another's."""
        return self.reaped or ends_within(self.pidfd, 0.0)

    def read_log(self) -> None:
        """Take what it printed; only the last lines are kept, and only their beginnings."""
        with self._lock:
            for _ in range(_MAX_READS):
                try:
                    data = os.read(self.log, _READ_BYTES)
                except BlockingIOError:
                    return
                if not data:
                    return
                text = self._partial + data.decode(errors="replace")
                *lines, self._partial = text.split("\n")
                self._partial = self._partial[:_MAX_LINE]
                self._relay(lines)
                self._lines.extend(line[:_MAX_LINE] for line in lines[-(self._lines.maxlen or 0) :])

    def end_log(self) -> None:
        """Take the rest of it, a last line without an end too."""
        self.read_log()
        with self._lock:
            if self._partial:
                self._relay([self._partial])
                self._lines.append(self._partial)
                self._partial = ""

    def note_last(self) -> None:
        """Take what it printed until now, and have the end of it shown: its plugin has failed."""
        self.read_log()
        self.output.note_last(self._split()[0])

    def _relay(self, lines: list[str]) -> None:
        """Hand on what its plugin printed, and not what Python writes as a signal ends it."""
        if self._is_dumping:
            return
        # No more are looked at than can be shown: of a flood the others are but counted.
        first = lines[: MAX_LINES + 1]
        own = list(itertools.takewhile(lambda line: not line.startswith(DUMP), first))
        self._is_dumping = len(own) < len(first)
        self.output.add(own, len(own) if self._is_dumping else len(lines))

    def log_tail(self) -> str:
        """Return the last lines, with control characters made visible."""
        return "\n".join(self._split()[0][-MAX_LOG_LINES:])

    def died_at(self) -> str:
        """Return where it was when a signal ended it, as a traceback; ``""`` if it could not tell."""
        return self._split()[1]

    def _split(self) -> tuple[list[str], str]:
        with self._lock:
            lines = [*self._lines, self._partial] if self._partial else list(self._lines)
        return split_dump([visible(line) for line in lines])


def ends_within(pidfd: int, seconds: float) -> bool:
    """Wait for a process, at most so long; tell whether all its threads have ended."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(seconds * 1000))
