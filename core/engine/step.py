"""One optimizer step: passes over its batches, the hooks around them, the update.

Without plugins beside a local optimizer the tensor operations are those of the
plain PyTorch loop, in the same order, so that the weights agree bit for bit.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

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
from .forward import forward, shown_outputs, to_device
from .loss import Loss
from .losses import apply_changes
from .weights import Weights

MAX_FURTHER_PASSES = 100

#: A batch as the plugins that change it left it, and its counters.
Prepared = tuple[Batch, StepInfo]
#: What the end of a step needs of its begin: whether the update is watched, the parameters before if it is,
#: and the generators' states if there may be further passes.
Begun = tuple[bool, TensorMap | None, TorchRng | None]


@dataclass(slots=True, kw_only=True)
class Update:
    """What the hooks around a step work on, whoever runs its passes.

    Attributes:
        model: On ``device``, in training mode.
        weights: Its parameters and gradients.
        hooks: The plugins.
        device: Where the model is.
        optimizer: Of torch, where no plugin is the optimizer.
    """

    model: nn.Module
    weights: Weights
    hooks: Hooks
    device: torch.device
    optimizer: torch.optim.Optimizer | None = None


_Update = TypeVar("_Update", bound=Update)


@dataclass(slots=True, kw_only=True)
class Stepper(Update):
    """What one step works on; made once a run.

    Attributes:
        loss: What to minimise.
        normalise: Applied to inputs on the device.
        stop: Cuts a step off between two batches.
        on_host: Batches are where the model is already.
    """

    loss: Loss
    normalise: Normalise
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
        weight: What the loss is the mean over; None of one batch, which its targets tell.
    """

    loss: Tensor
    batches: list[Prepared] = field(default_factory=list)
    sample_losses: list[Tensor] = field(default_factory=list)
    weight: float | None = None


@dataclass(slots=True)
class FinishedStep:
    """A finished step.

    Attributes:
        info: Its counters.
        loss: As in ``Pass``, of the first pass.
        first_batch: Its first batch, augmented and not normalised.
        weight: As in ``Pass``.
    """

    info: StepInfo
    loss: Tensor
    first_batch: Batch
    weight: float | None = None


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
    first = next(stream)
    info = first[1]
    begun = begin_step(stepper, info)
    batches = (
        (first,) if len(sizes) == 1 else itertools.chain((first,), itertools.islice(stream, len(sizes) - 1))
    )
    done = _run_pass(stepper, batches, sizes)
    gradients = update_weights(stepper, begun, done, info, _run_again)
    if begun[0]:
        show_update(stepper, begun, info, gradients)
    stepper.weights.release()
    if stepper.hooks.at.after_step.methods:
        tell_losses(stepper.hooks, done)
    return FinishedStep(info, done.loss, first[0], done.weight)


def begin_step(update: Update, info: StepInfo) -> Begun:
    """Let plugins change the parameters before the first pass of a step, and keep what its end needs."""
    hooks, weights = update.hooks, update.weights
    at = hooks.at
    watched, before = False, None
    if at.after_update.methods:
        watched = at.after_update.is_due(info)
        if "updates" in at.after_update.needs and at.after_update.is_due(info, "updates"):
            before = weights.values.clone()
    rng = None if hooks.one_pass else TorchRng.capture(update.device)
    if at.parameters.methods:
        given: ParameterValues = {"parameters": weights.values}
        if hooks.fire(at.parameters, given, info):
            weights.write(given["parameters"])
    return watched, before, rng


def change_loss(hooks: Hooks, batch: Batch, outputs: Any, loss: Tensor, info: StepInfo) -> Tensor:
    """Return the loss of a batch with the terms of plugins.

    Args:
        hooks: The plugins.
        batch: As the plugins that change it left it.
        outputs: Of the model, on the graph.
        loss: Mean over the batch, shape (), on the graph.
        info: Counters.
    """
    at = hooks.at.loss
    return apply_changes(hooks.fire(at, _loss_values(at, batch, outputs, loss), info), loss, outputs)


