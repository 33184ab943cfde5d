"""What becomes of a plugin's fault in a loop that is not ours: the call is made again, where it can be."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

from ..engine.recovery.recover import act
from ..hooks.errors import PluginError, PluginLoadError, RunAbortedError, SandboxUnavailableError
from ..plugins.failure_policy import Abort, RunPosition
from ..plugins.manager import Hooks
from ..plugins.moments import Firing
from ..plugins.number_words import counted
from ..run.load_plugins import Planned, refusal
from .saved_states import SavedStates

_Made = TypeVar("_Made")
Moments = Sequence[Firing[Any, Any]]


class Attempts:
    """Does what plugins may fail in, and does what is decided where they do.

    Args:
        hooks: The plugins.
        planned: As they were found and checked.
        save_every: Steps between saves of states; 0 saves none.
        step: Tells how many steps are finished.

    Attributes:
        saved: States of plugins from before their last calls.
        ended: Why the loop may go on no more; None while it may.
    """

    def __init__(
        self, hooks: Hooks, planned: Sequence[Planned], save_every: int, step: Callable[[], int]
    ) -> None:
        self._hooks, self._planned, self._save_every, self._step = hooks, planned, save_every, step
        self.saved = SavedStates(hooks)
        self.ended: str | None = None

    def check_open(self) -> None:
        """Refuse to go on once a fault has ended the loop, or the host is closed.

        Raises:
            RunAbortedError: So it is.
        """
        if self.ended is not None:
            raise RunAbortedError(self.ended)

    def attempt(self, phase: Callable[[], _Made], moments: Moments) -> _Made:
        """Do what plugins may fail in, again once those that failed are brought back to where they were.

        Args:
            phase: Leaves the loop as it was where it fails.
            moments: Whose plugins it calls.
        """
        stateful = self.saved.stateful(moments)
        while True:
            calls = {plugin.spec.name: plugin.usage.calls for plugin in stateful}
            try:
                made = phase()
            except PluginError as error:
                self._recover(error, calls)
            else:
                break
        every = self._save_every
        if stateful and every and self._step() % every == 0:
            try:
                self.saved.save(stateful)
            except PluginError as error:
                self._end(error, "; its state of this step is lost, so that it cannot be started anew")
        return made

    def show(self, phase: Callable[[], object]) -> None:
        """Do what only those that watch may fail in: what was to be seen is lost, and nothing hangs on it."""
        try:
            phase()
        except PluginError as error:
            self._recover(error, {})

    def _recover(self, error: PluginError, calls: Mapping[str, int]) -> None:
        """Start the plugin that failed anew with its last state, or leave it out.

        Args:
            error: The fault.
            calls: Plugins whose results depend on their calls, to how often each had been called.

        Raises:
            RunAbortedError: It may neither be left out nor be brought back to where it was.
        """
        if isinstance(error, PluginLoadError) and (told := refusal(self._planned, error)) is not None:
            raise told from error
        place, failures = RunPosition(self._step()), self._hooks.failures
        lacking = self.saved.lacking(calls)
        while True:
            if lacking and self._hooks.failing(error).spec.on_failure == "restart":
                self._end(error, _stale(lacking, self._save_every))
            abort: Abort | None
            try:
                abort = act(self._hooks, error, place, time.sleep)
                if abort is None:
                    self.saved.restore(calls.keys(), but=error.plugin)
            except SandboxUnavailableError as fault:
                error = PluginLoadError(f"could not be restarted: {fault}", plugin=error.plugin)
                error.__cause__ = fault
            except PluginError as fault:
                error = fault
            else:
                if abort is not None:
                    self._end(error, abort.why)
                failures.recovered()
                return

    def _end(self, error: PluginError, why: str) -> NoReturn:
        """Note that a fault ends the loop, and raise what says so."""
        plugin = self._hooks.failing(error)
        plugin.usage.state = "failed"
        plugin.close()
        error.cause += why
        self._hooks.failures.abort(error, RunPosition(self._step()), f"{error}; the loop was ended")
        self.ended = (
            f"{error}. The model is as it was after {counted(self._step(), 'step')}; save it, or go on from "
            "the loop's last checkpoint"
        )
        raise RunAbortedError(self.ended) from error


def _stale(names: Sequence[str], save_every: int) -> str:
    told = ", ".join(f"'{name}'" for name in names)
    advice = "" if save_every == 1 else "; write save_every=1 to keep it at every step"
    return f"; {told} had been called since its state was kept, so that the call cannot be made again{advice}"
