"""``ringfence.predict``: what the model of a run says of data, as arrays or in a file."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

from torch import nn

from ..hooks.errors import JobError
from ..tracking.model_files import CheckpointName, Tell, WeightsName
from ..tracking.model_record import ModelRecord, read_model_record
from ..tracking.own_runs import Permission, permitted
from ..tracking.preprocessing_file import read_preprocessing
from .forward_size import forward_bytes
from .inputs.open_source import open_source
from .inputs.sample_form import form_of
from .inputs.source import Source
from .load import check_batch_size, load_model
from .outputs.prediction_file import check_out
from .outputs.predictions import OutputMeaning, Predictions
from .prediction_loop import Predictor, Written, collect, write_predictions


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictRequest:
    """What is to be predicted with which model.

    Attributes:
        permission: The run's folder, and what of it may be followed.
        data: As ``open_source`` takes it.
        checkpoint: Which state of the run.
        weights: Whose weights.
        device: Where the model is to be.
        batch_size: Samples that go through the model at once; None: as many as 64 MiB hold, at most 256.
        key: Which array of a file that holds several.
        skip_unreadable: Pass over photos that cannot be read.
        tell: Told, as sentences, of what was passed over as the model was loaded.
        model: As in ``load``.
    """

    permission: Permission
    data: Any
    checkpoint: CheckpointName = "best"
    weights: WeightsName = "model"
    device: str = "auto"
    batch_size: int | None = None
    key: str | None = None
    skip_unreadable: bool = False
    tell: Tell = field(default=lambda _: None)
    model: nn.Module | None = None

    def opened(self) -> tuple[Predictor, Source]:
        """Return model and samples; what is wrong with the data is told before the weights are read.

        Raises:
            DataError: The data do not fit the model, or no sample of it fits this machine.
            CheckpointError: The folder holds no model that can be used.
            JobError: It names code that nobody has permitted, or a number is wrong.
        """
        check_batch_size(self.batch_size)
        record = read_model_record(self.permission.folder)
        form = form_of(record, read_preprocessing(self.permission.folder))
        source = open_source(self.data, form, key=self.key, skip_unreadable=self.skip_unreadable)
        layer_bytes = 0 if self.model is not None else forward_bytes(self.permission, record)
        model = load_model(
            self.permission,
            self.checkpoint,
            device=self.device,
            weights=self.weights,
            tell=self.tell,
            model=self.model,
        )
        return Predictor(model, form, meaning_of(record), model.scale.device, layer_bytes), source


@overload
def predict(
    run: str | os.PathLike[str],
    data: Any,
    out: None = None,
    *,
    checkpoint: CheckpointName = "best",
    weights: WeightsName = "model",
    device: str = "auto",
    batch_size: int | None = None,
    key: str | None = None,
    skip_unreadable: bool = False,
    code: str | None = None,
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> Predictions: ...


@overload
def predict(
    run: str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str],
    *,
    probabilities: bool = False,
    overwrite: bool = False,
    checkpoint: CheckpointName = "best",
    weights: WeightsName = "model",
    device: str = "auto",
    batch_size: int | None = None,
    key: str | None = None,
    skip_unreadable: bool = False,
    code: str | None = None,
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> Written: ...


def predict(
    run: str | os.PathLike[str],
    data: Any,
    out: str | os.PathLike[str] | None = None,
    *,
    probabilities: bool = False,
    overwrite: bool = False,
    checkpoint: CheckpointName = "best",
    weights: WeightsName = "model",
    device: str = "auto",
    batch_size: int | None = None,
    key: str | None = None,
    skip_unreadable: bool = False,
    code: str | None = None,
    trust_code: bool = False,
    model: nn.Module | None = None,
) -> Predictions | Written:
    """Predict ``data`` with the model of a run, as ``ringfence predict`` does.

    Args:
        run: Folder of the run; it may be anybody's.
        data: A path (an image, a folder of images, ``.npz``, ``.npy``, ``.safetensors``, ``.csv``, ``.tsv``,
            an IDX file; of a run of tables or texts also ``.jsonl`` and ``.parquet``), several paths of
            images, a tensor or array (N, …), a dict or list of those where the model takes several inputs,
            or batches, such as a ``DataLoader``.
        out: File to write to as the samples are read, ``.csv``, ``.jsonl`` or ``.npz``; without it all
            predictions are returned.
        probabilities: Write those of all classes.
        overwrite: Replace ``out`` if it is there.
        checkpoint: ``"best"``, ``"last"``, or a number of steps.
        weights: ``"model"``, or ``"ema"`` or ``"swa"`` where the run kept such an average.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        batch_size: Samples that go through the model at once; by default as many as 64 MiB hold as float32,
            at most 256.
        key: Which array of a file that holds several.
        skip_unreadable: Pass over photos that cannot be read; which, the notes tell.
        code: As in ``load``.
        trust_code: As in ``load``.
        model: As in ``load``, of a run that was given its model as an object.

    Returns:
        The predictions; with ``out``, what was written.

    Raises:
        DataError: The data cannot be read, or do not fit the model; the message names the sample or file.
        CheckpointError: The folder holds no model, or none that is whole.
        JobError: ``out`` cannot be written or is there; or as in ``load``.
    """

    def warn(sentence: str) -> None:
        warnings.warn(sentence, RuntimeWarning, stacklevel=2)

    request = PredictRequest(
        permission=permitted(Path(run), code=code, trust_code=trust_code),
        data=data,
        checkpoint=checkpoint,
        weights=weights,
        device=device,
        batch_size=batch_size,
        key=key,
        skip_unreadable=skip_unreadable,
        tell=warn,
        model=model,
    )
    if out is None:
        if probabilities or overwrite:
            raise JobError("probabilities and overwrite are for a file; name it with out=…")
        return collect(*request.opened(), batch_size)
    path = Path(out)
    # Before the model is loaded, which may take long.
    check_out(path, overwrite=overwrite)
    return write_predictions(
        *request.opened(), path, batch_size=batch_size, probabilities=probabilities, overwrite=overwrite
    )


def meaning_of(record: ModelRecord) -> OutputMeaning:
    """Return what the outputs stand for that ``model.json`` tells of."""
    if record.task == "other":
        return OutputMeaning((), is_classes=False, is_any=True)
    return OutputMeaning(
        record.output.shape,
        record.task == "classification",
        record.class_names,
        record.task == "positions",
        classes_last=record.output.classes_last,
        varies=record.input.varies and len(record.output.shape) > 1,
    )
