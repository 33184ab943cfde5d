"""Hold back the signals that end a program until its run has a checkpoint, then let them do what they do."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from ..plugins.stop_request import StopRequest

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class HeldSignals:
    """Turns the first signal of a run into a request to stop; the second ends the run at once.

    Signals are held only while a run goes on, and only in the main thread: nowhere else does Python let
    anybody handle them. One that is ignored stays so.

    Attributes:
        request: As in ``Interruption``, as are the others.
        within_s: Likewise.
        has_begun: Likewise.
        tell: Likewise.
    """

    def __init__(self) -> None:
        self.request = StopRequest()
        self.within_s = 0.0
        self.has_begun: Callable[[], bool] = lambda: False
        self.tell: Callable[[str], None] = to_stderr
        self._before: dict[int, Any] = {}
        self._arrived: list[int] = []

    def starting(self) -> None:
        """Hold signals from now on: there is something to end in order."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            # None: one that C code handles cannot be put back.
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._handle)

    def release(self) -> None:
        """Put the handlers back; safe to call twice."""
        for number, handler in self._before.items():
            # Somebody's own, of the run's time, stays.
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler)
        self._before.clear()

    def deliver(self) -> None:
        """Have the first signal that was held do what it does: Ctrl-C raises, SIGTERM ends the process.

        Raises:
            KeyboardInterrupt: As a rule, if it was Ctrl-C.
        """
        arrived, self._arrived = self._arrived, []
        if arrived:
            signal.raise_signal(arrived[0])

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - a signal handler's signature
        self._arrived.append(number)
        if len(self._arrived) > 1:
            self.request.make(0.0)
            raise KeyboardInterrupt
        is_training = self.has_begun()
        self.request.make(self.within_s if is_training else 0.0)
        if is_training:
            self.tell(
                f"stopping after this step, with a checkpoint, within {self.within_s:g} s; "
                "once more ends at once"
            )


def to_stderr(text: str) -> None:
    """Write one line; not at all where that is what a signal has interrupted."""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()
