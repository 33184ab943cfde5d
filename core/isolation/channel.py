"""The host's end of one worker: requests in order, replies in the same order, each within its deadline."""

from __future__ import annotations

import itertools
import os
import re
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from ..hooks.errors import (
    PluginCrashedError,
    PluginError,
    PluginLoadError,
    PluginMemoryError,
    PluginProtocolError,
    PluginRaisedError,
    PluginTimeoutError,
    visible,
)
from .protocol import (
    MAX_MESSAGE_BYTES,
    Fault,
    FromWorker,
    Locked,
    MessageError,
    Ready,
    ToWorker,
    from_worker,
    receive,
    send,
)
from .watchdog import Account, Process

MIB = 1024 * 1024

#: For what is sent outside of a call: locking up, starting, state.
_LIFE_DEADLINE_S = 30.0
_LEAST_WAIT_S = 0.001
_SIGNAL_NAMES = {each.value: each.name for each in signal.Signals}


class Pending:
    """A request that has been sent.

    Attributes:
        seq: Its number.
        hook: ``"<role>.<method>"`` for messages.
        step: Global step, or None.
        reply: What came back, once it has.
        elapsed_s: Time from when the worker could begin until the reply was read.
    """

    __slots__ = ("elapsed_s", "hook", "reply", "sent_at", "seq", "step")

    def __init__(self, seq: int, hook: str | None, step: int | None, began_at: float) -> None:
        self.seq = seq
        self.hook = hook
        self.step = step
        self.sent_at = began_at
        self.elapsed_s = 0.0
        self.reply: FromWorker | None = None


