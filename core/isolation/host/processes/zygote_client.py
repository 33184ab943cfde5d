"""The host's end of the zygote: start it, have it fork and collect workers, notice when it is lost."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import time

from ....plugins.stop_request import StopRequest
from ...transport.messages import (
    Fork,
    Forked,
    FromZygote,
    MessageError,
    Reap,
    Reaped,
    Refused,
    StillEnding,
    ToZygote,
    from_zygote,
    receive_with_fds,
    send,
)
from ..limits.worker_process import DEATH_S
from .zygote_process import Started, start_process

#: Importing torch takes seconds on a loaded machine; the first reply waits for it.
START_S = 120.0
REPLY_S = 20.0
#: The same once the user wants the run to end and the time for that is over.
_LAST_REPLY_S = 0.5
_STARTING = "starting a process for a plugin"
#: How long one that has closed its socket may take to end, before it is killed.
_END_S = 1.0


class ZygoteLostError(Exception):
    """The zygote ended or did not do as asked; it has been killed, and its workers with it.

    Attributes:
        may_retry: Another one may do better: this one was ended, it neither failed to start nor hung.
    """

    def __init__(self, reason: str, *, may_retry: bool = False) -> None:
        super().__init__(reason)
        self.may_retry = may_retry


class NotEndedError(Exception):
    """A worker that was killed has not ended yet, as when the kernel waits for a disk on its behalf."""


class ForkRefusedError(Exception):
    """The kernel has refused the zygote another process; what there is goes on."""


class Zygote:
    """One zygote, from start to end; imports torch while the host goes on.

    Args:
        generation: How many there were before it in this run.
        stop: Cuts off what is waited for, once the user wants the run to end.
        started: Its process, where that was started before.
    """

    def __init__(
        self, generation: int, stop: StopRequest | None = None, started: Started | None = None
    ) -> None:
        self.generation = generation
        self._stop = stop or StopRequest()
        self._has_answered = False
        self._has_optimizers = False
        self._is_closed = False
        self._process, self._control = started or start_process()
        self._control.settimeout(REPLY_S)
        #: How long the next reply may take.
        self._patience_s = START_S
        self._readable = select.poll()
        self._readable.register(self._control, select.POLLIN)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def has_ended(self) -> bool:
        """Tell whether it is gone, by itself or by ``close``."""
        return self._is_closed or self._process.poll() is not None

    def kill(self) -> None:
        """Send SIGKILL to it."""
        self._process.kill()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.wait()

    def close(self) -> None:
        """End it, and its workers with it; safe to call twice."""
        self._control.close()
        self._process.kill()
        self._is_closed = True
        # Killed, it hangs only where the kernel holds it, mostly for a slow disk: it ends when it can.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(DEATH_S)

    def fork(self, worker_socket: int, log: int, *, for_optimizer: bool = False) -> tuple[int, int]:
        """Fork a worker that is handed two descriptors; returns its process id and a pidfd.

        Args:
            worker_socket: The worker's end of its socket.
            log: The worker's end of the pipe that takes what it prints.
            for_optimizer: It shares what optimizers import, which is imported for the first of them.

        Raises:
            ForkRefusedError: There can be no other process now.
            ZygoteLostError: It is gone.
            CutOffError: The user wants the run to end, and the time for that is over.
        """
        self._stop.check(_STARTING)
        if for_optimizer and not self._has_optimizers:
            self._patience_s, self._has_optimizers = START_S, True
        reply, fds = self._ask(Fork(for_optimizer), (worker_socket, log))
        match reply:
            case Forked(pid) if len(fds) == 1:
                return pid, fds[0]
            case Refused(reason):
                raise ForkRefusedError(reason)
        for fd in fds:
            os.close(fd)
        self.close()
        raise ZygoteLostError(f"it answered a fork with {type(reply).__name__}")

    def reap(self, pid: int) -> int | None:
        """Collect a worker of its own; None if that, or it, is gone.

        Raises:
            NotEndedError: It can be collected later.
        """
        try:
            reply, _ = self._ask(Reap(pid))
        except ZygoteLostError:
            return None
        match reply:
            case Reaped(collected, status) if collected == pid:
                return status
            case StillEnding(there) if there == pid:
                raise NotEndedError
            case Refused():
                return None
        self.close()
        return None

    def _ask(self, message: ToZygote, fds: tuple[int, ...] = ()) -> tuple[FromZygote, list[int]]:
        try:
            send(self._control, message, fds)
            self._await_reply(may_be_cut_off=isinstance(message, Fork))
            reply, received = receive_with_fds(self._control, from_zygote, 1)
        except (OSError, EOFError, MessageError) as error:
            raise self._lost(error) from error
        except BaseException:
            # A reply that comes later would be taken for one to another request.
            self.close()
            raise
        self._patience_s = REPLY_S
        self._has_answered = True
        return reply, received

    def _await_reply(self, *, may_be_cut_off: bool) -> None:
        due = time.monotonic() + self._patience_s
        while not self._stop.is_over:
            left = due - time.monotonic()
            if self._readable.poll(int(self._stop.shortest(left) * 1000) + 1):
                return
            if left <= 0:
                raise TimeoutError
        if may_be_cut_off:
            self._stop.check(_STARTING)
        # To collect a worker takes no time, or it hangs.
        self._patience_s = _LAST_REPLY_S
        if not self._readable.poll(_LAST_REPLY_S * 1000):
            raise TimeoutError

    def _lost(self, error: Exception) -> ZygoteLostError:
        if isinstance(error, TimeoutError):
            reason = f"it did not answer within {self._patience_s:g} s"
            self.close()
            return ZygoteLostError(reason)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            reason = f"{type(error).__name__} {error}".strip()
        else:
            reason = f"it ended with status {self._process.returncode}"
        failed = not self._has_answered and (self._process.returncode or 0) > 0
        self.close()
        if failed:
            reason += (
                " as it started, after what it printed above. It imports ringfence and torch from where this "
                "process does, but not from the current folder or that of a script: install them there"
            )
        return ZygoteLostError(reason, may_retry=not failed)
