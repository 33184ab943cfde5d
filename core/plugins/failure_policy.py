"""The policy on faults: restart a plugin, disable it or give up, and the record of all faults.

``docs/failures.md`` tells users the same in their terms.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from ..hooks.errors import PluginError, shorten, traceback_of, visible
from .interface import PluginSpec
from .number_words import counted
from .plugin_frames import own_frames

Decision = Literal["restarted", "disabled", "aborted"]

#: Restarts of one plugin before the run has come to a new snapshot; one more fault ends the run.
MAX_RESTARTS_IN_A_ROW = 3
#: Pause before each of those. A fault that comes alone costs none; what fails because the machine is short
#: of something, such as memory or processes, gets time for it to pass.
BACK_OFF_S = (0.0, 0.5, 2.0)
#: Restarts of one plugin, with progress between them, within so many steps; one more fault ends the run.
BREAKER_RESTARTS = 20
BREAKER_STEPS = 1000
#: Faults of a run that are kept from its beginning, and as many from its end; those between are counted.
FAULTS_KEPT = 200
#: Characters of a fault's message that are kept: what a worker printed last may be 25,000.
MAX_MESSAGE = 1000
#: Characters of a fault's traceback that are kept, its last ones.
MAX_TRACEBACK = 4000
#: Tracebacks of one plugin that are kept; what fails again mostly fails at the same line.
TRACEBACKS_KEPT = 20


@dataclass(frozen=True, slots=True)
class FaultRecord:
    """One fault of a plugin, and what was decided.

    Attributes:
        step: Optimizer steps finished before the call that failed.
        plugin: As the job names it.
        hook: ``"<role>.<method>"``, or None outside a hook, as when it starts.
        error: Class of the error.
        message: What happened and what was decided, cut to ``MAX_MESSAGE`` characters.
        decision: ``"restarted"``, ``"disabled"`` or ``"aborted"``: the run ended there.
        steps_lost: Finished steps that have to be taken again.
        recovery_s: From the decision until the run could go on, pauses included; 0 if not restarted.
        traceback: The plugin's part of it, cut to ``MAX_TRACEBACK`` characters; ``""`` where there is none,
            or it is that of an earlier fault of the plugin.
    """

    step: int
    plugin: str
    hook: str | None
    error: str
    message: str
    decision: Decision
    steps_lost: int = 0
    recovery_s: float = 0.0
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class RunPosition:
    """The position of a run when a fault was noticed.

    Attributes:
        step: Optimizer steps finished.
        steps_lost: Those since the snapshot that it goes back to.
    """

    step: int
    steps_lost: int = 0


@dataclass(frozen=True, slots=True)
class Restart:
    """Start the plugin anew, ``after_s`` seconds from now."""

    after_s: float


@dataclass(frozen=True, slots=True)
class Disable:
    """Go on without the plugin."""


@dataclass(frozen=True, slots=True)
class Abort:
    """End the run; ``why`` is told behind the fault, if that alone does not say it."""

    why: str = ""


class FaultLog:
    """The faults of a run: the first and the last ``FAULTS_KEPT``, and how many there were."""

    def __init__(self) -> None:
        self._first: list[FaultRecord] = []
        self._last: deque[FaultRecord] = deque(maxlen=FAULTS_KEPT)
        self.count = 0
        self.steps_lost = 0

    @property
    def records(self) -> list[FaultRecord]:
        """The faults that are kept, in order."""
        return [*self._first, *self._last]

    @property
    def left_out(self) -> int:
        """How many were dropped from the middle."""
        return self.count - len(self._first) - len(self._last)

    def add(self, fault: FaultRecord) -> None:
        """Take the next one."""
        (self._first if len(self._first) < FAULTS_KEPT else self._last).append(fault)
        self.count += 1
        self.steps_lost += fault.steps_lost

    def replace(self, fault: FaultRecord, by: FaultRecord) -> None:
        """Put what is known now in the place of ``fault``; nothing if that was dropped."""
        for faults in (self._first, self._last):
            for i, each in enumerate(faults):
                if each is fault:
                    faults[i] = by
                    return


@dataclass(slots=True)
class _History:
    """The restarts of one plugin: how many since the last snapshot, where each of the latest was, and why."""

    in_a_row: int = 0
    said: str = ""
    furthest: int = 0
    latest: deque[RunPosition] = field(default_factory=deque)

    def forget_before(self, step: int) -> None:
        self.furthest = max(self.furthest, step)
        while self.latest and self.latest[0].step <= self.furthest - BREAKER_STEPS:
            self.latest.popleft()


class FailurePolicy:
    """Decides what a fault means, counts what was decided, and tells it once.

    Args:
        tell: Takes a sentence.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.log = FaultLog()
        self._tell = tell
        self._histories: dict[str, _History] = {}
        self._recovering: tuple[FaultRecord, float] | None = None
        self._tracebacks: dict[str, set[str]] = {}

    def decide(self, error: PluginError, place: RunPosition, spec: PluginSpec) -> Restart | Disable | Abort:
        """Say what a fault means; nothing is counted before it is done.

        Args:
            error: The fault.
            place: Where the run stood.
            spec: What the job says of the plugin.
        """
        if spec.on_failure != "restart":
            return Disable() if spec.on_failure == "disable" else Abort()
        history = self._history(error.plugin, place.step)
        if history.in_a_row >= MAX_RESTARTS_IN_A_ROW:
            return Abort(
                f"; it was restarted {history.in_a_row} times in a row before, without coming to the next "
                "snapshot"
            )
        if len(history.latest) >= BREAKER_RESTARTS:
            return Abort(_broken(history, may_disable=spec.role_info.may_disable))
        return Restart(BACK_OFF_S[history.in_a_row])

    def restart(self, error: PluginError, place: RunPosition, pause_s: float) -> None:
        """Note that a plugin is started anew, ``pause_s`` seconds from now."""
        self.recovered()  # as far as it came: starting it anew is what has failed now
        history = self._histories[error.plugin] = self._history(error.plugin, place.step)
        history.in_a_row += 1
        history.latest.append(place)
        said = _again(error) if history.in_a_row > 1 and history.said == str(error) else str(error)
        history.said = str(error)
        told = f"{said}; restarted ({history.in_a_row} of {MAX_RESTARTS_IN_A_ROW} in a row)"
        if pause_s:
            told += f" after {pause_s:g} s"
        if place.steps_lost:
            told += f", {counted(place.steps_lost, 'step')} to take again"
        self._recovering = self._note(error, place, told, "restarted"), time.perf_counter()
        self._tell(told)

    def recovered(self) -> None:
        """Note that the plugin started anew is at work again, and the run back at its snapshot."""
        if self._recovering is not None:
            fault, began = self._recovering
            self.log.replace(fault, dataclasses.replace(fault, recovery_s=time.perf_counter() - began))
            self._recovering = None

    def disable(self, error: PluginError, place: RunPosition) -> None:
        """Note that the run goes on without a plugin."""
        told = f"{error}; disabled, the run goes on without it"
        self._note(error, place, told, "disabled")
        self._tell(told)

    def stop(self, error: PluginError, place: RunPosition) -> None:
        """Note that a plugin is not started anew, since the user has asked the run to stop."""
        self.recovered()
        told = f"{error}; not restarted, since the run is to stop: it ends with its last snapshot"
        self._note(error, place, told, "aborted")
        self._tell(told)

    def abort(self, error: PluginError, place: RunPosition, why: str) -> None:
        """Note that the run ends at a fault; whoever ends it tells.

        Args:
            error: The fault.
            place: Where the run stood.
            why: What is told.
        """
        self.recovered()
        self._note(error, place, why, "aborted")

    def progressed(self) -> None:
        """Note that a new snapshot was taken: restarts before it no longer count as in a row."""
        for history in self._histories.values():
            history.in_a_row = 0

    def _history(self, plugin: str, step: int) -> _History:
        """Return a copy of what is known of a plugin that counts at ``step``."""
        known = self._histories.get(plugin, _History())
        history = dataclasses.replace(known, latest=deque(known.latest))
        history.forget_before(step)
        return history

    def _note(self, error: PluginError, place: RunPosition, told: str, decision: Decision) -> FaultRecord:
        fault = FaultRecord(
            place.step if error.step is None else error.step,
            error.plugin,
            error.hook,
            type(error).__name__,
            truncate(told),
            decision,
            place.steps_lost,
            traceback=self._new_traceback(error),
        )
        self.log.add(fault)
        return fault

    def _new_traceback(self, error: PluginError) -> str:
        known = self._tracebacks.setdefault(error.plugin, set())
        told = "\n".join(own_frames(visible(traceback_of(error)).splitlines()))
        told = told if len(told) <= MAX_TRACEBACK else f"…{told[1 - MAX_TRACEBACK :]}"
        if told in known or len(known) >= TRACEBACKS_KEPT:
            return ""
        known.add(told)
        return told


def truncate(message: str) -> str:
    """Return as much of a message as is kept."""
    return shorten(message, MAX_MESSAGE)


def _again(error: PluginError) -> str:
    """Return where a fault was that is told in full already: it may be of fifty lines."""
    return str(PluginError("the same again", plugin=error.plugin, hook=error.hook, step=error.step))


def _broken(history: _History, *, may_disable: bool) -> str:
    span = history.furthest - history.latest[0].step
    cost = sum(place.steps_lost for place in history.latest)
    otherwise = ", or write 'on_failure: disable' beside it if the run makes sense without" * may_disable
    return (
        f"; it was restarted {len(history.latest)} times within the last {counted(span, 'step')} before, and "
        f"{counted(cost, 'step')} had to be taken again for it. Find out why it fails so often{otherwise}"
    )
