"""Recover a run after a plugin's fault, or end it with a checkpoint."""

from __future__ import annotations

import contextlib
import functools
import re
import shlex
import time
import traceback
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import NoReturn

from ...hooks.errors import (
    CheckpointError,
    CutOffError,
    PluginError,
    PluginLoadError,
    PluginProtocolError,
    PluginRaisedError,
    RingfenceError,
    RunAbortedError,
    SandboxUnavailableError,
    is_by_its_code,
    shorten,
    visible,
)
from ...hooks.roles.optimizer import OPTIMIZER
from ...imports.user_frames import user_frames
from ...plugins.failure_policy import Abort, Disable, Restart, RunPosition
from ...plugins.manager import Hooks
from ...plugins.number_words import counted
from ...plugins.transient_errors import is_transient
from ...tensors.finite import is_finite
from ..checkpoints.fingerprint import ACCEPT_FLAG
from ..session import Session
from ..state import Snapshot, restart_without_state
from ..tensor_names import tied_names
from .snapshots import restore, write

#: How often a pause before a restart looks whether the user wants the run to stop.
_LOOK_S = 0.02
#: A model may put whole tensors into its message.
_MAX_MESSAGE = 2000
_NAMES_EXPLAINED = 3
_GIVEN_GRADIENTS = ("gradient.backward", "optimizer.backward")


def recover(run: Session, error: PluginError) -> bool:
    """Restart the plugin that failed and restore the last snapshot, or end the run.

    Restarting may fail in its turn; each such fault counts as one more in a row, so this ends. Before
    the first snapshot nothing has been trained, and there is nothing to restore.

    Returns:
        Whether the run goes on. It does not if the user has asked it to stop: a plugin is then not started
        once more for nothing, and the last snapshot is on disk.

    Raises:
        RunAbortedError: The plugin's policy is to abort, it failed too often, it
            cannot be isolated any more, or the run has diverged and no plugin is
            to blame.
        PluginError: As before, but there is no snapshot yet; or it failed in the first step of a new run, and
            would fail again.
    """
    snapshot, failures = run.snapshot, run.hooks.failures
    place = _position(run)
    given_up = place.steps_lost
    if snapshot is not None:
        _end_if_it_must(run, snapshot, error, place)
    while True:
        if snapshot is not None and run.stop.is_made():
            failures.stop(error, place)
            run.steps_given_up = given_up
            _go_back(run, snapshot)
            return False
        abort: Abort | None = Abort()
        try:
            # Before a snapshot that is what its state is made of: it could not be saved the next time either.
            if snapshot is not None or not isinstance(error, PluginProtocolError):
                abort = act(run.hooks, error, place, functools.partial(_pause, run))
            if snapshot is not None and abort is None:
                restart_without_state(run.hooks, snapshot, but=error.plugin)
                restore(run, snapshot)
        except SandboxUnavailableError as fault:
            # A little later there may be a process for it again, or another to fork it from.
            why = f"could not be restarted: {fault}"
            error, place = PluginLoadError(why, plugin=error.plugin), RunPosition(place.step)
            error.__cause__ = fault
        except PluginError as fault:
            # The steps are lost once, whatever it takes to come back to them.
            error, place = fault, RunPosition(place.step)
        else:
            if abort is not None:
                _end(run, error, place, abort.why, "; the run was ended")
            failures.recovered()
            return True


def act(hooks: Hooks, error: PluginError, place: RunPosition, wait: Callable[[float], None]) -> Abort | None:
    """Do what is decided on a fault: start the plugin anew, leave it out, or give it up.

    A plugin that may be left out is: some faults, as of a state that cannot be saved, are known here only.

    Args:
        hooks: The plugins.
        error: The fault.
        place: Where the run stood when it was noticed.
        wait: Waits so many seconds, or less if the user wants the run to stop.

    Returns:
        The decision if the run is to end.

    Raises:
        PluginError: The plugin did not start.
        SandboxUnavailableError: It cannot be isolated any more.
    """
    plugin = hooks.failing(error)
    match hooks.failures.decide(error, place, plugin.spec):
        case Disable():
            hooks.disable(plugin, error, place)
        case Restart(after_s):
            hooks.failures.restart(error, place, after_s)
            plugin.usage.restarts += 1
            wait(after_s)
            plugin.restart()
        case Abort() as abort:
            plugin.usage.state = "failed"
            plugin.close()
            return abort
    return None


