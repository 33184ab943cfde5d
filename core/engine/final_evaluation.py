"""The end of a run: its last figures, from the one look at the test data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from torch import Tensor

from ..hooks.types import Batch
from .data import Dataset
from .evaluate import evaluate, standing_in
from .forks import ending_forks
from .session import Session


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


def evaluate_finally(run: Session) -> bool:
    """Look at the test data, once: nothing of the run can follow from what is seen.

    Where they have judged the run all along, they are looked at again only for an observer that wants the
    predictions. So is the validation part where there is no test part.

    Returns:
        Whether it came to its end; a run that was stopped meanwhile tests when it is resumed.
    """
    data, progress, observer = run.setup.data, run.progress, run.observer
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
