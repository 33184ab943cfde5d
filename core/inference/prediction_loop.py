"""The loop of predictions: a model's outputs for samples as they are read, into a file or as arrays."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..engine.evaluate import evaluating
from ..engine.forward import to_device
from ..engine.parts import describe_outputs, prediction_of
from ..hooks.errors import DataError
from ..hooks.trees import Tree, map_tensors, tensors_of
from ..tensors.tree_form import named_tensors, tensors_within
from .inputs.sample_form import SampleForm
from .inputs.source import Chunk, Source
from .outputs.prediction_file import OUTPUTS, check_out, new_file
from .outputs.predictions import OutputMeaning, Predictions

#: Of samples as numbers, in one batch.
_BATCH_BYTES = 64 << 20
_LARGEST_BATCH = 256
#: Of what one layer takes and gives for a batch.
_LAYER_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Predictor:
    """A model and what goes into it and comes out.

    Attributes:
        model: Takes (B, …) of ``form``, uint8 or float32, and returns outputs; on ``device``.
        form: Of one sample.
        meaning: Of the outputs.
        device: Where the model is.
        layer_bytes: What its largest layer takes and gives for one sample; 0 where nobody can tell.
    """

    model: nn.Module
    form: SampleForm
    meaning: OutputMeaning
    device: torch.device
    layer_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """A file of predictions that was written.

    Attributes:
        path: The file.
        count: Samples that have a prediction.
        not_finite: Those of them whose outputs are not finite.
        class_counts: Class name to how many were predicted as that, most first; empty where numbers are
            predicted.
        notes: What the user should know of how the samples were read, as sentences.
    """

    path: Path
    count: int
    not_finite: int
    class_counts: dict[str, int]
    notes: tuple[str, ...]


def predict_source(
    predictor: Predictor, source: Source, batch_size: int | None = None
) -> Generator[Predictions, None, None]:
    """Yield predictions of all samples, a batch at a time.

    Args:
        predictor: The model.
        source: The samples.
        batch_size: Samples that go through the model at once; by default as many as 64 MiB hold, of
            inputs and of outputs, and 1 GiB of what its largest layer makes of them, at most 256.

    Raises:
        DataError: A sample cannot be read or does not fit, or the model returned something else than in
            training.
    """
    # Of outputs there may be more than of inputs: a folder of anybody's says how many.
    largest = max(predictor.form.nbytes, 4 * math.prod(predictor.meaning.shape))
    most = min(_BATCH_BYTES // largest, _LAYER_BYTES // max(1, predictor.layer_bytes), _LARGEST_BATCH)
    size = batch_size or max(1, most)
    with evaluating(predictor.model), contextlib.closing(source.chunks(size)) as chunks:
        for chunk in chunks:
            # Not around the loop: whoever takes what is yielded has a mode of their own.
            with torch.no_grad():
                outputs = predictor.model(to_device(chunk.inputs, predictor.device))
            yield Predictions(
                _checked(outputs, chunk, predictor.meaning),
                predictor.meaning,
                torch.as_tensor(chunk.indices),
                chunk.files,
            )


def collect(predictor: Predictor, source: Source, batch_size: int | None = None) -> Predictions:
    """Return the predictions of all samples, in memory; arguments and errors as ``predict_source``."""
    parts = list(predict_source(predictor, source, batch_size))
    return Predictions.joined(parts, tuple(source.notes))


def write_predictions(
    predictor: Predictor,
    source: Source,
    out: Path,
    *,
    batch_size: int | None = None,
    probabilities: bool = False,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Written:
    """Write the predictions of all samples to a file, as they come.

    Args:
        predictor: The model.
        source: The samples.
        out: The file; its ending says of what kind, one of ``OUTPUTS``.
        batch_size: As in ``predict_source``.
        probabilities: Write those of all classes.
        overwrite: Replace a file that is there.
        progress: Told after each batch how many samples have a prediction.

    Raises:
        DataError: As ``predict_source``; nothing is left of the file then.
        JobError: The file cannot be written.
    """
    check_out(out, overwrite=overwrite)
    meaning = predictor.meaning
    # One more: what has no class.
    counts = torch.zeros(meaning.shape[0] + 1 if meaning.is_classes else 0, dtype=torch.int64)
    done = not_finite = 0
    with new_file(out, overwrite=overwrite) as file:
        output = OUTPUTS[out.suffix.lower()](file, meaning, probabilities=probabilities)
        parts = predict_source(predictor, source, batch_size)
        with contextlib.closing(output), contextlib.closing(parts):
            for part in parts:
                output.write(part)
                done += len(part)
                not_finite += int((~part.finite).sum())
                if meaning.is_classes:
                    counts += part.classes.remainder(len(counts)).bincount(minlength=len(counts))
                if progress is not None:
                    progress(done)
            output.finish()
    order = counts[:-1].argsort(descending=True, stable=True).tolist() if meaning.is_classes else []
    named = {meaning.names[i]: int(counts[i]) for i in order if counts[i]}
    return Written(out, done, not_finite, named, tuple(source.notes))


def _checked(outputs: object, chunk: Chunk, meaning: OutputMeaning) -> Tree:
    """Return outputs in the memory of the host, fractions as float32.

    Raises:
        DataError: They are not those of training, or not one for each sample.
    """
    count = len(chunk.indices)
    which = f"samples {chunk.indices[0]} to {chunk.indices[-1]}"
    if meaning.is_any:
        tree = tensors_within(outputs)
        if not tensors_of(tree):
            raise DataError(f"the model returned {describe_outputs(outputs)} for {which}: no tensor")
        for path, leaf in named_tensors(tree, "outputs"):
            if leaf.dim() == 0 or len(leaf) != count:
                raise DataError(
                    f"{path} are of shape {tuple(leaf.shape)} for {which}; predictions are one for each "
                    "sample. Give inputs to the model itself: ringfence.load(RUN)(inputs)"
                )
        return map_tensors(_in_host, tree)
    found = prediction_of(outputs)
    expected = (count, *meaning.shape)
    if meaning.classes_last:
        expected = (count, *meaning.shape[1:], meaning.shape[0])
    told = tuple(found.shape)
    if meaning.varies and len(told) == len(expected):
        fixed = (-1 if meaning.classes_last else 1) if meaning.by_position else 0
        fits = told[0] == count and told[fixed] == expected[fixed]
    else:
        fits = told == expected
    if not fits:
        raise DataError(f"the model returned shape {told} for {which}; in training it was {expected}")
    return _in_host(found)


def _in_host(tensor: Tensor) -> Tensor:
    tensor = tensor.detach().cpu()
    return tensor.float() if tensor.is_floating_point() else tensor
