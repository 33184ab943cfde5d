"""A plugin that fails when it is told to from outside, by a signal, once in each of its processes."""

from __future__ import annotations

import os
import signal
import time

import torch

from ringfence import Gradients, StepInfo, passthrough


class Faulty:
    """Change nothing; fail in the call after SIGUSR1.

    Args:
        kind: ``raise``, ``exit``, ``memory`` or ``hang``.
    """

    role = "gradient"
    forward = passthrough

    def __init__(self, *, kind: str = "raise") -> None:
        self._kind = kind
        self._told = False
        signal.signal(signal.SIGUSR1, self._tell)

    def _tell(self, *_: object) -> None:
        self._told = True

    def backward(self, gradients: Gradients, step: StepInfo) -> None:
        """Fail if told to."""
        del gradients
        if not self._told:
            return
        if self._kind == "exit":
            os._exit(7)
        if self._kind == "memory":
            torch.zeros(1 << 40, dtype=torch.uint8)
        if self._kind == "hang":
            time.sleep(600)
        raise RuntimeError(f"told to fail before step {step.global_step}")

    def state_dict(self) -> dict[str, int]:
        """Return what it needs to go on: nothing."""
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take it."""
