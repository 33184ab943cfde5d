"""How the user ends a run: Ctrl-C, SIGTERM, or a terminal that is closed.

Imports nothing that takes time: it is there before torch is.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn, Self

from ..hooks.errors import CutOffError
from ..plugins.stop_request import StopRequest
from .standard_streams import lead_nowhere

#: What ends an end at once that has not come to its end: then what is left is for the next run to sweep.
LAST_S = 1.0
#: The same after the first signal while plugins start: a run that has not begun has nothing to lose.
STARTING_S = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_TOLD = "interrupted before anything was started"
_SHOW_CURSOR = b"\x1b[?25h"
#: What ends the thread that counts; no signal has this number.
_OVER = b"\0"
#: Those that count at present.
_flags: list[StopFlag] = []
#: What a thread that forks had blocked before.
_masks = threading.local()


class StopFlag:
    """Turns the first signal into a request to stop, and the second into an end at once.

    ==================  =============================  =========================================
    while               the first                      the second
    ==================  =============================  =========================================
    preparing           raises ``KeyboardInterrupt``,  the same
                        and ends the process within
                        ``LAST_S``
    plugins start       cuts off what is waited for    raises ``KeyboardInterrupt``, and the same
    training            makes the request; what is     raises ``KeyboardInterrupt``, and the same
                        for is cut off after
                        ``within_s``
    ==================  =============================  =========================================

    Python handles a signal when its main thread comes to the next line, which may be long: in a
    plugin that is trusted, in the model, while a disk is slow. So a thread counts them as well. A third
    one ends the process there and then. A signal that was ignored stays so, as ``nohup`` wants it.

    A process that the user's code forks has none of this: signals do to it what they did before.

    Attributes:
        request: To be given to the run, and to whatever waits.
        within_s: How long the step under way may take.
        has_begun: Tells whether training has begun.
        tell: Takes a message, from any thread.
    """

    def __init__(self) -> None:
        self.request = StopRequest()
        self.within_s = 0.0
        self.has_begun: Callable[[], bool] = lambda: False
        self.tell: Callable[[str], None] = to_stderr
        self._is_preparing = True
        self._handled = 0
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []

    def __enter__(self) -> Self:
        self._terminals = [fd for fd in (1, 2) if os.isatty(fd)]
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._count, name="ringfence-signals", daemon=True)
        # Where no thread can be had, the sandbox says so in its turn.
        with contextlib.suppress(RuntimeError):
            self._thread.start()
        for number in _SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        _care_for_children()
        _flags.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handled > 1:
            # All is in order. What Python does to end itself may take seconds on a busy machine.
            self._leave()
        if self not in _flags:
            return  # a child that was forked unwinds the stack of its parent
        _flags.remove(self)
        self._release_signals()
        # Not by closing it: processes that native code has forked may hold it as well.
        os.write(self._write, _OVER)
        if self._thread.is_alive():
            self._thread.join()
        self._close()
        if self._is_preparing and self.request.is_made():
            to_stderr(_TOLD)
            if not isinstance(error, KeyboardInterrupt):
                # Whoever imports native code may make another error of it, or none.
                raise KeyboardInterrupt from error

    def starting(self) -> None:
        """Note that plugins are about to be started: from now on there is something to end in order.

        Raises:
            KeyboardInterrupt: There was a signal, and somebody has caught what it raised.
        """
        self._is_preparing = False
        if self.request.is_made():
            raise KeyboardInterrupt

    def forget(self) -> None:
        """In a child that was forked: be no part of it."""
        self._release_signals()
        self._close()

    def _release_signals(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)

    def _close(self) -> None:
        os.close(self._write)
        os.close(self._read)

    # in the main thread

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        self._handled += 1
        self._request()
        if self._handled == 1 and not self._is_preparing:
            return
        if self._handled <= 2:  # noqa: PLR2004 - the second signal
            if self._handled > 1:
                self.request.make(0.0)
            raise KeyboardInterrupt
        self._leave()

    def _request(self) -> None:
        self.request.make(self.within_s if self.has_begun() else 0.0)

    # in the thread

    def _count(self) -> None:
        """Count signals as they come, whatever the main thread does, and see to it that they are obeyed."""
        poll = select.poll()
        poll.register(self._read, select.POLLIN)
        count, leave_at = 0, None
        while True:
            left = None if leave_at is None else max(leave_at - time.monotonic(), 0.0) * 1000
            if not poll.poll(left):
                self._leave_if_late(count)
                leave_at = None
                continue
            arrived = os.read(self._read, 1)
            if arrived == _OVER:
                return
            if arrived[0] in self._before:
                count += 1
                leave_at = time.monotonic() + (LAST_S if count > 1 or self._is_preparing else STARTING_S)
                self._obey(arrived[0], count)

    def _obey(self, number: int, count: int) -> None:
        if number == signal.SIGHUP:
            self._leave_terminal()
        if count == 1:
            self._request()
            if self.has_begun():
                self._say()
        elif count == 2:  # noqa: PLR2004 - the second signal
            self.request.make(0.0)
        else:
            self._leave()

    def _leave_if_late(self, count: int) -> None:
        if self._is_preparing:
            to_stderr(_TOLD)
        if count > 1 or not self.has_begun():
            self._leave()

    def _say(self) -> None:
        # A terminal may be gone.
        with contextlib.suppress(OSError):
            self.tell(
                f"stopping after this step, with a checkpoint, within {self.within_s:g} s; "
                "once more ends at once"
            )

    def _leave_terminal(self) -> None:
        """Write nowhere what was to go to a terminal that is gone: an error there would end the run."""
        for fd in self._terminals:
            if not os.isatty(fd):
                lead_nowhere(fd)

    def _leave(self) -> NoReturn:
        """End here and now; the kernel ends the plugins, the next run sweeps their files."""
        for fd in self._terminals[:1]:
            with contextlib.suppress(OSError):
                os.write(fd, _SHOW_CURSOR)
        os._exit(CutOffError.exit_status)


@functools.cache
def _care_for_children() -> None:
    """Have each child that is forked from now on start without the flags; asked for once, it lasts."""
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_forget_flags)


def _hold_signals() -> None:
    # One that met the child before it had let go would count as one to its parent.
    _masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS if _flags else ())


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.before)


def _forget_flags() -> None:
    while _flags:
        _flags.pop().forget()
    _release_signals()


def to_stderr(text: str) -> None:
    """Write one line past Python's buffers, which the main thread may be using."""
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
