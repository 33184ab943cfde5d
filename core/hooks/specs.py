"""The hooks of one training step, in firing order.

    augment.forward(batch, step)
    optimizer.forward(parameters, step)
    # outputs = model(normalise(batch.inputs)); loss = criterion(outputs, batch.targets)
    gradient.forward(batch, outputs, loss, step)
    monitor.forward(batch, outputs, loss, step)
    # loss.backward()
    gradient.backward(gradients, parameters, step)
    optimizer.backward(parameters, gradients, loss, step)
    monitor.backward(parameters, updates, gradients, step)
    augment.backward(losses, step)

A plugin is a class with an attribute ``role`` and two methods, ``forward`` and
``backward``. A method may take any subset of its hook's arguments, by name. One
that has nothing to do is written ``forward = passthrough`` and costs nothing.

With gradient accumulation the forward hooks fire for every micro-batch, the
backward hooks once a step. ``augment.forward`` runs ahead of the loop, in
several workers; when ``augment.backward`` is not a pass-through it runs in step
with the loop, in one worker, so that what it learns never depends on timing.

Two more methods are optional for every role: ``state_dict()`` returns what the
plugin needs to go on after a restart (dicts, lists, strings, numbers, booleans,
None and tensors), and ``load_state_dict(state)`` takes it back. Neither need copy:
what is returned is read at once, and what is given is the plugin's own from then on.

Anything a plugin logs with ``step.log(name, value)`` reaches the run's metrics.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pluggy
from torch import Tensor

from .types import AnotherPass, Batch, Gradients, LossScale, LossTerm, Parameters, Report, StepInfo

PROJECT = "ringfence"
METHODS = ("forward", "backward")

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

OnFailure = Literal["restart", "disable", "abort"]


@dataclass(frozen=True, slots=True)
class Role:
    """What a role may change and how it is treated; the transport and the fold read only this.

    Attributes:
        name: As plugins write it in ``role``.
        changes: Method to the argument that its result replaces; a method that is absent only reads.
        on_failure: What happens after a fault unless the job says otherwise.
        may_disable: Whether a run makes sense without the plugin.
        observes: True if the plugin is given snapshots and never waited for.
        runs_ahead: True if ``forward`` runs ahead of the loop, in several workers.
        exactly_one: True if a job needs one plugin of this role, and only one.
    """

    name: str
    changes: dict[str, str] = field(default_factory=dict)
    on_failure: OnFailure = "restart"
    may_disable: bool = True
    observes: bool = False
    runs_ahead: bool = False
    exactly_one: bool = False


AUGMENT = Role("augment", changes={"forward": "batch"}, runs_ahead=True)
GRADIENT = Role("gradient", changes={"forward": "loss", "backward": "gradients"})
OPTIMIZER = Role(
    "optimizer",
    changes={"forward": "parameters", "backward": "parameters"},
    may_disable=False,
    exactly_one=True,
)
MONITOR = Role("monitor", on_failure="disable", observes=True)

ROLES: dict[str, Role] = {role.name: role for role in (AUGMENT, GRADIENT, OPTIMIZER, MONITOR)}


@hookspec
def augment_forward(batch: Batch, step: StepInfo) -> Batch | None:
    """Change a batch before the model sees it.

    Called once for every micro-batch, ahead of the loop. Plugins run in the
    job's order, each on the batch of the one before; ``None`` passes.

    Args:
        batch: Inputs in [0, 1] for images; see ``Batch``.
        step: The step that the batch is for; ``step.generator()`` for randomness.

    Returns:
        A batch with inputs of the same shape and dtype, and targets of the same
        shape and dtype or, for classes, (B, K) float32 probabilities.

    If it fails: ``restart`` replays from the last snapshot; ``disable`` passes the batch on unchanged.
    """


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
def gradient_forward(
    batch: Batch, outputs: Tensor, loss: float, step: StepInfo
) -> LossTerm | LossScale | None:
    """Add a term to the loss, or scale it.

    Called for every micro-batch between the loss and ``loss.backward()``.
    Plugins run in the job's order; ``loss`` includes what those before changed.

    Args:
        batch: The batch as the model saw it, before normalisation.
        outputs: What the model returned, (B, K) for K classes.
        loss: Mean over the batch, so far.
        step: Counters.

    If it fails: ``restart`` replays from the last snapshot; ``disable`` leaves the loss as it was.
    """


@hookspec
def monitor_forward(batch: Batch, outputs: Tensor, loss: float, step: StepInfo) -> Report | None:
    """Watch a forward pass.

    Called every ``every`` steps, for the step's first micro-batch, on a copy.
    The loop does not wait: a monitor that is still busy is skipped, and the
    skip counted.

    Args:
        batch: The batch as the model saw it, before normalisation.
        outputs: What the model returned.
        loss: Mean over the batch, with the terms that plugins added.
        step: Counters.

    If it fails: it is disabled (by default) and the run goes on.
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


@hookspec
def monitor_backward(
    parameters: Parameters, updates: Parameters, gradients: Gradients, step: StepInfo
) -> Report | None:
    """Watch the end of a step.

    Called every ``every`` steps on a copy; the loop does not wait.

    Args:
        parameters: Parameter name to value, after the update.
        updates: Parameter name to what this step added to it.
        gradients: Parameter name to gradient, as the optimizer got it.
        step: Counters.

    If it fails: it is disabled (by default) and the run goes on.
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


#: Hooks in firing order; ``test_specs.py`` holds this, the docstring above and a recorded run together.
HOOKS = (
    augment_forward,
    optimizer_forward,
    gradient_forward,
    monitor_forward,
    gradient_backward,
    optimizer_backward,
    monitor_backward,
    augment_backward,
)

#: What will go, spelt ``hook``, ``hook.argument``, ``Name`` or ``Type.attribute``, to the series
#: that drops it. It must stand here for two series before.
DEPRECATED: dict[str, str] = {}
