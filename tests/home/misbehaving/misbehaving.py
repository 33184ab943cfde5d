"""A plugin that fails in a way of one's choice, at a step of one's choice; else it changes nothing."""

import os
import signal
import time
from pathlib import Path

from ringfence import passthrough


class Misbehaves:
    """Fails.

    Args:
        how: ``"raise"``, ``"crash"``, ``"hang"`` or ``"leak"``.
        at: Step.
        once: A file that is made as it fails: while it is there it does not. ``""`` fails each time.
    """

    role = "gradient"
    forward = passthrough

    def __init__(self, how: str, at: int, once: str = "") -> None:
        self._how, self._at, self._once = how, at, once

    def backward(self, gradients, step):
        if step.global_step != self._at or (self._once and Path(self._once).exists()):
            return
        if self._once:
            Path(self._once).touch()
        if self._how == "raise":
            raise ValueError("as it was asked to")
        if self._how == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif self._how == "hang":
            time.sleep(60)
        else:
            kept = []
            while True:
                kept.append(bytearray(1 << 24))
