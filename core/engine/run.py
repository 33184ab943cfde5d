"""Where a run stands, what it keeps of that in memory and on disk, and how it comes back after a fault."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hooks.check import is_finite
from ..hooks.errors import CheckpointError, PluginError, RunAbortedError, SandboxUnavailableError
from ..hooks.manager import Hooks
from .checkpoint import list_checkpoints, read_latest, write_checkpoint
from .config import TrainConfig
from .data import Data, Plan
from .objective import Objective
from .recorder import Recorder
from .state import Progress, Snapshot, TrainState, load_plugin_states, restart_without_state
from .step import Stepper


@dataclass(slots=True)
class Run:
    """The objects of one run, and where it stands.

    Attributes:
        config: How to train.
        data: What to train and test on.
        plan: Which samples make which step.
        steps_total: Optimizer steps that were asked for.
        objective: Loss and metric.
        hooks: The plugins.
        state: What training changes.
        stepper: What one step works on.
        recorder: Told what happens.
        checkpoints: Folder for checkpoints; None writes none.
        fingerprint: What a resumed run must agree with.
        stop: Asked between steps.
        snapshot: The last one.
        checkpoint: The last one written.
        checkpointed_step: Its step; -1 if there is none.
    """

    config: TrainConfig
    data: Data
    plan: Plan
    steps_total: int
    objective: Objective
    hooks: Hooks
    state: TrainState
    stepper: Stepper
    recorder: Recorder
    checkpoints: Path | None
    fingerprint: Mapping[str, Any]
    stop: Callable[[], bool]
    snapshot: Snapshot | None = None
    checkpoint: Path | None = None
    checkpointed_step: int = -1

    @property
    def progress(self) -> Progress:
        """Counters."""
        return self.state.progress

    @property
    def finished(self) -> bool:
        """Whether no step is left, or early stopping has ended the run."""
        return self.progress.step >= self.steps_total or self.progress.stopped_early


def keep(run: Run, *, checkpoint: bool) -> None:
    """Take a snapshot, and write it to disk if asked to."""
    snapshot = run.state.snapshot(run.hooks, run.recorder)
    run.snapshot = snapshot
    run.hooks.progressed()
    if checkpoint:
        _write(run, snapshot)


def keep_last(run: Run) -> None:
    """Make sure that the present state is on disk, and that the monitors' reports are in."""
    if run.checkpoints is not None and run.checkpointed_step != run.progress.step:
        keep(run, checkpoint=True)
    else:
        run.hooks.drain()


def _write(run: Run, snapshot: Snapshot) -> None:
    """Write ``snapshot`` as a checkpoint, unless that was done."""
    progress = snapshot.progress
    if run.checkpoints is None or run.checkpointed_step == progress.step:
        return
    value = progress.metrics.get(run.config.metric, math.nan)
    judged = progress.evaluated_step == progress.step and not math.isnan(value)
    contents = snapshot.contents(
        value if judged else None, higher_is_better=run.objective.metric.higher_is_better
    )
    run.checkpoint = write_checkpoint(
        run.checkpoints, contents, run.fingerprint, keep=run.config.keep_checkpoints
    )
    run.checkpointed_step = progress.step
    run.recorder.checkpointed(progress.step, run.checkpoint)


def refuse_used_folder(run: Run) -> None:
    """Check that a new run does not write among the checkpoints of an old one.

    Raises:
        CheckpointError: It would.
    """
    if run.checkpoints is not None and list_checkpoints(run.checkpoints):
        raise CheckpointError(
            f"{run.checkpoints} holds the checkpoints of another run; resume that one, or choose another "
            "folder"
        )


def resume_run(run: Run) -> None:
    """Restore the latest intact checkpoint.

    Raises:
        CheckpointError: There is none, or it is of another job or model.
    """
    if run.checkpoints is None:
        raise CheckpointError("there is no folder to resume from; name the run's folder")
    path, contents = read_latest(run.checkpoints, run.fingerprint, note=run.recorder.event)
    run.snapshot = run.state.read(contents, path)
    run.checkpoint, run.checkpointed_step = path, contents.step
    _restore(run, run.snapshot)


def _restore(run: Run, snapshot: Snapshot) -> None:
    """Bring model, plugins and record back to ``snapshot``."""
    load_plugin_states(run.hooks, snapshot)
    run.state.restore(snapshot)
    run.recorder.rolled_back(snapshot.progress.step, snapshot.recorder)


def recover(run: Run, error: PluginError) -> None:
    """Restart the plugin that failed and restore the last snapshot, or end the run.

    Restarting may fail in its turn; each such fault counts as one more in a row, so this ends.

    Raises:
        RunAbortedError: The plugin's policy is to abort, it failed too often, it
            cannot be isolated any more, or the run has diverged and no plugin is
            to blame.
    """
    snapshot = run.snapshot
    if snapshot is None:
        raise error
    if error.hook in _GIVEN_GRADIENTS and not all(map(is_finite, run.state.weights.gradients.values())):
        raise _aborted(run, snapshot, _diverged(error)) from error
    while True:
        try:
            run.hooks.recover(error)
            restart_without_state(run.hooks, snapshot, but=error.plugin)
            _restore(run, snapshot)
        except SandboxUnavailableError as fault:
            why = f"{error}; it could not be restarted: {fault}"
            raise _aborted(run, snapshot, why) from fault
        except PluginError as fault:
            if fault is error:
                raise _aborted(run, snapshot, f"{error}; the run was ended") from error
            error = fault
        else:
            return


_GIVEN_GRADIENTS = ("gradient.backward", "optimizer.backward")


def _diverged(error: PluginError) -> str:
    return (
        f"the gradients at step {error.step} are not finite: training has diverged, and '{error.plugin}' "
        "was the first to be given them. Lower the learning rate, warm up longer or clip the gradients"
    )


def _aborted(run: Run, snapshot: Snapshot, why: str) -> RunAbortedError:
    """Write the last snapshot to disk and return the error that says so."""
    run.state.restore(snapshot)
    run.recorder.rolled_back(snapshot.progress.step, snapshot.recorder)
    if run.checkpoints is None:
        return RunAbortedError(f"{why}. Nothing was kept, since no folder for checkpoints was given")
    try:
        _write(run, snapshot)
    except CheckpointError as error:
        return RunAbortedError(f"{why}. Its state could not be kept: {error}")
    return RunAbortedError(
        f"{why}. Its state after {snapshot.progress.step} steps is in {run.checkpoint}; once the cause is "
        f"removed, go on with `--resume {run.checkpoints.parent}`"
    )
