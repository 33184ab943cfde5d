"""The end of a run: the best weights, if it is to end with those, and the one look at the test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from ..hooks.errors import CheckpointError
from ..hooks.types import Batch
from .checkpoints.checkpoint import read_checkpoint
from .checkpoints.manifest import DamagedError, step_of
from .checkpoints.retention import list_by_metric
from .data import Dataset
from .evaluate import evaluate, standing_in
from .forks import ending_forks
from .session import BestWeights, Session


def measure(
    run: Session, dataset: Dataset, take: Callable[[Batch, Tensor], None] | None = None
) -> dict[str, float] | None:
    """Evaluate the model of a run on ``dataset``, as ``evaluate`` does; None if it was stopped."""
    with ending_forks():
        return evaluate(
            run.state.model,
            dataset,
            run.setup.objective,
            run.stepper.normalise,
            batch_size=run.setup.config.eval_batch_size,
            device=run.state.device,
            stop=run.stop,
            unsteady=run.setup.tried.unsteady,
            take=take,
        )


def measure_beside(run: Session) -> dict[str, dict[str, float]] | None:
    """Evaluate what drivers have beside the model's own weights, as the model is; None if it was stopped."""
    found = {}
    for driver in run.state.drivers:
        tensors = driver.beside()
        if tensors is None:
            continue
        with standing_in(run.state.model, tensors):
            metrics = measure(run, run.setup.data.judging)
        if metrics is None:
            return None
        found[driver.name] = metrics
    return found


def tell_not_finite(run: Session, part: str, metrics: Mapping[str, float]) -> None:
    """Tell the user where an evaluation on ``part`` has come to nothing."""
    metric = run.setup.config.metric
    if math.isnan(metrics[metric]):
        run.observer.event(
            f"at step {run.progress.step} the model's outputs for {part} samples are not finite: {metric} "
            "is NaN, which is no improvement and never the best; a lower learning rate, or gradclip, may help"
        )


def restore_best(run: Session) -> None:
    """Give the model the weights of the best checkpoint; of damaged ones the next best is taken, and told.

    Raises:
        CheckpointError: The run has none that can be read, or no folder for any.
    """
    if run.checkpoints is None:
        raise CheckpointError("restore_best needs a folder for checkpoints; name the run's folder")
    limits, tell = run.state.limits(run.hooks), run.observer.event
    candidates = list_by_metric(run.checkpoints, tell)
    if candidates and step_of(candidates[0]) == run.progress.step:
        return
    faults = []
    for path in candidates:
        try:
            found = run.state.restore_model(read_checkpoint(path, limits), path)
        except DamagedError as error:
            faults.append(f"{error}")
            continue
        for fault in faults:
            tell(f"{fault}; taking {path.name} in its place")
        run.best = BestWeights(path, found)
        tell(f"the weights are the best again, those of step {found.step}{_why(run, found.step)}")
        return
    if faults:
        raise CheckpointError(f"the best weights cannot be restored: {'; '.join(faults)}")
    tell("no evaluation has come to a number, so that none is the best: the weights are the last")


def _why(run: Session, step: int) -> str:
    """Say why the best checkpoint is not of the best evaluation, if it is not."""
    best = run.progress.best_step
    return "" if best in (None, step) else f": of step {best}, which was evaluated as better, there is none"


def evaluate_finally(run: Session) -> bool:
    """Look at the test data, once: nothing of the run can follow from what is seen.

    Where they have judged the run all along, they are looked at again only for an observer that wants the
    predictions. So is the validation part where there is no test part.

    Returns:
        Whether it came to its end; a run that was stopped meanwhile tests when it is resumed.
    """
    data, observer = run.setup.data, run.observer
    progress = run.progress if run.best is None else run.best.progress
    part, dataset = ("test", data.test) if data.test is not None else (data.judged_by, data.judging)
    is_new, is_wanted = part != data.judged_by, observer.wants_predictions()
    metrics: dict[str, float] | None = dict(progress.metrics)
    if is_new or is_wanted:

        def take(batch: Batch, outputs: Tensor) -> None:
            observer.predicted(part, batch, outputs)

        metrics = measure(run, dataset, take if is_wanted else None)
    if metrics is None:
        return False
    if data.test is not None:
        run.test_metrics = metrics
    if is_new:
        observer.tested(progress.step, run.setup.plan.epoch(progress.step), metrics)
        tell_not_finite(run, part, metrics)
    return True
