"""Describe the model of a run for its ``model.json``, before it is trained."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from torch import Tensor

from ..engine.data import Data, Dataset
from ..engine.input_values import input_values
from ..tensors.tree_form import Path, paths_of
from ..version import __version__
from .model_record import (
    IMAGE_DIMS,
    LARGEST_BYTE,
    InputForm,
    ModelChoice,
    ModelRecord,
    Normalisation,
    OutputForm,
)

Task = Literal["classification", "regression", "positions", "other"]


def describe_model(
    choice: ModelChoice, data: Data, digest: Mapping[str, str], *, classes_last: bool = False
) -> ModelRecord:
    """Return what ``model.json`` says of a model before it is trained.

    Args:
        choice: What built it.
        data: What it is trained on.
        digest: Of those.
        classes_last: Whether outputs are (B, …, K) where each position has a class.
    """
    train = data.train
    values = input_values(data)
    first, *others = [_input_form(*leaf, values, varies=train.varies) for leaf in paths_of(train.inputs)]
    normalised = data.mean is not None and data.std is not None
    task, output = _task(train)
    return ModelRecord(
        model=choice,
        input=first,
        other_inputs=tuple(others),
        output=OutputForm(output, classes_last and task == "positions"),
        task=task,
        scale=LARGEST_BYTE if train.in_bytes else None,
        normalisation=Normalisation(data.mean or (), data.std or ()) if normalised else None,
        class_names=tuple(train.class_names),
        data_digest=dict(digest),
        versions={
            "ringfence": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )


def _input_form(
    path: Path, tensor: Tensor, values: Mapping[str, tuple[int, ...]], *, varies: bool
) -> InputForm:
    shape, dtype = tuple(tensor.shape[1:]), str(tensor.dtype).removeprefix("torch.")
    is_image = len(shape) == IMAGE_DIMS and (tensor.dtype == torch.uint8 or tensor.is_floating_point())
    return InputForm(
        shape=shape,
        dtype=cast("Any", dtype),
        layout="CHW" if is_image else None,
        path=path,
        values=values.get(str(path[0]) if path else "", ()) if len(path) <= 1 else (),
        varies=varies,
    )


def _task(train: Dataset) -> tuple[Task, tuple[int, ...]]:
    """Return what the outputs are, and their shape of one sample as far as the targets tell it."""
    targets, classes = train.targets, train.num_classes
    if not isinstance(targets, Tensor):
        return "other", ()
    if classes is None:
        kind: Task = "regression" if targets.dtype == torch.float32 else "other"
        return kind, tuple(targets.shape[1:])
    if train.at_positions:
        return "positions", (classes, *targets.shape[1:])
    return "classification", (classes,)