def show_loss(hooks: Hooks, batch: Batch, outputs: Any, loss: Tensor, info: StepInfo) -> None:
    """Let plugins look at what a forward pass came to, its loss with the terms of others."""
    at = hooks.at.after_loss
    if at.is_due(info):
        hooks.fire(at, _loss_values(at, batch, outputs, loss), info)


def update_weights(
    update: _Update, begun: Begun, done: Pass, info: StepInfo, again: Callable[[_Update, Pass, int], Pass]
) -> Gradients:
    """Update the weights from ``parameter.grad``, with as many further passes as the optimizer asks for.

    Args:
        update: What to work on.
        begun: What ``begin_step`` returned.
        done: The first pass.
        info: Counters.
        again: Runs the pass of an index, from 1, over the batches of the first.

    Returns:
        The gradients that the optimizer got last.
    """
    result, gradients = _update(update, done, info)
    if isinstance(result, AnotherPass):
        result, gradients = _further_passes(update, done, info, result, begun, again)
    if result is not None:
        update.weights.write(result)
    return gradients


def show_update(update: Update, begun: Begun, info: StepInfo, gradients: Gradients) -> None:
    """Let plugins look at the updated weights, if ``begin_step`` found that one is to."""
    weights, (_, before, _) = update.weights, begun
    updates = None if before is None else _difference(weights.values, before)
    # A method that does not take ``updates`` is never given them.
    values: UpdatedValues = {"parameters": weights.values, "updates": updates, "gradients": gradients}
    update.hooks.fire(update.hooks.at.after_update, values, info)


def tell_losses(hooks: Hooks, done: Pass) -> None:
    """Let plugins learn from the losses of the step's samples."""
    for (_, info), losses in zip(done.batches, done.sample_losses, strict=True):
        told: SampleValues = {"losses": losses}
        hooks.fire(hooks.at.after_step, told, info)


def _run_pass(stepper: Stepper, batches: Iterable[Prepared], sizes: Sequence[int]) -> Pass:
    """Run forward and backward over the batches of a step; gradients are left in ``parameter.grad``."""
    stop = stepper.stop
    if len(sizes) == 1:
        (only,) = batches
        if stop.is_over:
            stop.check(f"step {only[1].global_step}")
        loss, sample_losses = _forward(stepper, stepper.loss, *only)
        loss.backward()  # type: ignore[no-untyped-call]
        return Pass(loss.detach(), [only], [] if sample_losses is None else [sample_losses])
    losses: Iterable[Loss] = itertools.repeat(stepper.loss)
    weights: Sequence[float] = sizes
    batches = iter(batches)
    first = next(batches)
    batches = itertools.chain((first,), batches)
    if not stepper.loss.is_by_sample(first[0].targets):
        # What a batch counts among the others shows when all are there.
        batches = list(batches)
        losses, weights = stepper.loss.over_step([batch.targets for batch, _ in batches], sizes)
    total = sum(weights)
    done: Pass | None = None
    for prepared, weight, criterion in zip(batches, weights, losses, strict=False):
        if stop.is_over:
            stop.check(f"step {prepared[1].global_step}")
        loss, sample_losses = _forward(stepper, criterion, *prepared)
        # For equal sizes this divides by their number, as the plain loop does. The mean over a batch of
        # which nothing counts is no number.
        loss = loss / (total / weight) if weight else loss.nan_to_num(0.0, 0.0, 0.0)
        if weight or not total:
            loss.backward()  # type: ignore[no-untyped-call]
        if done is None:
            done = Pass(loss.detach(), [], [])
        else:
            done.loss = done.loss + loss.detach()
        done.batches.append(prepared)
        if sample_losses is not None:
            done.sample_losses.append(sample_losses)
    if done is None:
        raise RuntimeError("a step has at least one batch")
    done.weight = total
    return done


