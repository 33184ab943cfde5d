"""One optimizer step: passes over its batches, the hooks around them, the update.

Without plugins beside a local optimizer the tensor operations are those of the
plain PyTorch loop, in the same order, so that the weights agree bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from ..hooks.errors import PluginProtocolError
from ..hooks.types import AnotherPass, Batch, Gradients, StepInfo, TensorMap
from ..plugins.manager import Hooks
from ..plugins.moments import (
    Change,
    Firing,
    GradientValues,
    LossValues,
    ParameterValues,
    SampleValues,
    UpdatedValues,
    UpdateValues,
)
from ..plugins.stop_request import StopRequest
from ..reproducibility.generator_states import TorchRng
from .buffers import copy_buffers, restore_buffers
from .data import Normalise
from .losses import Loss, apply_changes
from .weights import Weights

MAX_FURTHER_PASSES = 100

#: A batch as the plugins that change it left it, and its counters.
Prepared = tuple[Batch, StepInfo]


@dataclass(slots=True)
class Stepper:
    """What one step works on; made once a run.

    Attributes:
        model: On ``device``, in training mode.
        weights: Its parameters and gradients.
        loss: What to minimise.
        normalise: Applied to inputs on the device.
        hooks: The plugins.
        device: Where the model is.
        stop: Cuts a step off between two batches.
        on_host: Batches are where the model is already.
    """

    model: nn.Module
    weights: Weights
    loss: Loss
    normalise: Normalise
    hooks: Hooks
    device: torch.device
    stop: StopRequest = field(default_factory=StopRequest)
    on_host: bool = field(init=False)

    def __post_init__(self) -> None:
        self.on_host = self.device.type == "cpu"


@dataclass(slots=True)
class Pass:
    """The outcome of one pass over the batches of a step.

    Attributes:
        loss: Mean over the step's samples with the plugins' terms, shape (), on the device.
        batches: The batches, kept for a further pass.
        sample_losses: Loss of each sample of each batch, if a plugin is told of it.
    """

    loss: Tensor
    batches: list[Prepared] = field(default_factory=list)
    sample_losses: list[Tensor] = field(default_factory=list)


@dataclass(slots=True)
class FinishedStep:
    """A finished step.

    Attributes:
        info: Its counters.
        loss: As in ``Pass``, of the first pass.
        first_batch: Its first batch, augmented and not normalised.
    """

    info: StepInfo
    loss: Tensor
    first_batch: Batch


def take_step(stepper: Stepper, stream: Iterator[Prepared], sizes: Sequence[int]) -> FinishedStep:
    """Take one optimizer step.

        batch = next(stream)                                   # augment.forward
        parameters = optimizer.forward(parameters)
        for each batch of the step:
            outputs = model(normalise(batch.inputs))
            loss = criterion(outputs, batch.targets)
            loss = gradient.forward(batch, outputs, loss)
            monitor.forward(batch, outputs, loss)              # first batch only
            (loss / share of the batch).backward()             # undivided if it is the only one
        gradients = gradient.backward(gradients)
        parameters = optimizer.backward(parameters, gradients, loss)
        while that is AnotherPass:
            set its parameters; the same batches and random numbers again, up to here
        monitor.backward(parameters, updates, gradients)
        augment.backward(losses) for each batch

    Args:
        stepper: What to work on.
        stream: Gives the step's batches next.
        sizes: Samples in each of them.

    Raises:
        PluginError: A plugin failed, and its policy is not to disable it. Weights and
            counters may then be half-way; the caller restores a snapshot.
        CutOffError: The user wants the run to end, and the time for that is over; likewise.
    """  # fmt: skip
    hooks, weights = stepper.hooks, stepper.weights
    at = hooks.at
    first = next(stream)
    info = first[1]
    watched, before = False, None
    if at.after_update.methods:
        watched = at.after_update.is_due(info)
        if "updates" in at.after_update.needs and at.after_update.is_due(info, "updates"):
            before = weights.values.clone()
    rng = None if hooks.one_pass else TorchRng.capture(stepper.device)
    if at.parameters.methods:
        given: ParameterValues = {"parameters": weights.values}
        if hooks.fire(at.parameters, given, info):
            weights.write(given["parameters"])
    batches = (
        (first,) if len(sizes) == 1 else itertools.chain((first,), itertools.islice(stream, len(sizes) - 1))
    )
    done = _run_pass(stepper, batches, sizes)
    result, gradients = _update(stepper, done, info)
    if isinstance(result, AnotherPass):
        result, gradients = _further_passes(stepper, done, info, result, rng, sizes)
    if result is not None:
        weights.write(result)
    if watched:
        updates = None if before is None else _difference(weights.values, before)
        # A method that does not take ``updates`` is never given them.
        values: UpdatedValues = {"parameters": weights.values, "updates": updates, "gradients": gradients}
        hooks.fire(at.after_update, values, info)
    weights.release()
    if at.after_step.methods:
        for (_, batch_info), losses in zip(done.batches, done.sample_losses, strict=True):
            told: SampleValues = {"losses": losses}
            hooks.fire(at.after_step, told, batch_info)
    return FinishedStep(info, done.loss, first[0])


def _run_pass(stepper: Stepper, batches: Iterable[Prepared], sizes: Sequence[int]) -> Pass:
    """Run forward and backward over the batches of a step; gradients are left in ``parameter.grad``."""
    total = sum(sizes)
    stop = stepper.stop
    done: Pass | None = None
    for prepared, size in zip(batches, sizes, strict=True):
        if stop.is_over:
            stop.check(f"step {prepared[1].global_step}")
        loss, sample_losses = _forward(stepper, *prepared)
        if len(sizes) > 1:
            # For equal sizes this divides by their number, as the plain loop does.
            loss = loss / (total / size)
        loss.backward()  # type: ignore[no-untyped-call]
        if done is None:
            done = Pass(loss.detach())
        else:
            done.loss = done.loss + loss.detach()
        done.batches.append(prepared)
        if sample_losses is not None:
            done.sample_losses.append(sample_losses)
    if done is None:
        raise RuntimeError("a step has at least one batch")
    return done


def _forward(stepper: Stepper, batch: Batch, info: StepInfo) -> tuple[Tensor, Tensor | None]:
    """Return the loss of one batch with the plugins' terms, and the loss of each sample if wanted."""
    hooks, at = stepper.hooks, stepper.hooks.at
    inputs, targets = batch.inputs, batch.targets
    if not stepper.on_host:
        inputs = inputs.to(stepper.device, non_blocking=True)
        targets = targets.to(stepper.device, non_blocking=True)
    outputs = stepper.model(stepper.normalise(inputs))
    loss = stepper.loss(outputs, targets)
    sample_losses = None
    if at.after_step.methods and info.pass_index == 0:
        with torch.no_grad():
            sample_losses = stepper.loss.per_sample(outputs, targets).float().cpu()
    if at.loss.methods:
        changes = hooks.fire(at.loss, _loss_values(at.loss, batch, outputs, loss), info)
        loss = apply_changes(changes, loss, outputs)
    if at.after_loss.methods and at.after_loss.is_due(info):
        hooks.fire(at.after_loss, _loss_values(at.after_loss, batch, outputs, loss), info)
    return loss, sample_losses


