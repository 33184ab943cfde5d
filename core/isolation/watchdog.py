"""One thread that watches every worker: memory, threads and files of its own, and what it prints.

Limits set inside a worker stop one process; this thread adds up a plugin's
workers and its result buffers, so that together they stay within one budget.
A plugin that it cannot measure is ended: nothing goes on unwatched.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from ..hooks.errors import visible
from ..hooks.plugin import PluginUsage
from .budget import threads_go_on, usage
from .scratch import what_is_too_much

INTERVAL_S = 0.05
#: Files take longer to count than memory does.
SCRATCH_INTERVAL_S = 1.0
#: Of one worker; a thread costs kernel memory that its budget does not show.
MAX_THREADS = 128
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
        generation: Which zygote forked it, counted from the first; only that one can collect it.
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
        #: Memory that it was forked with and shares with all others until it writes there.
        self.inherited_bytes = 0
        #: Folder that it may write to, once it has one.
        self.scratch: str | None = None
        #: Its main thread had ended, and others had not, when it was last looked at.
        self.headless = False
        self._lines: deque[str] = deque(maxlen=MAX_LOG_LINES)
        self._partial = ""
        self._lock = threading.Lock()

    def kill(self) -> None:
        """Send SIGKILL; a process that has ended already is left alone."""
        try:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return

    def has_ended(self) -> bool:
        """Tell whether all its threads have ended, so that its number may soon be another's."""
        if self.reaped:
            return True
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))

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
        return "\n".join(visible(line) for line in lines)


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
        exceeded_bytes: What it used when it was killed for its memory, or 0.
        exceeded: Why it was killed if not for its memory, as the end of a sentence about it, or ``""``.
    """

    budget_bytes: int
    usage: PluginUsage
    processes: list[Process] = field(default_factory=list)
    result_bytes: int = 0
    exceeded_bytes: int = 0
    exceeded: str = ""

    def measure(self) -> None:
        """Add up what it uses now; kill all its workers if that is past the budget."""
        used = own = self.result_bytes
        for process in self.processes:
            bytes_now = self._measure_one(process)
            used += bytes_now
            own += max(bytes_now - process.inherited_bytes, 0)
        self.usage.memory_bytes = own
        self.usage.peak_bytes = max(self.usage.peak_bytes, own)
        if used > self.budget_bytes and not self.exceeded_bytes and not self.exceeded:
            self.exceeded_bytes = used
            self._kill()

    def look_into_scratch(self) -> None:
        """Kill all its workers if one has more files than it may, or larger ones."""
        for process in self.processes:
            if process.scratch is not None and (excess := what_is_too_much(process.scratch)):
                self.end(excess)

    def end(self, why: str) -> None:
        """Kill all its workers.

        Args:
            why: Becomes ``exceeded`` unless there is a reason already.
        """
        if not self.exceeded_bytes and not self.exceeded:
            self.exceeded = why
        self._kill()

    def _measure_one(self, process: Process) -> int:
        now = usage(process.pid)
        # Asked after it was measured: until it has ended the number was its own.
        if now is None or process.has_ended():
            return 0
        if now.threads > MAX_THREADS:
            self.end(f"has {now.threads} threads in one worker; at most {MAX_THREADS}")
        headless = now.own_bytes is None and threads_go_on(process.pid)
        if headless and process.headless:
            # Whatever the others use is shown nowhere. One look may meet a process that is just ending.
            self.end("went on in other threads after its main thread had ended, where it cannot be measured")
        process.headless = headless
        return now.own_bytes or 0

    def _kill(self) -> None:
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
        try:
            self._watch()
        finally:
            if not self._stopping.is_set():
                with self._lock:
                    for account in self._accounts:
                        account.end("was no longer watched: the thread that does has failed")

    def _watch(self) -> None:
        due = scratch_due = 0.0
        while not self._stopping.is_set():
            ready = self._poll.poll(INTERVAL_S * 1000)
            with self._lock:
                for log, events in ready:
                    self._drain(log, events)
                if time.monotonic() >= due:
                    self._look(Account.measure)
                    due = time.monotonic() + INTERVAL_S
                if time.monotonic() >= scratch_due:
                    self._look(Account.look_into_scratch)
                    scratch_due = time.monotonic() + SCRATCH_INTERVAL_S
            if ready:
                # A worker that floods its log is read in portions, not as fast as it writes.
                self._stopping.wait(INTERVAL_S / 5)

    def _look(self, measure: Callable[[Account], None]) -> None:
        for account in self._accounts:
            try:
                measure(account)
            except Exception as error:  # noqa: BLE001 - whatever it was, the others must go on being watched
                account.end(f"could not be measured: {type(error).__name__}: {error}")

    def _drain(self, log: int, events: int) -> None:
        if log not in self._logs:
            return
        if events & select.POLLIN:
            self._logs[log].read_log()
        elif events:
            self._forget(log)
