"""Describe the model of a run for its ``model.json``, before it is trained."""

from __future__ import annotations

import platform
from collections.abc import Mapping

import torch

from ..engine.data import Data
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


def describe_model(choice: ModelChoice, data: Data, digest: Mapping[str, str]) -> ModelRecord:
    """Return what ``model.json`` says of a model before it is trained.

    Args:
        choice: What built it.
        data: What it is trained on.
        digest: Of those.
    """
    train = data.train
    shape = tuple(train.inputs.shape[1:])
    in_bytes = train.inputs.dtype == torch.uint8
    classes = train.num_classes
    normalised = data.mean is not None and data.std is not None
    return ModelRecord(
        model=choice,
        input=InputForm(
            shape=shape,
            dtype="uint8" if in_bytes else "float32",
            layout="CHW" if len(shape) == IMAGE_DIMS else None,
        ),
        output=OutputForm(tuple(train.targets.shape[1:]) if classes is None else (classes,)),
        task="regression" if classes is None else "classification",
        scale=LARGEST_BYTE if in_bytes else None,
        normalisation=Normalisation(data.mean or (), data.std or ()) if normalised else None,
        class_names=tuple(train.class_names),
        data_digest=dict(digest),
        versions={
            "ringfence": __version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    )
