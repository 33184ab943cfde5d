"""Snapshots of a run, in memory and on disk, and the way back to one."""

from __future__ import annotations

import functools
import math

from ...hooks.errors import CheckpointError
from ..checkpoints.checkpoint import write_checkpoint
from ..checkpoints.retention import list_checkpoints
from ..session import Session
from ..state import Snapshot, load_plugin_states


def take_snapshot(run: Session, *, checkpoint: bool) -> None:
    """Take a snapshot, and write it to disk if asked to."""
    for sentence in run.state.changed_buffers(run.snapshot):
        _tell_once(run, sentence)
    run.count_losses()
    snapshot = run.state.snapshot(run.hooks, run.observer, run.snapshot)
    run.snapshot = snapshot
    run.hooks.progressed()
    if checkpoint:
        write(run, snapshot)


def keep_last(run: Session) -> None:
    """Make sure that the present state is on disk, and that the monitors' reports are in."""
    if run.checkpoints is not None and run.checkpointed_step != run.progress.step:
        take_snapshot(run, checkpoint=True)
    else:
        run.hooks.drain()


def write(run: Session, snapshot: Snapshot) -> None:
    """Write ``snapshot`` as a checkpoint, unless that was done."""
    progress = snapshot.progress
    if run.checkpoints is None or run.checkpointed_step == progress.step:
        return
    value = progress.metrics.get(run.setup.config.metric, math.nan)
    judged = progress.evaluated_step == progress.step and not math.isnan(value)
    contents = snapshot.contents(
        value if judged else None, higher_is_better=run.setup.objective.metric.higher_is_better
    )
    run.checkpoint = write_checkpoint(
        run.checkpoints,
        contents,
        run.fingerprint.values,
        keep=run.setup.config.keep_checkpoints,
        environment=run.fingerprint.environment,
        describe=run.describe,
        note=functools.partial(_tell_once, run),
    )
    run.checkpointed_step = progress.step
    run.observer.checkpointed(progress.step, run.checkpoint)


def _tell_once(run: Session, message: str) -> None:
    """Tell what is found anew at each checkpoint."""
    if message not in run.told:
        run.told.add(message)
        run.observer.event(message)


def refuse_used_folder(run: Session) -> None:
    """Check that a new run does not write among the checkpoints of an old one.

    Raises:
        CheckpointError: It would.
    """
    if run.checkpoints is not None and list_checkpoints(run.checkpoints):
        raise CheckpointError(
            f"{run.checkpoints} holds the checkpoints of another run; resume that one, or choose another "
            "folder"
        )


def restore(run: Session, snapshot: Snapshot) -> None:
    """Bring model, plugins and record back to ``snapshot``."""
    load_plugin_states(run.hooks, snapshot)
    run.state.restore(snapshot)
    run.observer.rolled_back(snapshot.progress.step, snapshot.position)
