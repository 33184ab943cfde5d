"""One thread that watches every worker: memory of its own, and what it prints.

Limits set inside a worker stop one process; this thread adds up a plugin's
workers and its result buffers, so that together they stay within one budget.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from ..hooks.plugin import PluginUsage
from .budget import used_bytes

INTERVAL_S = 0.05
MAX_LOG_LINES = 50
_READ_BYTES = 64 * 1024
#: Reads of one worker's log in a row, so that one that floods leaves time for the others.
_MAX_READS = 16
_MAX_LINE = 500


class Process:
    """A worker as the watchdog sees it.

    Args:
        pid: Its process id, valid until it is reaped.
        pidfd: By which it is signalled; never hits another process.
        log: Read end of its standard output and error, non-blocking.
    """

    def __init__(self, pid: int, pidfd: int, log: int) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.log = log
        #: Set once it has been collected; its number may then belong to another process.
        self.reaped = False
        #: Exit code, or minus the number of the signal that ended it, once it has been collected.
        self.status: int | None = None
        #: Memory that it was forked with and shares with all others until it writes there.
        self.inherited_bytes = 0
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._partial = ""
        self._lock = threading.Lock()

    def kill(self) -> None:
        """Send SIGKILL; a process that has ended already is left alone."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

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
                self._lines.extend(line[:_MAX_LINE] for line in lines[-MAX_LOG_LINES:])

    def log_tail(self) -> str:
        """Return the last lines, with control characters made visible."""
        with self._lock:
            lines = [*self._lines, self._partial] if self._partial else list(self._lines)
        return "\n".join("".join(c if c.isprintable() else repr(c)[1:-1] for c in line) for line in lines)


@dataclass(slots=True, eq=False)
class Account:
    """What one plugin may use and does use.

    The budget is held against everything in a worker's own page tables, the pages
    that it was forked with included: the kernel does not tell cheaply which of
    them it has written to. What is shown as the plugin's use leaves them out.

    Attributes:
        budget_bytes: For all its workers and result buffers together.
        usage: Where the figures go.
        processes: Its workers.
        result_bytes: Buffers that it writes its results to.
        exceeded_bytes: What it used when it was killed for it, or 0.
    """

    budget_bytes: int
    usage: PluginUsage
    processes: list[Process] = field(default_factory=list)
    result_bytes: int = 0
    exceeded_bytes: int = 0

    def measure(self) -> None:
        """Add up what it uses now; kill all its workers if that is past the budget."""
        used = own = self.result_bytes
        for process in self.processes:
            bytes_now = 0 if process.reaped else used_bytes(process.pid) or 0
            used += bytes_now
            own += max(bytes_now - process.inherited_bytes, 0)
        self.usage.memory_bytes = own
        self.usage.peak_bytes = max(self.usage.peak_bytes, own)
        if used > self.budget_bytes and not self.exceeded_bytes:
            self.exceeded_bytes = used
            for process in self.processes:
                process.kill()


class Watchdog:
    """Watches accounts until closed; ``add`` and ``remove`` may be called from any thread."""

    def __init__(self) -> None:
        self._accounts: list[Account] = []
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._logs: dict[int, Process] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ringfence-watchdog", daemon=True)
        self._thread.start()

    def add(self, account: Account) -> None:
        """Start watching."""
        with self._lock:
            self._accounts.append(account)
            for process in account.processes:
                self._logs[process.log] = process
                self._poll.register(process.log, select.POLLIN)

    def remove(self, account: Account) -> None:
        """Stop watching, after a last look at what it printed; the caller may then close its descriptors."""
        with self._lock:
            if account not in self._accounts:
                return
            self._accounts.remove(account)
            for process in account.processes:
                self._forget(process.log)
                process.read_log()

    def is_alive(self) -> bool:
        """Tell whether it is watching."""
        return self._thread.is_alive()

    def close(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(timeout=5.0)

    def _forget(self, log: int) -> None:
        if self._logs.pop(log, None) is not None:
            self._poll.unregister(log)

    def _run(self) -> None:
        due = 0.0
        while not self._stopping.is_set():
            ready = self._poll.poll(INTERVAL_S * 1000)
            with self._lock:
                for log, events in ready:
                    self._drain(log, events)
                if time.monotonic() >= due:
                    for account in self._accounts:
                        account.measure()
                    due = time.monotonic() + INTERVAL_S
            if ready:
                # A worker that floods its log is read in portions, not as fast as it writes.
                self._stopping.wait(INTERVAL_S / 5)

    def _drain(self, log: int, events: int) -> None:
        if log not in self._logs:
            return
        if events & select.POLLIN:
            self._logs[log].read_log()
        elif events:
            self._forget(log)