class Channel:
    """One worker process, as its plugin's stand-in talks to it.

    Args:
        plugin: Name for messages.
        sock: The host's end of the pair.
        process: The worker.
        account: The plugin's memory, to tell why a worker was killed.
        limit_bytes: What this worker may use.
        reap: Collects the worker's exit status from the zygote.
        oom_kills: Counts kills by the plugin's cgroup.
    """

    def __init__(
        self,
        plugin: str,
        sock: socket.socket,
        process: Process,
        account: Account,
        limit_bytes: int,
        reap: Callable[[Process], int | None],
        oom_kills: Callable[[], int],
    ) -> None:
        self.plugin = plugin
        self.process = process
        self.limit_bytes = limit_bytes
        self._sock = sock
        self._account = account
        self._reap = reap
        self._oom_kills = oom_kills
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        self._numbers = itertools.count(1)
        self._pending: deque[Pending] = deque()
        self._answered_at = 0.0
        self._began_at = time.monotonic()
        self._deadline_s = _LIFE_DEADLINE_S
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._error: PluginError | None = None
        self._timed_out: float | None = None
        self._closed = False

    def begin(self, deadline_s: float) -> None:
        """Start the clock of one request: all that is sent for it, and the reply, share one deadline."""
        self._began_at = time.monotonic()
        self._deadline_s = deadline_s

    def next_seq(self) -> int:
        """Return a number for a request."""
        return next(self._numbers)

    def tell(self, message: ToWorker, fds: tuple[int, ...] = ()) -> None:
        """Send a message that has no reply."""
        self._send(message, fds, None, None)

    def ask(
        self,
        message: ToWorker,
        seq: int = 0,
        *,
        hook: str | None = None,
        step: int | None = None,
    ) -> Pending:
        """Send a request; its reply comes through ``wait``."""
        self._send(message, (), hook, step)
        pending = Pending(seq, hook, step, self._began_at)
        self._pending.append(pending)
        return pending

    def wait(self, pending: Pending, deadline_s: float) -> FromWorker:
        """Return the reply to ``pending``.

        Replies to requests before it are kept for whoever waits for those.

        Args:
            deadline_s: Longest time for each request, counted from when the
                worker could begin with it.

        Raises:
            PluginError: The one that fits: no reply, death, a fault, or nonsense.
        """
        while pending.reply is None:
            self._take(deadline_s)
        if isinstance(pending.reply, Fault):
            raise self._from_fault(pending.reply, pending)
        return pending.reply

    def answered(self, pending: Pending, deadline_s: float) -> bool:
        """Tell whether the reply to ``pending`` is there, without waiting; raises as ``wait`` does."""
        while pending.reply is None and self._poll.poll(0):
            self._take(deadline_s)
        if pending.reply is None and time.monotonic() > self._due(deadline_s):
            self._take(deadline_s)
        return pending.reply is not None

    def reject(self, why: str, pending: Pending) -> PluginProtocolError:
        """End the worker because of what it sent, and return the error to raise."""
        error = PluginProtocolError(why, plugin=self.plugin, hook=pending.hook, step=pending.step)
        self._error = error
        self.process.kill()
        return error

    def close(self) -> None:
        """Kill the worker, collect it, and close what led to it; safe to call twice."""
        if self._closed:
            return
        self._closed = True
        self._error = PluginCrashedError("its worker was ended", plugin=self.plugin)
        self.process.kill()
        self._reap(self.process)
        self._sock.close()
        os.close(self.process.pidfd)
        os.close(self.process.log)

    # inside

    def _send(self, message: ToWorker, fds: tuple[int, ...], hook: str | None, step: int | None) -> None:
        if self._error is not None:
            raise self._error
        self._sock.settimeout(max(self._began_at + self._deadline_s - time.monotonic(), _LEAST_WAIT_S))
        try:
            send(self._sock, message, fds)
        except TimeoutError:
            # Its queue is full: it does not read.
            self._timed_out = self._deadline_s
            self._die(hook, step)
        except OSError:
            self._die(hook, step)

    def _due(self, deadline_s: float) -> float:
        return max(self._pending[0].sent_at, self._answered_at) + deadline_s

    def _take(self, deadline_s: float) -> None:
        """Receive one reply and give it to the oldest request."""
        oldest = self._pending[0]
        if self._error is not None:
            raise self._error
        remaining = max(self._due(deadline_s) - time.monotonic(), 0.0)
        # Rounded up: a timeout of under a millisecond must not become a busy loop.
        if not self._poll.poll(int(remaining * 1000) + 1):
            self._timed_out = deadline_s
            self._die(oldest.hook, oldest.step)
        try:
            reply = receive(self._sock, from_worker, self._buffer)
        except (EOFError, OSError):
            self._die(oldest.hook, oldest.step)
        except MessageError as error:
            raise self.reject(f"sent {error}", oldest) from error
        expected = 0 if isinstance(reply, (Locked, Ready)) else reply.seq
        if expected != oldest.seq:
            raise self.reject(f"answered request {expected} when {oldest.seq} was asked", oldest)
        now = time.monotonic()
        oldest.elapsed_s = now - max(oldest.sent_at, self._answered_at)
        oldest.reply = reply
        self._answered_at = now
        self._pending.popleft()

    def _die(self, hook: str | None, step: int | None) -> NoReturn:
        """Make sure that the worker is dead, find out why, and raise that."""
        self.process.kill()
        status = self._reap(self.process)
        self.process.read_log()
        self._error = self._cause_of_death(status, hook, step)
        raise self._error

    def _cause_of_death(self, status: int | None, hook: str | None, step: int | None) -> PluginError:
        plugin = self.plugin
        if self._account.exceeded_bytes:
            return self._memory_error(self._account.exceeded_bytes, "watchdog", hook, step)
        if self._account.exceeded:
            return PluginCrashedError(
                f"{self._account.exceeded}; its worker was killed",
                plugin=plugin,
                hook=hook,
                step=step,
                signal_name="SIGKILL",
            )
        if self._oom_kills():
            return self._memory_error(self._account.usage.peak_bytes, "cgroup", hook, step)
        if self._timed_out is not None:
            return PluginTimeoutError(
                f"no reply within {self._timed_out:g} s; its worker was killed. "
                "Raise deadline_s or disable the plugin",
                plugin=plugin,
                hook=hook,
                step=step,
            )
        tail = self.process.log_tail()
        printed = f"; it last printed:\n{tail}" if tail else ""
        if status is None:
            return PluginCrashedError(
                f"its worker is gone, and the process that forked it too{printed}",
                plugin=plugin,
                hook=hook,
                step=step,
                stderr_tail=tail,
            )
        if status < 0:
            name = _SIGNAL_NAMES.get(-status, f"signal {-status}")
            return PluginCrashedError(
                f"its worker was ended by {name}{_hint(name)}{printed}",
                plugin=plugin,
                hook=hook,
                step=step,
                signal_name=name,
                stderr_tail=tail,
            )
        return PluginCrashedError(
            f"its worker exited with status {status}{printed}",
            plugin=plugin,
            hook=hook,
            step=step,
            exit_code=status,
            stderr_tail=tail,
        )

    def _memory_error(
        self, used: int, enforced_by: str, hook: str | None, step: int | None
    ) -> PluginMemoryError:
        limit = self._account.budget_bytes if enforced_by != "RLIMIT_DATA" else self.limit_bytes
        return PluginMemoryError(
            f"used {used / MIB:.0f} MiB of its {limit / MIB:.0f} MiB budget and asked for more "
            f"(stopped by {enforced_by})",
            plugin=self.plugin,
            hook=hook,
            step=step,
            used_bytes=used,
            limit_bytes=limit,
            enforced_by=enforced_by,
        )

    def _from_fault(self, fault: Fault, pending: Pending) -> PluginError:
        if fault.kind == "memory":
            used = min(max(fault.used_bytes, 0), self.limit_bytes) + self._account.result_bytes
            return self._memory_error(used, "RLIMIT_DATA", pending.hook, pending.step)
        cause, remote = visible(fault.cause), visible(fault.traceback)
        if fault.kind == "result":
            return PluginProtocolError(cause, plugin=self.plugin, hook=pending.hook, step=pending.step)
        if fault.kind == "load":
            return PluginLoadError(
                f"could not be loaded: {cause}{_last_frame(remote)}",
                plugin=self.plugin,
                remote_traceback=remote,
            )
        return PluginRaisedError(
            f"raised {cause}",
            plugin=self.plugin,
            hook=pending.hook,
            step=pending.step,
            remote_traceback=remote,
        )


def _hint(signal_name: str) -> str:
    if signal_name in ("SIGSEGV", "SIGBUS"):
        return " (a write to a tensor that it may only read, or a fault in native code)"
    return ""


def _last_frame(remote_traceback: str) -> str:
    """Return where in the plugin's files it happened, as `` (file:line)``."""
    frames = re.findall(r'File "([^"\n]+)", line (\d+)', remote_traceback)
    return f" ({frames[-1][0]}:{frames[-1][1]})" if frames else ""