def end_at_snapshot(run: Session, error: CutOffError) -> None:
    """End a run whose step could not be finished in time as it was at its last snapshot.

    Raises:
        CutOffError: There is no snapshot yet, so that nothing was trained.
        CheckpointError: It cannot be written.
    """
    snapshot = run.snapshot
    if snapshot is None:
        raise error
    run.steps_given_up = run.progress.step - snapshot.progress.step
    run.best = None
    _go_back(run, snapshot)
    run.observer.event(
        f"{error}; the run ends as it was after {counted(snapshot.progress.step, 'step')}, its last "
        f"snapshot, with {run.steps_given_up} to take again"
    )


def end_by_fault(run: Session, error: BaseException) -> BaseException:
    """Write the last snapshot of a run that something else than a plugin has ended.

    Args:
        run: As it was left.
        error: What the model, the loss, the schedule or the engine raised, or the disk's.

    Returns:
        The error to end with, which says how to go on.
    """
    snapshot = run.snapshot
    # A plugin's error is that of a first step: nothing was trained.
    if snapshot is None or isinstance(error, (CheckpointError, KeyboardInterrupt, PluginError)):
        return error
    if isinstance(error, RunAbortedError):
        # It says how to go on. If it came of a plugin, that was done.
        if not isinstance(error.__cause__, PluginError):
            with contextlib.suppress(CheckpointError, RunAbortedError):
                _go_back(run, snapshot)
        return error
    frames = [] if isinstance(error, RingfenceError) else user_frames(error)
    ended = _abort(run, snapshot, _describe(error, run.progress.step))
    return RunAbortedError("\n    ".join([str(ended), *frames]))


def _describe(error: BaseException, step: int) -> str:
    if isinstance(error, SystemExit):
        code = "" if error.code is None else repr(error.code)
        return f"the run was ended at step {step} by sys.exit({code})"
    # Of another's exceptions even __str__ may raise.
    is_ours = isinstance(error, RingfenceError)
    said = str(error) if is_ours else "".join(traceback.format_exception_only(error))
    return f"the run failed at step {step}: {shorten(said.strip().rstrip('.'), _MAX_MESSAGE)}"


def _position(run: Session) -> RunPosition:
    """Return where the run stands; one that is being resumed has not taken the steps that it begins with."""
    if run.snapshot is None:
        return RunPosition(run.progress.step)
    kept = run.snapshot.progress.step
    return RunPosition(max(run.progress.step, kept), max(run.progress.step - kept, 0))


