"""Monitor: watches and reports; the weights are the same without it."""

from __future__ import annotations

from ..role import Method, Moment, Role, hookspec
from ..trees import Tree
from ..types import Batch, Gradients, Metrics, Parameters, Report, StepInfo


@hookspec
def monitor_forward(
    batch: Batch, outputs: Tree, loss: float, step: StepInfo, metrics: Metrics
) -> Report | None:
    """Watch a forward pass.

    Called every ``every`` steps, for the step's first micro-batch, on a copy.
    The loop waits only for one that the job lets ``step.ask`` for something: one
    that is still busy is skipped, and the skip counted.

    Args:
        batch: The batch as the model saw it, before normalisation.
        outputs: What the model returned; a tree of all its tensors if it is no tensor.
        loss: Mean over the batch, with the terms that plugins added.
        step: Counters.
        metrics: Last evaluation: ``loss``, metrics, ``step``; last epoch: ``train_loss``, ``epoch``; or none.

    If it fails: it is disabled (by default) and the run goes on.
    """


@hookspec
def monitor_backward(
    parameters: Parameters, updates: Parameters, gradients: Gradients, step: StepInfo, metrics: Metrics
) -> Report | None:
    """Watch the end of a step.

    Called every ``every`` steps on a copy; the loop does not wait.

    Args:
        parameters: Parameter name to value, after the update.
        updates: Parameter name to what this step added to it.
        gradients: Parameter name to gradient, as the optimizer got it.
        step: Counters.
        metrics: As of ``forward``.

    If it fails: it is disabled (by default) and the run goes on.
    """


MONITOR = Role(
    "monitor",
    forward=Method(monitor_forward, Moment.AFTER_LOSS),
    backward=Method(monitor_backward, Moment.AFTER_UPDATE),
    on_failure="disable",
    observes=True,
)
