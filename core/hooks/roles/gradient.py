"""Gradient: changes gradients, or adds to the loss."""

from __future__ import annotations

from ..role import Method, Moment, Role, hookspec
from ..trees import Tree
from ..types import Batch, Gradients, LossScale, LossTerm, Parameters, StepInfo


@hookspec
def gradient_forward(batch: Batch, outputs: Tree, loss: float, step: StepInfo) -> LossTerm | LossScale | None:
    """Add a term to the loss, or scale it.

    Called for every micro-batch between the loss and ``loss.backward()``.
    Plugins run in the job's order; ``loss`` includes what those before changed.

    Args:
        batch: The batch as the model saw it, before normalisation.
        outputs: What the model returned, (B, K) for K classes; a tree of all its tensors if it is no tensor.
        loss: Mean over the batch, so far.
        step: Counters.

    If it fails: ``restart`` replays from the last snapshot; ``disable`` leaves the loss as it was.
    """


@hookspec
def gradient_backward(gradients: Gradients, parameters: Parameters, step: StepInfo) -> Gradients | None:
    """Change the gradients after ``loss.backward()``, before the optimizer.

    Called once per optimizer step, after gradient accumulation, and again for
    each further pass. Plugins run in the job's order, each on the result of the
    one before; ``None`` passes.

    Args:
        gradients: Parameter name to gradient; shape and dtype of its parameter.
        parameters: Parameter name to value, at the point where the gradients were taken.
        step: Counters.

    Returns:
        Gradients of the same names, shapes and dtypes, all finite.

    If it fails: ``restart`` replays from the last snapshot; ``disable`` leaves the gradients as they were.
    """


GRADIENT = Role(
    "gradient",
    forward=Method(gradient_forward, Moment.LOSS, changes="loss"),
    backward=Method(gradient_backward, Moment.GRADIENTS, changes="gradients"),
)