def _pause(run: Session, seconds: float) -> None:
    """Wait, but no longer than until the user wants the run to stop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and not run.stop.is_made():
        time.sleep(min(left, _LOOK_S))


def _end_if_it_must(run: Session, snapshot: Snapshot, error: PluginError, place: RunPosition) -> None:
    """Raise what ends the run at a fault that no restart would mend."""
    if _has_diverged(run, error):
        raise _abort(run, snapshot, _divergence_advice(error), _with_smaller_steps(run)) from error
    if _would_fail_again(run, error):
        _end(run, error, place, _explain_names(run, error.cause), nothing_trained=not run.resumed)


def _end(
    run: Session,
    error: PluginError,
    place: RunPosition,
    why: str,
    then: str = "",
    *,
    nothing_trained: bool = False,
) -> NoReturn:
    """Note that a fault ends the run, and raise what says so, and ``why``."""
    error.cause += why
    run.hooks.failures.abort(error, place, f"{error}{then}")
    if run.snapshot is None or nothing_trained:
        raise error
    raise _abort(run, run.snapshot, f"{error}{then}") from error


def _would_fail_again(run: Session, error: PluginError) -> bool:
    """Tell whether a plugin has failed in its first call, and would in every one."""
    plugin = next(plugin for plugin in run.hooks.plugins if plugin.spec.name == error.plugin)
    if run.progress.step != run.first_step or error.step not in (None, run.first_step):
        return False
    if plugin.spec.on_failure != "restart":
        return False
    if isinstance(error, PluginProtocolError):
        return is_by_its_code(error)
    if isinstance(error, PluginRaisedError) and not is_transient(error):
        known = run.raised.get(error.plugin)
        run.raised[error.plugin] = error.cause
        return known == error.cause
    return isinstance(error, PluginLoadError) and error.hook is not None


def _explain_names(run: Session, text: str) -> str:
    """Say what is tied or frozen of the parameters whose names stand in what a plugin says, or a pattern."""
    known, tied = run.state.weights.values, tied_names(run.state.model)
    patterns = [p for p in re.findall(r"'([^'\n]+)'", text) if not any(fnmatchcase(n, p) for n in known)]
    found = [name for name in tied if any(fnmatchcase(name, pattern) for pattern in patterns)]
    told = [f"; '{name}' is tied to '{tied[name]}', which is the name of both" for name in found]
    told += [
        f"; '{name}' is frozen by the job, and no plugin has it"
        for name in run.state.weights.frozen
        if any(fnmatchcase(name, pattern) for pattern in patterns)
    ]
    return "".join(told[:_NAMES_EXPLAINED])


def _has_diverged(run: Session, error: PluginError) -> bool:
    """Tell whether a plugin failed at what it was given: gradients that are not finite."""
    return error.hook in _GIVEN_GRADIENTS and not all(map(is_finite, run.state.weights.gradients.values()))


def _divergence_advice(error: PluginError) -> str:
    return (
        f"the gradients at step {error.step} are not finite: training has diverged, and '{error.plugin}' "
        "was the first to be given them. Lower the learning rate, warm up longer or clip the gradients"
    )


def _with_smaller_steps(run: Session) -> str:
    """Say how a run that has diverged goes on: what of its job is changed then has to be accepted by name."""
    spec = next((p.spec for p in run.hooks.plugins if p.spec.role == OPTIMIZER.name), None)
    lr = None if spec is None else spec.options.get("lr")
    if spec is None or not isinstance(lr, int | float) or not lr:
        return (
            f"start anew with another job, or go on with a changed one: {ACCEPT_FLAG} then names "
            "what is changed"
        )
    key = f"plugins.{spec.name}.lr"
    return (
        "start anew with another job, or go on with smaller steps, for example with "
        f"`{_resume(run)} --set {key}={lr / 10:g} {ACCEPT_FLAG} {key}`"
    )


def _go_back(run: Session, snapshot: Snapshot) -> None:
    """Bring all but the plugins, which are about to end, back to ``snapshot``, and write that to disk."""
    _put_on_disk(run, snapshot)
    run.state.restore(snapshot)


def _put_on_disk(run: Session, snapshot: Snapshot) -> None:
    """Have the record and the newest checkpoint say what ``snapshot`` does; needs nothing of the model."""
    run.observer.rolled_back(snapshot.progress.step, snapshot.position)
    write(run, snapshot)


def _abort(run: Session, snapshot: Snapshot, why: str, then: str = "") -> RunAbortedError:
    """Write the last snapshot to disk and return the error that says so, and what to do ``then``."""
    try:
        _put_on_disk(run, snapshot)
    except (CheckpointError, RunAbortedError) as error:
        # The plugin's fault matters more than that the disk may be full as well.
        kept = "" if run.checkpoint is None else f"; go on from {run.checkpoint} with `{_resume(run)}`"
        return RunAbortedError(f"{why}. Its last state could not be kept: {error}{kept}")
    try:
        run.state.restore(snapshot)
    except Exception as error:  # noqa: BLE001 - set_extra_state may raise anything, and a device that failed
        why += f" (nor does the model take its state back: {shorten(visible(str(error)), _MAX_MESSAGE)})"
    if run.checkpoint is None:
        return RunAbortedError(f"{why}. Nothing was kept, since no folder for checkpoints was given")
    then = then or f"once the cause is removed, go on with `{_resume(run)}`"
    return RunAbortedError(
        f"{why}. Its state after {counted(snapshot.progress.step, 'step')} is in {run.checkpoint}; {then}"
    )


def _resume(run: Session) -> str:
    return f"--resume {'' if run.checkpoints is None else shlex.quote(str(run.checkpoints.parent))}"
