"""Observers of a run: one class, its methods in the order in which they are called.

    plugins_started(plugins, order)
    started(info)
    for each step:
        reported(plugin, step, ...)           # whenever a plugin has logged or reported something
        sampled(batch, step)                  # first step of the run only
        wants_loss(step) -> bool
        step(step, loss, samples)
        evaluated(step, epoch, metrics, best) # when one is due
        evaluated_beside(step, epoch, metrics, part, name)  # then, for each average of the weights
        position() -> plain data              # for each snapshot
        checkpointed(step, path)              # when one is due
    predicted(part, batch, outputs)           # at the end of a run that comes to it, for each batch
    tested(step, epoch, metrics)              # then, where there are test data that judged nothing before
    rolled_back(to_step, position)            # after a plugin's fault, and when a run is resumed
    event(message)                            # at any time

The engine never reads a clock for an observer: rates, bars and times are its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ..hooks.types import Batch, Report, StepInfo
from .interface import Plugin


@dataclass(frozen=True, slots=True)
class RunInfo:
    """Facts of a run that are known before the first step.

    Attributes:
        first_step: Steps that a resumed run has done already; 0 for a new one.
        steps_total: Optimizer steps that the job asks for.
        steps_per_epoch: Optimizer steps in one pass over the training data.
        train_samples: Samples in the training data.
        test_samples: Samples in the test data; 0 if there are none.
        parameters: Numbers in the model's parameters, tied ones once.
        device: ``"cpu"``, ``"cuda:0"``, ….
        metric: Name of the job's metric, a key of what ``evaluated`` gets.
        higher_is_better: Direction of the metric.
        validation_samples: Samples in the validation data; 0 if there are none.
        judged_by: The part that ``evaluated`` tells of: ``"validation"``, or ``"test"`` without one.
        directions: Name of each metric to whether higher is better.
    """

    first_step: int
    steps_total: int
    steps_per_epoch: int
    train_samples: int
    test_samples: int
    parameters: int
    device: str
    metric: str
    higher_is_better: bool
    validation_samples: int = 0
    judged_by: str = "test"
    directions: Mapping[str, bool] = field(default_factory=dict)


class Observer:
    """Takes no notice of anything; whoever wants to overrides what it wants to know.

    It must neither raise, but for a full disk, nor change what it is given. The engine's calls are made by
    the thread that trains, between steps; the plugins' manager makes ``reported`` and ``event``.
    """

    def plugins_started(self, plugins: Sequence[Plugin], order: Mapping[str, Sequence[str]]) -> None:
        """Take the plugins, in the job's order, once all run; ``order`` is hook to names, in firing order."""

    def started(self, info: RunInfo) -> None:
        """Take what is known before the first step; after ``rolled_back`` when the run is resumed."""

    def sampled(self, batch: Batch, step: StepInfo) -> None:
        """Take the first batch of the run as the model saw it: augmented, not yet normalised.

        Called again if the run rolls back to its start; ``batch`` is valid during the call only.
        """

    def wants_loss(self, step: StepInfo) -> bool:  # noqa: ARG002 - the signature of all
        """Tell whether ``step`` should be given the loss: reading it makes the host wait for a GPU."""
        return False

    def step(self, step: StepInfo, loss: float | None, samples: int) -> None:
        """Take the end of one optimizer step.

        Args:
            step: Its counters; ``step.global_step`` steps were finished before it.
            loss: Mean over the step's samples, with the terms that plugins added;
                None unless ``wants_loss`` asked for it.
            samples: Training samples in the step.
        """

    def evaluated(self, step: int, epoch: int, metrics: Mapping[str, float], *, best: bool) -> None:
        """Take an evaluation on the part of the data that the run is judged by, ``RunInfo.judged_by``.

        Args:
            step: Steps finished.
            epoch: Passes over the training data finished, rounded down.
            metrics: ``loss`` and the job's metric, by name.
            best: Whether the metric is the best so far.
        """

    def evaluated_beside(
        self, step: int, epoch: int, metrics: Mapping[str, float], *, part: str, name: str
    ) -> None:
        """Take an evaluation of an average of the weights, which the run keeps beside them.

        Args:
            step: As in ``evaluated``.
            epoch: As there.
            metrics: As there.
            part: ``"validation"`` or ``"test"``; that on the test data comes once, at the end.
            name: ``"ema"`` or ``"swa"``.
        """

    def wants_predictions(self) -> bool:
        """Tell whether ``predicted`` is to be called: one more pass where test data have judged already."""
        return False

    def predicted(self, part: str, batch: Batch, outputs: Tensor) -> None:
        """Take what the finished model makes of a batch of the part that the run's last figures are of.

        Called for all batches of it in order, if ``wants_predictions``; anew from the first in a run that is
        resumed after it was stopped meanwhile.

        Args:
            part: ``"test"``, or ``"validation"`` where there are no test data.
            batch: Not normalised, on the CPU; ``batch.indices`` are the samples' places in what was read.
            outputs: The model's, on its device; like ``batch``, valid during the call only.
        """

    def tested(self, step: int, epoch: int, metrics: Mapping[str, float]) -> None:
        """Take the one evaluation on the test data, at the end of a run that was judged by others.

        Args:
            step: Steps after which the model had these weights; with ``restore_best`` the best's.
            epoch: As in ``evaluated``.
            metrics: As there.
        """

    def checkpointed(self, step: int, path: Path) -> None:
        """Note that the state after ``step`` steps was written to the folder ``path``."""

    def position(self) -> Any:
        """Return where the record ends now: plain data, for example the length of a file in bytes.

        Monitors have been drained before, so that all reports of earlier steps are in.
        """
        return None

    def rolled_back(self, to_step: int, position: Any) -> None:
        """Drop what was recorded after ``position``: steps from ``to_step`` on will come again.

        Args:
            to_step: Steps finished at the snapshot or checkpoint that was restored.
            position: What ``position`` returned there. A resumed run gets the one from its
                checkpoint, so it must make sense to a new process that opens the same files.
        """

    def reported(
        self, plugin: str, step: StepInfo, scalars: Mapping[str, float], report: Report | None
    ) -> None:
        """Take what ``plugin`` logged or returned at ``step``."""

    def event(self, message: str) -> None:
        """Take something that the user should know, such as a decision about a plugin, as a sentence."""
