"""Measure a model on validation or test data."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..hooks.trees import Tree
from ..hooks.types import Batch
from ..plugins.stop_request import StopRequest
from ..reproducibility.generator_states import preserved_rng
from .buffers import copy_buffers, restore_buffers
from .data import Dataset
from .forward import forward, to_device
from .measurement import Measurement
from .objective import Objective
from .tensor_names import named_buffers, named_parameters


def evaluate(
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    normalise: Callable[[Tree], Tree],
    *,
    batch_size: int,
    device: torch.device,
    stop: StopRequest | None = None,
    unsteady: frozenset[str] = frozenset(),
    take: Callable[[Batch, Any], None] | None = None,
) -> dict[str, float] | None:
    """Return the mean loss and the metrics over ``dataset``.

    The model is in evaluation mode during the call, its modules' modes are put
    back after it, and so are the random generators and what ``unsteady`` names: how often it is evaluated
    does not change a run.

    Args:
        model: On ``device``.
        dataset: What to measure on.
        objective: Loss and metrics.
        normalise: As in training.
        batch_size: Samples of one forward pass.
        device: Where the model is.
        stop: Looked at before each batch; once it is made, no more are measured.
        unsteady: Names of parameters and buffers that the model changes in evaluation.
        take: Given each batch, and the model's outputs for it, on ``device``; they are not to be kept.

    Raises:
        DataError: The model's outputs for a batch do not fit loss and metric.

    Returns:
        As ``Measurement.values``. None if it was stopped.
    """
    measurement = Measurement(objective, dataset, device)
    with preserved_rng(device), evaluating(model), _steady(model, unsteady), torch.no_grad():
        for batch in dataset.in_order(batch_size):
            if stop is not None and stop.is_made():
                return None
            targets = to_device(batch.targets, device)
            inputs = normalise(to_device(batch.inputs, device))
            outputs = forward(model, inputs, objective.loss.arguments(targets))
            objective.check_outputs(outputs, targets, batch.num_classes)
            measurement.add(outputs, targets, len(batch))
            if take is not None:
                take(batch, outputs)
    return measurement.values()


@contextlib.contextmanager
def standing_in(model: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Put tensors in the place of the parameters and buffers of these names; at the end all are as before."""
    own = {**named_parameters(model), **named_buffers(model)}
    kept = {n: p.detach().clone() for n, p in named_parameters(model).items() if n in tensors}
    buffers = copy_buffers(model)
    try:
        _copy_to(own, tensors)
        yield
    finally:
        _copy_to(own, kept)
        restore_buffers(model, buffers)


def _copy_to(own: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


@contextlib.contextmanager
def _steady(model: nn.Module, names: frozenset[str]) -> Iterator[None]:
    """Put back the tensors of such names at the end, such as an embedding's that ``max_norm`` cuts."""
    parameters = [(p, p.detach().clone()) for name, p in named_parameters(model).items() if name in names]
    buffers = copy_buffers(model) if names & named_buffers(model).keys() else None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, value in parameters:
                parameter.copy_(value)
        if buffers is not None:
            restore_buffers(model, buffers)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Set evaluation mode, then put back the mode of each module: some may be frozen on purpose."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