def _forward(stepper: Stepper, criterion: Loss, batch: Batch, info: StepInfo) -> tuple[Tensor, Tensor | None]:
    """Return the loss of one batch with the plugins' terms, and the loss of each sample if wanted."""
    hooks, at = stepper.hooks, stepper.hooks.at
    inputs, targets = batch.inputs, batch.targets
    if not stepper.on_host:
        inputs = to_device(inputs, stepper.device, non_blocking=True)
        targets = to_device(targets, stepper.device, non_blocking=True)
    inputs = stepper.normalise(inputs)
    # The usual forms without a further call, which costs as much as what it asks.
    if isinstance(inputs, Tensor) and not criterion.by_model:
        outputs = stepper.model(inputs)
    else:
        outputs = forward(stepper.model, inputs, criterion.arguments(targets))
    judged = outputs if isinstance(outputs, Tensor) else criterion.judged(outputs)
    loss = criterion(judged, targets)
    sample_losses = None
    if at.after_step.methods and info.pass_index == 0:
        with torch.no_grad():
            sample_losses = stepper.loss.per_sample(judged, targets).float().cpu()
    if at.loss.methods:
        loss = change_loss(hooks, batch, outputs, loss, info)
    if at.after_loss.methods:
        show_loss(hooks, batch, outputs, loss, info)
    return loss, sample_losses


def _loss_values(firing: Firing[LossValues, Change], batch: Batch, outputs: Any, loss: Tensor) -> LossValues:
    value = loss.item() if "loss" in firing.needs else math.nan
    return {"batch": batch, "outputs": shown_outputs(outputs), "loss": value}


def _update(
    update: Update, done: Pass, info: StepInfo
) -> tuple[Mapping[str, Tensor] | AnotherPass | None, Gradients]:
    """Hand the gradients of a pass to the plugins; return what the optimizer wants, and its gradients."""
    hooks, weights, at = update.hooks, update.weights, update.hooks.at
    gradients = weights.collect_gradients()
    if at.gradients.methods:
        values: GradientValues = {"gradients": gradients, "parameters": weights.values}
        hooks.fire(at.gradients, values, info)
        gradients = weights.replace_gradients(values["gradients"])
    loss = done.loss.item() if "loss" in at.update.needs else math.nan
    given: UpdateValues = {"parameters": weights.values, "gradients": gradients, "loss": loss}
    changes = hooks.fire(at.update, given, info)
    if changes:
        return changes[-1], gradients
    if update.optimizer is not None:
        weights.step(update.optimizer, gradients)
    return None, gradients


def _further_passes(
    update: _Update,
    first: Pass,
    info: StepInfo,
    request: AnotherPass,
    begun: Begun,
    again: Callable[[_Update, Pass, int], Pass],
) -> tuple[Mapping[str, Tensor] | None, Gradients]:
    """Run passes until the optimizer is content.

    Each draws the random numbers of the first, so that the optimizer sees one
    function. Afterwards generators and buffers are as the first pass left them:
    batch norm counts each batch once.
    """
    *_, rng = begun
    if rng is None:
        why = "asked for another pass, and says by its attribute one_pass that it never does"
        raise _refusal(update.hooks, info, f"{why}; leave one_pass out")
    after_first, buffers = TorchRng.capture(update.device), copy_buffers(update.model)
    for index in range(1, MAX_FURTHER_PASSES + 1):
        update.weights.write(request.parameters)
        rng.restore(update.device)
        done = again(update, first, index)
        restore_buffers(update.model, buffers)
        result, gradients = _update(update, done, replace(info, pass_index=index))
        if not isinstance(result, AnotherPass):
            after_first.restore(update.device)
            return result, gradients
        request = result
    raise _refusal(update.hooks, info, f"asked for more than {MAX_FURTHER_PASSES} further passes in one step")


def _run_again(stepper: Stepper, first: Pass, index: int) -> Pass:
    batches = [(batch, replace(batch_info, pass_index=index)) for batch, batch_info in first.batches]
    return _run_pass(stepper, batches, [len(batch) for batch, _ in batches])


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
