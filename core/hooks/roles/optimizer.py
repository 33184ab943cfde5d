"""Optimizer: changes parameters; a job has exactly one."""

from __future__ import annotations

from ..role import Method, Moment, Role, hookspec
from ..types import AnotherPass, Gradients, Parameters, StepInfo


@hookspec
def optimizer_forward(parameters: Parameters, step: StepInfo) -> Parameters | None:
    """Change the parameters before the forward pass (look-ahead).

    Called once a step, before its first micro-batch.

    Args:
        parameters: Parameter name to value.
        step: Counters; ``pass_index`` is 0.

    Returns:
        Parameters of the same names, shapes and dtypes, all finite; ``None`` keeps them.

    If it fails: ``restart`` replays from the last snapshot, ``abort`` ends the run with a checkpoint.
    """


@hookspec
def optimizer_backward(
    parameters: Parameters, gradients: Gradients, loss: float, step: StepInfo
) -> Parameters | AnotherPass | None:
    """Update the parameters from the gradients.

    Called once per optimizer step; multiply your learning rate by
    ``step.lr_factor``. Return ``AnotherPass(parameters)`` to get the gradients
    at another point of the same batch; at most 100 times a step.

    Args:
        parameters: Parameter name to value; ``parameters.clone()`` is where to write the result.
        gradients: Parameter name to gradient; absent where the loss does not depend on the parameter.
        loss: Mean over the step's batches, of this pass.
        step: Counters; ``pass_index`` counts the passes.

    Returns:
        Parameters of the same names, shapes and dtypes, all finite; ``None`` keeps them.

    If it fails: ``restart`` replays from the last snapshot, ``abort`` ends the run with a checkpoint.
    """


OPTIMIZER = Role(
    "optimizer",
    forward=Method(optimizer_forward, Moment.PARAMETERS, changes="parameters"),
    backward=Method(optimizer_backward, Moment.UPDATE, changes="parameters"),
    may_disable=False,
    exactly_one=True,
)
