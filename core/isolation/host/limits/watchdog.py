"""Two threads that watch every worker: its memory, time and threads, and what it prints; and its files.

Limits set inside a worker stop one process; these threads add up a plugin's
workers and its result buffers, so that together they stay within one budget.
A plugin that they cannot measure is ended: nothing goes on unwatched.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

from .account import FILES_IN_MEMORY_INTERVAL_S, FILES_INTERVAL_S, INTERVAL_S, SCRATCH_INTERVAL_S, Account
from .deadlines import HostClock
from .file_locks import locks_by_process
from .switch_interval import short_turns
from .worker_process import Process

_T = TypeVar("_T")


class Watchdog:
    """Watches accounts until closed; ``add`` and ``remove`` may be called from any thread.

    Attributes:
        clock: Does not run while this process is stopped.
    """

    def __init__(self) -> None:
        self.clock = HostClock()
        self._accounts: list[Account] = []
        self._lock = threading.Lock()
        self._poll = select.poll()
        self._logs: dict[int, Process] = {}
        self._stopping = threading.Event()
        #: Held while a folder is looked into, without which nobody may take an account away.
        self._looking = threading.Lock()
        self._threads = [
            threading.Thread(target=self._run, args=(self._watch,), name="ringfence-watchdog", daemon=True),
            threading.Thread(
                target=self._run, args=(self._watch_files,), name="ringfence-files", daemon=True
            ),
        ]
        short_turns.take()
        for thread in self._threads:
            thread.start()

    def add(self, account: Account) -> None:
        """Start watching."""
        with self._lock:
            self._accounts.append(account)
            for process in account.processes:
                self._logs[process.log] = process
                self._poll.register(process.log, select.POLLIN)

    def remove(self, account: Account) -> None:
        """Stop watching, after a last look at what it printed; the caller may then close its descriptors."""
        with self._looking, self._lock:
            if account not in self._accounts:
                return
            self._accounts.remove(account)
            for process in account.processes:
                self._forget(process.log)
                process.end_log()

    def is_alive(self) -> bool:
        """Tell whether it is watching."""
        return all(thread.is_alive() for thread in self._threads)

    def close(self) -> None:
        """End the threads; safe to call twice."""
        if not self._stopping.is_set():
            short_turns.give_back()
        self._stopping.set()
        for thread in self._threads:
            thread.join(timeout=5.0)

    def _forget(self, log: int) -> None:
        if self._logs.pop(log, None) is not None:
            self._poll.unregister(log)

    def _run(self, watch: Callable[[], None]) -> None:
        try:
            watch()
        finally:
            if not self._stopping.is_set():
                with self._lock:
                    for account in self._accounts:
                        account.end("was no longer watched: the thread that does has failed")

    def _watch(self) -> None:
        weigh_at = 0.0
        while not self._stopping.is_set():
            ready = self._sleep(INTERVAL_S, lambda pause_s: self._poll.poll(pause_s * 1000))
            with self._lock:
                for log, events in ready:
                    self._drain(log, events)
                now = time.monotonic()
                for account in self._accounts:
                    if now >= account.look_at:
                        _look(account, Account.measure)
                    if now >= weigh_at:
                        _look(account, Account.weigh_time)
                weigh_at = now + INTERVAL_S if now >= weigh_at else weigh_at
            if ready:
                # A worker that floods its log is read in portions, not as fast as it writes.
                self._sleep(INTERVAL_S / 5, self._stopping.wait)

    def _sleep(self, longest_s: float, sleep: Callable[[float], _T]) -> _T:
        """Sleep until an account needs to be measured, at most ``longest_s``, and tell the clock how long."""
        pause_s, began = self._until_next(longest_s), time.monotonic()
        result = sleep(pause_s)
        self.clock.slept(pause_s, time.monotonic() - began, self.clock.runnable_s())
        return result

    def _until_next(self, longest_s: float) -> float:
        """Return for how long no account needs to be measured, at most ``longest_s``."""
        with self._lock:
            due = min((account.look_at for account in self._accounts), default=float("inf"))
        return min(max(due - time.monotonic(), 0.0), longest_s)

    def _watch_files(self) -> None:
        interval, count_at = FILES_INTERVAL_S, 0.0
        while not self._stopping.wait(interval):
            with self._lock:
                accounts = list(self._accounts)
            in_memory = any(account.files_are_memory for account in accounts)
            interval = FILES_IN_MEMORY_INTERVAL_S if in_memory else FILES_INTERVAL_S
            locks: Mapping[int, int] | None = None
            if accounts and time.monotonic() >= count_at:
                locks, count_at = locks_by_process(), time.monotonic() + SCRATCH_INTERVAL_S
            for account in accounts:
                with self._looking:
                    if account in self._accounts:
                        _look(account, Account.look_into_queues)
                        _look(account, Account.look_at_mappings)
                        _look(account, Account.look_into_scratch)
                        if locks is not None:
                            account.count_locks(locks)
                            _look(account, Account.count_watches)

    def _drain(self, log: int, events: int) -> None:
        if log not in self._logs:
            return
        if events & select.POLLIN:
            self._logs[log].read_log()
        elif events:
            self._forget(log)


def _look(account: Account, measure: Callable[[Account], None]) -> None:
    try:
        measure(account)
    except Exception as error:  # noqa: BLE001 - whatever it was, the others must go on being watched
        account.end(f"could not be measured: {type(error).__name__}: {error}")
