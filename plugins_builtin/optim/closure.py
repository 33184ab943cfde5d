"""Optimizers that evaluate the loss themselves, driven from outside.

L-BFGS calls ``closure()`` whenever it wants loss and gradients at new parameters.
The plugin cannot evaluate anything: it returns the parameters to the engine and is
called again with the answer. So the step runs in a thread of its own that waits in
``closure`` while the engine works. Only one of the two threads runs at a time.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from .wrappers import Closure

#: What the hook's documentation allows.
MAX_PASSES = 100
#: The host's deadline ends a step that computes too long, a new step one that was
#: forgotten; this only keeps a thread from waiting for ever if neither comes.
WAIT_TIMEOUT_S = 3600.0


class _Cancelled(BaseException):
    """Ends a step that was given up; no optimizer that catches ``Exception`` can hold it."""


class ClosureStep:
    """One call of ``optimizer.step(closure)``, spread over several calls from outside.

    Args:
        step: Takes the closure; runs in a thread of its own without autograd.
    """

    def __init__(self, step: Callable[[Closure], object]) -> None:
        self._answers: queue.SimpleQueue[float | None] = queue.SimpleQueue()
        self._events: queue.SimpleQueue[BaseException | bool] = queue.SimpleQueue()
        self._asked = 0
        self._thread = threading.Thread(target=self._run, args=(step,), name="optimizer-step", daemon=True)
        self._thread.start()

    def advance(self, loss: float) -> bool:
        """Answer the closure that waits, or that comes first, and run on to the next one.

        Args:
            loss: At the current parameters, whose gradients the caller has set.

        Returns:
            True when the step is finished; False when it wants loss and gradients at new parameters.

        Raises:
            RuntimeError: The optimizer asks for more passes than a step may have.
            Exception: What the optimizer raised.
        """
        self._answers.put(loss)
        event = self._events.get(timeout=WAIT_TIMEOUT_S)
        if event is not False:
            self._thread.join(WAIT_TIMEOUT_S)
        if isinstance(event, BaseException):
            raise event
        return event

    def cancel(self) -> None:
        """Give the step up; whatever it changed stays as it is."""
        self._answers.put(None)
        self._thread.join(WAIT_TIMEOUT_S)

    def _run(self, step: Callable[[Closure], object]) -> None:
        try:
            with torch.no_grad():
                step(self._closure)
        except _Cancelled:
            return
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits, which raises it
            self._events.put(error)
        else:
            self._events.put(True)

    def _closure(self) -> Tensor:
        # The caller came with loss and gradients at the first point: no pass is needed for it.
        if self._asked:
            if self._asked > MAX_PASSES:
                raise RuntimeError(
                    f"the optimizer asked for more than {MAX_PASSES} passes in one step; lower max_iter"
                )
            self._events.put(False)
        self._asked += 1
        loss = self._answers.get(timeout=WAIT_TIMEOUT_S)
        if loss is None:
            raise _Cancelled
        return torch.tensor(loss)
