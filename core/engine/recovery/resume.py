"""Resume a run from a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...hooks.errors import CheckpointError, JobError, PluginError, PluginRaisedError, RunAbortedError
from ..checkpoints.checkpoint import read_latest, read_newest
from ..checkpoints.fingerprint import ACCEPT_FLAG, Comparison, Fingerprint
from ..checkpoints.fingerprint_diff import ORDER, STATE
from ..checkpoints.manifest import read_manifest
from ..checkpoints.retention import list_checkpoints
from ..progress import Progress
from ..schedules import Watched
from ..session import Session
from ..state import Snapshot
from .recover import recover
from .snapshots import restore


def check_resumable(checkpoints: Path, fingerprint: Fingerprint) -> None:
    """Tell early, from little more than names, what ``resume_run`` would refuse.

    Args:
        checkpoints: Folder that holds all checkpoints of the run.
        fingerprint: Of the job that wants to resume.

    Raises:
        CheckpointError, JobError: As ``resume_run``.
    """
    for path in reversed(list_checkpoints(checkpoints)):
        try:
            fingerprint.compare(path, read_manifest(path))
        except (CheckpointError, JobError):
            break
        else:
            return
    # It may be damaged where its manifest is not; then another one counts.
    read_latest(checkpoints, fingerprint.compare, note=_drop)


def _drop(sentence: str) -> None:
    """Leave it to be told when the run is resumed."""


def resume_run(run: Session) -> Comparison:
    """Restore the latest intact checkpoint.

    Returns:
        How the job compares with it.

    Raises:
        CheckpointError: There is none, it is of another job or model, or a plugin does not take its state.
        JobError: The user accepts a difference that there is not.
    """
    if run.checkpoints is None:
        raise CheckpointError("there is no folder to resume from; name the run's folder")
    compared = Comparison()

    def agree(path: Path, manifest: Mapping[str, Any]) -> None:
        nonlocal compared
        compared = run.fingerprint.compare(path, manifest)

    path, snapshot = read_newest(
        run.checkpoints,
        agree,
        run.state.read,
        note=run.observer.event,
        limits=run.state.limits(run.hooks),
    )
    run.snapshot = replace(
        snapshot,
        plugins={name: state for name, state in snapshot.plugins.items() if name not in compared.fresh},
        progress=_rejudge(run, snapshot.progress, compared),
    )
    run.checkpoint, run.checkpointed_step = path, snapshot.progress.step
    _restore(run, run.snapshot, path)
    if compared.accepted:
        run.fingerprint.on_accepted(snapshot.progress.step, compared.accepted)
    return compared


def with_advice(
    error: RunAbortedError, run: Session, compared: Comparison, first_step: int
) -> RunAbortedError:
    """Return an error that ended a run, with what to try where a plugin could not go on from its state.

    Args:
        error: What ended it.
        run: As it ended.
        compared: How its job compares with the checkpoint that it went on from.
        first_step: Of that checkpoint.
    """
    cause = error.__cause__
    if run.progress.step != first_step or not isinstance(cause, PluginError):
        return error
    if not any(difference.key.startswith(f"{ORDER}.{cause.plugin}.") for difference in compared.accepted):
        return error
    return RunAbortedError(
        f"{error}. It failed in its first step with changed options: if its state does not fit them, start "
        f"it without, with {ACCEPT_FLAG} {STATE}{cause.plugin}"
    )


def _restore(run: Session, snapshot: Snapshot, path: Path) -> None:
    try:
        restore(run, snapshot)
    except PluginRaisedError as error:
        if error.hook is None or not error.hook.endswith(".load_state_dict"):
            raise
        raise CheckpointError(
            f"{error}. It does not take the state that it has in {path}; to start it without, "
            f"add: {ACCEPT_FLAG} {STATE}{error.plugin}"
        ) from error
    except PluginError as error:
        # It was killed, for example: that says nothing about the state.
        recover(run, error)


def _rejudge(run: Session, progress: Progress, compared: Comparison) -> Progress:
    """Return ``progress`` as this run judges: early stopping, metric and loss may be others than before."""
    progress = progress.copy()
    if compared.changes("metric"):
        # Values of two metrics cannot be compared: not even which of them is better.
        progress.best_metric = progress.best_step = progress.baseline = None
        progress.evaluations_without_gain = 0
        progress.plateau = Watched(progress.plateau.factor)
    if compared.changes("metric") or compared.changes("loss"):
        progress.metrics, progress.evaluated_step = {}, -1
    early = run.setup.config.early_stopping
    progress.stop_asked = progress.stop_asked and not compared.changes("allow")
    progress.stopped_early = progress.is_over(None if early is None else early.patience)
    return progress
