"""Counters and judgements of a run."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from .metrics import Metric
from .schedules import Watched


@dataclass(frozen=True, slots=True)
class EpochLoss:
    """The training loss over the epoch that is under way, and over the one before.

    Attributes:
        since: Steps that were finished before the first one that is counted.
        until: And with the last one.
        total: Sum of their losses, each times what it is the mean over.
        weight: Sum of the latter: samples, or what else counts.
        mean: Over the last epoch that was counted whole; None before there is one.
        epoch: How many epochs were over with that one.
    """

    since: int = 0
    until: int = 0
    total: float = 0.0
    weight: float = 0.0
    mean: float | None = None
    epoch: int = 0

    def at(self, step: int) -> EpochLoss:
        """Return what goes on from ``step``: with nothing counted, unless all was that is over."""
        return self if self.until == step else EpochLoss(step, step, mean=self.mean, epoch=self.epoch)

    def plus(self, losses: Iterable[tuple[float, float]]) -> EpochLoss:
        """Count further steps, each by loss and weight; the loss of one without weight may be no number."""
        found = list(losses)
        return replace(
            self,
            until=self.until + len(found),
            total=self.total + sum(loss * weight for loss, weight in found if weight),
            weight=self.weight + sum(weight for _, weight in found),
        )

    def ended(self, epoch: int, steps_per_epoch: int) -> EpochLoss:
        """Begin the next epoch, when ``epoch`` of them are over."""
        is_whole = (self.since, self.until) == ((epoch - 1) * steps_per_epoch, epoch * steps_per_epoch)
        if is_whole and self.weight:
            return EpochLoss(self.until, self.until, mean=self.total / self.weight, epoch=epoch)
        return EpochLoss(self.until, self.until, mean=self.mean, epoch=self.epoch)


@dataclass(slots=True)
class Progress:
    """Counters and judgements of a run; plain data.

    Attributes:
        step: Optimizer steps finished.
        metrics: The last evaluation.
        evaluated_step: Steps finished when it was made; -1 if there was none.
        best_metric: The best value so far, None before the first evaluation.
        best_step: Where it was reached.
        baseline: What early stopping compares with: the last value that gained more than ``min_delta``.
        evaluations_without_gain: Evaluations since then.
        stopped_early: Whether early stopping, or a plugin that may ask for it, ended the run.
        stop_asked: Whether it was a plugin.
        asked_step: Steps finished when a plugin last asked for an evaluation; -1 if none did.
        plateau: What a schedule that waits for a plateau has seen.
        epoch_loss: The training loss by epochs, where a monitor is shown it.
    """

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    evaluated_step: int = -1
    best_metric: float | None = None
    best_step: int | None = None
    baseline: float | None = None
    evaluations_without_gain: int = 0
    stopped_early: bool = False
    stop_asked: bool = False
    asked_step: int = -1
    plateau: Watched = field(default_factory=Watched)
    epoch_loss: EpochLoss = field(default_factory=EpochLoss)

    def judge(
        self, metrics: dict[str, float], name: str, metric: Metric, patience: int | None, min_delta: float
    ) -> bool:
        """Take an evaluation into account.

        Args:
            metrics: What was measured.
            name: The job's metric, a key of ``metrics``.
            metric: Its direction.
            patience: Evaluations without a gain after which to stop; None never stops.
            min_delta: Gain that counts.

        Returns:
            Whether this is the best value so far.
        """
        value = metrics[name]
        self.metrics, self.evaluated_step = metrics, self.step
        best = metric.better(value, self.best_metric)
        if best:
            self.best_metric, self.best_step = value, self.step
        if metric.better(value, self.baseline, min_delta):
            self.baseline, self.evaluations_without_gain = value, 0
        else:
            self.evaluations_without_gain += 1
        self.stopped_early = self.is_over(patience)
        return best

    def is_over(self, patience: int | None) -> bool:
        """Tell whether the run ends before its last step, with so much patience; None has no end of it."""
        return self.stop_asked or (patience is not None and self.evaluations_without_gain >= patience)

    def copy(self) -> Progress:
        """Return a copy that later steps do not change."""
        return replace(self, metrics=dict(self.metrics))
