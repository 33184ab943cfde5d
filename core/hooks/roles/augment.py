"""Augment: changes batches before the model sees them."""

from __future__ import annotations

from torch import Tensor

from ..role import Method, Moment, Role, hookspec
from ..types import Batch, StepInfo


@hookspec
def augment_forward(batch: Batch, step: StepInfo) -> Batch | None:
    """Change a batch before the model sees it.

    Called once for every micro-batch, ahead of the loop. Plugins run in the
    job's order, each on the batch of the one before; ``None`` passes.

    Args:
        batch: Inputs in [0, 1] for images; see ``Batch``.
        step: The step that the batch is for; ``step.generator()`` for randomness.

    Returns:
        A batch with inputs of the same form, shapes and dtypes, and targets likewise
        or, for a class a sample, (B, K) float32 probabilities.

    If it fails: ``restart`` replays from the last snapshot; ``disable`` passes the batch on unchanged.
    """


@hookspec
def augment_backward(losses: Tensor, step: StepInfo) -> None:
    """Learn from the loss of each sample.

    Called for every micro-batch, after the optimizer.

    Args:
        losses: (B,) float32, in the order of the batch that ``forward`` got.
        step: That batch's counters.

    If it fails: as ``augment.forward``.
    """


AUGMENT = Role(
    "augment",
    forward=Method(augment_forward, Moment.BATCH, changes="batch"),
    backward=Method(augment_backward, Moment.AFTER_STEP),
    runs_ahead=True,
)
