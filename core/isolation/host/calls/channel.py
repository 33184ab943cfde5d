"""The host's end of one worker: requests in order, replies in the same order, each within its deadline."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import select
import signal
import socket
import struct
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from typing import NoReturn

from ....hooks.errors import (
    REFUSED,
    PluginCrashedError,
    PluginError,
    PluginLoadError,
    PluginMemoryError,
    PluginProtocolError,
    PluginRaisedError,
    PluginTimeoutError,
    Raised,
    add_traceback,
    visible,
    with_raised,
)
from ....plugins.machine_memory import MIB
from ....plugins.plugin_frames import raised_at, spot
from ....plugins.stop_request import StopRequest
from ....plugins.transient_errors import as_transient
from ...transport.messages import (
    AT_ONCE,
    MAX_MESSAGE_BYTES,
    Fault,
    FromWorker,
    Listening,
    Locked,
    MessageError,
    Ready,
    ToWorker,
    from_worker,
    receive,
    receive_with_fds,
    send,
)
from ..limits.account import Account
from ..limits.deadlines import HostClock, is_ready_by
from ..limits.stray_descriptors import Queue, refuse_descriptors
from ..limits.worker_process import DEATH_S, Process
from .spin import Spin

#: For what is sent outside of a call: locking up, starting, state.
_LIFE_DEADLINE_S = 30.0
#: The last words of native code in Rust and C++ that is refused memory.
_OUT_OF_MEMORY = re.compile(r"memory allocation of \d+ bytes failed|std::bad_alloc")
_SIGNAL_NAMES = {each.value: each.name for each in signal.Signals}


class Pending:
    """A request that has been sent.

    Attributes:
        seq: Its number.
        hook: ``"<role>.<method>"`` for messages.
        step: Global step, or None.
        reply: What came back, once it has.
        elapsed_s: Time from when the worker could begin until the reply was read.
        take_listener: Is handed the descriptor that may come before the reply; None if none may.
    """

    __slots__ = ("elapsed_s", "hook", "reply", "sent_at", "seq", "step", "take_listener")

    def __init__(self, seq: int, hook: str | None, step: int | None, began_at: float) -> None:
        self.seq = seq
        self.hook = hook
        self.step = step
        self.sent_at = began_at
        self.elapsed_s = 0.0
        self.reply: FromWorker | None = None
        self.take_listener: Callable[[int], None] | None = None


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
        advise: Says what else to tell of what the plugin raised, its traceback and the file that it was
            refused, at the end of a message.
        stop: Cuts off what is waited for, once the user wants the run to end.
        clock: What deadlines are told by.
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
        advise: Callable[[str, str, bytes], str] = lambda *_: "",
        stop: StopRequest | None = None,
        clock: HostClock | None = None,
    ) -> None:
        self.plugin = plugin
        self.process = process
        self.limit_bytes = limit_bytes
        self._sock = sock
        self._account = account
        self._reap = reap
        self._oom_kills = oom_kills
        self._advise = advise
        self._stop = stop or StopRequest()
        self._clock = clock or HostClock()
        self._buffer = bytearray(MAX_MESSAGE_BYTES)
        self._numbers = itertools.count(1)
        self._pending: deque[Pending] = deque()
        self._answered_at = 0.0
        self._began_at = self._clock.now()
        self._deadline_s = _LIFE_DEADLINE_S
        self._hook: str | None = None
        self._step: int | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._spins: defaultdict[str | None, Spin] = defaultdict(Spin)
        self._room = select.poll()
        self._room.register(sock, select.POLLOUT)
        # One system call waits and receives. The kernel ends it in time for a look whether the run is to end.
        sock.settimeout(None)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(StopRequest.LOOK_S))
        self._error: PluginError | None = None
        self._timed_out: float | None = None
        self._closed = False

    def begin(self, deadline_s: float, hook: str | None = None, step: int | None = None) -> None:
        """Start the clock of one request: all that is sent for it, and the reply, share one deadline.

        Args:
            deadline_s: Longest time for it.
            hook: ``"<role>.<method>"`` for messages about what goes before the request itself.
            step: Global step, likewise.
        """
        self._hook, self._step = hook, step
        self._clock.caller = threading.get_native_id()
        self._began_at = self._clock.now()
        self._deadline_s = deadline_s

    def reserve(self, result_bytes: int) -> None:
        """Keep memory of the worker's budget for the results that it writes, ``result_bytes`` in all.

        Raises:
            PluginMemoryError: With what it holds already that would be more than its budget.
        """
        if self.process.ceiling is None:
            return
        try:
            held = self.process.ceiling.reserve(result_bytes)
        except (FileNotFoundError, ProcessLookupError):
            return  # what is sent next tells why it has ended
        if held:
            raise PluginMemoryError(
                f"needs {result_bytes / MIB:.0f} MiB for what it returns and saves, and holds "
                f"{held / MIB:.0f} MiB of its {self.limit_bytes / MIB:.0f} MiB budget already "
                "(stopped by the host, before they were made)",
                plugin=self.plugin,
                hook=self._hook,
                step=self._step,
                used_bytes=held + result_bytes,
                limit_bytes=self.limit_bytes,
                enforced_by="host",
            )

    def refuse_descriptors(self) -> None:
        """Take no descriptors from now on: the listener was the last."""
        if not refuse_descriptors(self._sock):
            self._account.queues.append(Queue(self._sock))

    def widen(self, nbytes: int) -> None:
        """Let the worker map ``nbytes`` more, or fewer if negative."""
        if self.process.ceiling is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.ceiling.widen(nbytes)

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
        fds: tuple[int, ...] = (),
        take_listener: Callable[[int], None] | None = None,
    ) -> Pending:
        """Send a request, with descriptors if any; its reply comes through ``wait``."""
        self._send(message, fds, hook, step)
        pending = Pending(seq, hook, step, self._began_at)
        pending.take_listener = take_listener
        self._pending.append(pending)
        self.process.calls.begin()
        return pending

    def wait(self, pending: Pending, deadline_s: float) -> FromWorker:
        """Return the reply to ``pending``.

        Replies to requests before it are kept for whoever waits for those.

        Args:
            deadline_s: Longest time for each request, counted from when the
                worker could begin with it.

        Raises:
            PluginError: The one that fits: no reply, death, a fault, or nonsense.
            CutOffError: The user wants the run to end, and the time for that is over.
        """
        while pending.reply is None:
            self._take(deadline_s)
        if isinstance(pending.reply, Fault):
            self._note_last()
            raise self._from_fault(pending.reply, pending)
        return pending.reply

    def answered(self, pending: Pending, deadline_s: float) -> bool:
        """Tell whether the reply to ``pending`` is there, without waiting; raises as ``wait`` does."""
        while pending.reply is None and self._poll.poll(0):
            self._take(deadline_s)
        if pending.reply is None and self._clock.now() > self._due(deadline_s):
            self._take(deadline_s)
        return pending.reply is not None

    def reject(self, why: str, pending: Pending) -> PluginProtocolError:
        """End the worker because of what it sent, and return the error to raise."""
        error = PluginProtocolError(why, plugin=self.plugin, hook=pending.hook, step=pending.step)
        self._error = error
        self._note_last()
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
        while True:
            try:
                send(self._sock, message, fds, AT_ONCE)
            except BlockingIOError:
                self._wait_for_room(hook, step)
            except OSError:
                self._die(hook, step)
            else:
                return

    def _wait_for_room(self, hook: str | None, step: int | None) -> None:
        """Wait until the worker, whose queue is full, reads; not past the deadline of the request."""
        due = self._began_at + self._deadline_s
        if not is_ready_by(self._room, due, self._stop, self._clock):
            self._check_time(hook, step)
            self._timed_out = self._deadline_s
            self._die(hook, step)

    def _check_time(self, hook: str | None, step: int | None) -> None:
        """Give up what is under way if nothing is waited for any more: the plugin is not to blame."""
        where = "its start" if hook is None else f"'{hook}'"
        at = "" if step is None else f" at step {step}"
        self._stop.check(f"plugin '{self.plugin}' in {where}{at}")

    def _due(self, deadline_s: float) -> float:
        return max(self._pending[0].sent_at, self._answered_at) + deadline_s

    def _take(self, deadline_s: float) -> None:
        """Receive one reply and give it to the oldest request."""
        oldest = self._pending[0]
        if self._error is not None:
            raise self._error
        try:
            reply = self._next(oldest, deadline_s)
        except EOFError:
            if not self._hung_up():
                raise self.reject("sent an empty message", oldest) from None
            self._die(oldest.hook, oldest.step)
        except OSError:
            self._die(oldest.hook, oldest.step)
        except MessageError as error:
            raise self.reject(f"sent {error}", oldest) from error
        if isinstance(reply, Listening):
            return
        expected = 0 if isinstance(reply, (Locked, Ready)) else reply.seq
        if expected != oldest.seq:
            raise self.reject(f"answered request {expected} when {oldest.seq} was asked", oldest)
        now = self._clock.now()
        oldest.elapsed_s = now - max(oldest.sent_at, self._answered_at)
        oldest.reply = reply
        self._answered_at = now
        self._pending.popleft()
        if not self._pending:
            self.process.calls.end()

    def _next(self, oldest: Pending, deadline_s: float) -> FromWorker:
        due = self._due(deadline_s)
        if not self._stop.is_made() and due - self._clock.now() > StopRequest.LOOK_S:
            # Nothing ends before this wait does, so that it needs no more than one system call.
            self._spins[oldest.hook].wait(self._poll)
            try:
                return self._receive(oldest)
            except BlockingIOError:
                pass  # it is waited for below, with more care
        if not is_ready_by(self._poll, due, self._stop, self._clock):
            self._check_time(oldest.hook, oldest.step)
            self._timed_out = deadline_s
            self._die(oldest.hook, oldest.step)
        return self._receive(oldest)

    def _receive(self, oldest: Pending) -> FromWorker:
        """Receive a message, and a descriptor only where one may come: once, before a reply to it."""
        if oldest.take_listener is None:
            reply = receive(self._sock, from_worker, self._buffer)
            if isinstance(reply, Listening):
                raise MessageError("a listener that was not asked for")
            return reply
        reply, fds = receive_with_fds(self._sock, from_worker, 1)
        take_listener, oldest.take_listener = oldest.take_listener, None
        if isinstance(reply, Listening) and fds:
            take_listener(fds[0])
            return reply
        for fd in fds:
            os.close(fd)
        if isinstance(reply, Listening):
            raise MessageError("a listener without a descriptor")
        return reply

    def _hung_up(self) -> bool:
        """Tell whether the worker has closed its end, which an empty message looks like."""
        return any(events & (select.POLLHUP | select.POLLERR) for _, events in self._poll.poll(0))

    def _die(self, hook: str | None, step: int | None) -> NoReturn:
        """Make sure that the worker is dead, find out why, and raise that."""
        if self._timed_out is not None:
            self.process.abort()
        self.process.kill()
        status = self._reap(self.process)
        self.process.end_log()
        self._error = self._cause_of_death(status, hook, step)
        if not getattr(self._error, "stderr_tail", ""):
            self._note_last()  # which the message does not tell
        raise self._error

    def _note_last(self) -> None:
        if not self._closed:
            self.process.note_last()

    def _cause_of_death(self, status: int | None, hook: str | None, step: int | None) -> PluginError:
        plugin, where = self.plugin, self.process.died_at()
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
            timeout = PluginTimeoutError(
                f"no reply within {self._timed_out:g} s; its worker was killed{raised_at(where)}. "
                "Raise deadline_s or disable the plugin",
                plugin=plugin,
                hook=hook,
                step=step,
            )
            return add_traceback(timeout, where)
        if self.process.hangs:
            return PluginCrashedError(
                f"its worker was killed and did not end within {DEATH_S:g} s: the kernel holds it, mostly "
                "for a slow disk; its files are left until it has ended",
                plugin=plugin,
                hook=hook,
                step=step,
                signal_name="SIGKILL",
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
        if status == -signal.SIGABRT and _OUT_OF_MEMORY.search(tail):
            return self._memory_error(self._account.usage.peak_bytes, "RLIMIT_DATA", hook, step)
        if status < 0:
            name = _SIGNAL_NAMES.get(-status, f"signal {-status}")
            crash = PluginCrashedError(
                f"its worker was ended by {name}{raised_at(where)}{_hint(name)}{printed}",
                plugin=plugin,
                hook=hook,
                step=step,
                signal_name=name,
                stderr_tail=tail,
            )
            return add_traceback(crash, where)
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
        said, remote = visible(fault.message), visible(fault.traceback)
        name = visible(fault.error_type)
        cause = f"{name}: {said}".rstrip() if name else said.rstrip()
        if fault.kind in {"result", "not finite"}:
            by_its_code = fault.kind == "result"
            return PluginProtocolError(
                cause, plugin=self.plugin, hook=pending.hook, step=pending.step, by_its_code=by_its_code
            )
        if fault.kind == "refused":
            return PluginLoadError(
                f"{REFUSED}: {cause}",
                plugin=self.plugin,
                hook=pending.hook,
                step=pending.step,
                remote_traceback=remote,
            )
        advice = self._advise(cause, remote, fault.refused_file)
        if fault.kind == "load":
            found = spot(remote)
            where = "" if found is None else f" ({found.file}:{found.line})"
            failed = PluginLoadError(
                f"could not be loaded: {cause}{where}{advice}",
                plugin=self.plugin,
                remote_traceback=remote,
            )
            return with_raised(failed, Raised(name, f"{said.rstrip()}{where}{advice}", fault.during))
        raised = PluginRaisedError(
            f"raised {cause}{raised_at(remote)}{advice}",
            plugin=self.plugin,
            hook=pending.hook,
            step=pending.step,
            remote_traceback=remote,
        )
        return as_transient(raised) if fault.kind == "transient" else raised


def _timeval(seconds: float) -> bytes:
    return struct.pack("ll", int(seconds), round(seconds % 1 * 1e6))


def _hint(signal_name: str) -> str:
    if signal_name in ("SIGSEGV", "SIGBUS"):
        return (
            " (a write to a tensor that it may only read, or a fault in native code); "
            "what a hook is given may only be read, so start from its .clone()"
        )
    return ""