def _loss_values(
    firing: Firing[LossValues, Change], batch: Batch, outputs: Tensor, loss: Tensor
) -> LossValues:
    value = loss.item() if "loss" in firing.needs else math.nan
    return {"batch": batch, "outputs": outputs.detach().cpu(), "loss": value}


def _update(
    stepper: Stepper, done: Pass, info: StepInfo
) -> tuple[Mapping[str, Tensor] | AnotherPass | None, Gradients]:
    """Hand the gradients of a pass to the plugins; return what the optimizer wants, and its gradients."""
    hooks, weights, at = stepper.hooks, stepper.weights, stepper.hooks.at
    gradients = weights.collect_gradients()
    if at.gradients.methods:
        values: GradientValues = {"gradients": gradients, "parameters": weights.values}
        hooks.fire(at.gradients, values, info)
        gradients = weights.replace_gradients(values["gradients"])
    loss = done.loss.item() if "loss" in at.update.needs else math.nan
    update: UpdateValues = {"parameters": weights.values, "gradients": gradients, "loss": loss}
    changes = hooks.fire(at.update, update, info)
    return (changes[-1] if changes else None), gradients


def _further_passes(
    stepper: Stepper,
    done: Pass,
    info: StepInfo,
    request: AnotherPass,
    rng: TorchRng | None,
    sizes: Sequence[int],
) -> tuple[Mapping[str, Tensor] | None, Gradients]:
    """Run passes until the optimizer is content.

    Each draws the random numbers of the first, so that the optimizer sees one
    function. Afterwards generators and buffers are as the first pass left them:
    batch norm counts each batch once.
    """
    if rng is None:
        why = "asked for another pass, and says by its attribute one_pass that it never does"
        raise _refusal(stepper.hooks, info, f"{why}; leave one_pass out")
    after_first, buffers = TorchRng.capture(stepper.device), copy_buffers(stepper.model)
    for index in range(1, MAX_FURTHER_PASSES + 1):
        stepper.weights.write(request.parameters)
        rng.restore(stepper.device)
        batches = [(batch, replace(batch_info, pass_index=index)) for batch, batch_info in done.batches]
        again = _run_pass(stepper, batches, sizes)
        restore_buffers(stepper.model, buffers)
        result, gradients = _update(stepper, again, replace(info, pass_index=index))
        if not isinstance(result, AnotherPass):
            after_first.restore(stepper.device)
            return result, gradients
        request = result
    raise _refusal(
        stepper.hooks, info, f"asked for more than {MAX_FURTHER_PASSES} further passes in one step"
    )


def _refusal(hooks: Hooks, info: StepInfo, why: str) -> PluginProtocolError:
    method = hooks.asked_last
    assert method is not None  # noqa: S101 - who asked is refused
    optimizer = method.plugin.spec
    return PluginProtocolError(
        why,
        plugin=optimizer.name,
        hook=f"{optimizer.role}.{method.name}",
        step=info.global_step,
        by_its_code=True,
    )


def _difference(after: TensorMap, before: TensorMap) -> TensorMap:
    """Return ``after - before``, in the memory of ``before``."""
    with torch.no_grad():
        for name, tensor in before.items():
            torch.sub(after[name], tensor, out=tensor)
    return before
