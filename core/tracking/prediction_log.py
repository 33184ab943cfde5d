"""Gather what the finished model makes of the test data, batch by batch, into ``test_predictions.npz``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..engine.parts import prediction_of
from ..hooks.types import Batch
from ..plugins.observer import Observer, RunInfo
from .png import from_batch, to_png
from .predictions import (
    CALIBRATION_BINS,
    MAX_CLASSES,
    MAX_COLUMNS,
    MAX_PAIRS,
    MAX_SAMPLES,
    MISTAKES,
    TEST_PREDICTIONS,
    Array,
    Predictions,
    evenly,
    picture_of,
    write_predictions,
)
from .run_folder import explain_disk_faults
from .untrusted_folder import Tree

#: Shown of each kind: the most confident mistakes, and those with the largest loss.
SHOWN = 12
_THUMBNAIL_PIXELS = 112
_IMAGE_DIMS = 4

PerSample = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True, order=True)
class _Mistake:
    """A sample, ordered by how bad its mistake is; of two alike the one that comes first is worse."""

    score: float
    before: int
    index: int = field(compare=False)
    picture: bytes = field(compare=False)


class PredictionLog(Observer):
    """Keeps what the finished model makes of the last part of the data that it is measured on.

    ==========================  =========================================================
    ``test_predictions.npz``    of each sample, bounded, and what is counted over all
    ``mistakes/``               pictures of the most confident mistakes and of the worst
    ==========================  =========================================================

    Args:
        folder: Of the run; exists.
        class_names: Of the data.
        per_sample: The loss of each sample from outputs and targets, as of ``Loss.per_sample``.

    Raises:
        RunAbortedError: From any method: the disk is full or the folder unwritable.
    """

    def __init__(self, folder: Path, class_names: tuple[str, ...], per_sample: PerSample) -> None:
        self._folder = folder
        self._class_names = class_names
        self._per_sample = per_sample
        self._sizes: dict[str, int] = {}
        self._begin()

    def started(self, info: RunInfo) -> None:
        """Remove what an earlier end of the run has left: it is that of another model."""
        self._sizes = {"validation": info.validation_samples, "test": info.test_samples}
        with explain_disk_faults(self._folder):
            tree = Tree(self._folder)
            if TEST_PREDICTIONS in tree.names():
                tree.remove(TEST_PREDICTIONS)
            tree.remove_folder(MISTAKES)

    def wants_predictions(self) -> bool:
        """Ask for them."""
        return True

    def predicted(self, part: str, batch: Batch, outputs: Any) -> None:
        """Take a batch; with the last of its part, write the file."""
        self._take(batch, outputs)
        if self._seen >= self._sizes[part]:
            with explain_disk_faults(self._folder):
                self._write(Tree(self._folder), part)
            self._begin()

    # inside

    def _begin(self) -> None:
        self._classes: int | None = None
        #: Of each batch: places, targets, predictions; then of each sample some numbers, the loss the last.
        self._gathered: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._seen = 0
        self._confident: list[_Mistake] = []
        self._worst: list[_Mistake] = []

    def _take(self, batch: Batch, outputs: Any) -> None:
        outputs = prediction_of(outputs)
        targets = batch.targets.to(outputs.device)
        exact = targets.double() if targets.is_floating_point() else targets
        losses = self._per_sample(outputs.double(), exact).double()
        self._classes = batch.num_classes
        if batch.num_classes is None:
            target, predicted = (_columns(each).double().cpu() for each in (targets, outputs))
            values = losses.cpu()[:, None]
            self._offer(self._worst, values[:, 0], batch)
        else:
            wanted = targets.argmax(1) if targets.is_floating_point() else targets
            # In one piece: each transfer makes the host wait for a GPU.
            judged = _judge(outputs, wanted, losses).cpu()
            predicted, target = judged[:, :2].to(torch.int32).unbind(1)
            values = judged[:, 2:]
            is_mistake = predicted != target
            self._offer(self._confident, values[:, 0].where(is_mistake, torch.nan), batch)
            self._offer(self._worst, values[:, -1].where(is_mistake, torch.nan), batch)
        self._gathered.append((batch.indices.clone(), target, predicted, values.float()))
        self._seen += len(batch)

    def _write(self, tree: Tree, part: str) -> None:
        pictures = {mistake.index: mistake.picture for mistake in (*self._confident, *self._worst)}
        tree.make(MISTAKES)
        for number, picture in enumerate(pictures.values()):
            if picture:
                tree.write(picture_of(number), [picture])
        write_predictions(tree, self._predictions(part, np.array([*pictures], np.int64)))

    def _offer(self, worst: list[_Mistake], scores: Tensor, batch: Batch) -> None:
        """Keep the samples of a batch whose scores are among the largest so far; NaN is none."""
        known = scores.nan_to_num(-torch.inf)
        most = known.topk(min(SHOWN, len(known)))
        for score, place in zip(most.values.tolist(), most.indices.tolist(), strict=True):
            if score == -torch.inf or (len(worst) == SHOWN and score <= worst[-1].score):
                return
            inputs = batch.inputs
            is_image = (
                isinstance(inputs, Tensor) and inputs.dim() == _IMAGE_DIMS and inputs.is_floating_point()
            )
            picture = _thumbnail(inputs[place]) if is_image else b""
            worst.append(_Mistake(score, -self._seen - place, int(batch.indices[place]), picture))
            worst.sort(reverse=True)
            del worst[SHOWN:]

    def _predictions(self, part: str, shown: Array) -> Predictions:
        """Return all that was taken, bounded."""
        every = zip(*self._gathered, strict=True)
        index, target, predicted, values = (torch.cat(parts).numpy() for parts in every)
        kept = evenly(len(index), MAX_SAMPLES - len(shown))
        kept = np.union1d(kept, np.flatnonzero(np.isin(index, shown)))
        classes = self._classes or 0
        probabilities = values[:, 0] if classes else values[:0, 0]
        return Predictions(
            part=part,
            samples=len(index),
            classes=classes,
            class_names=self._class_names,
            index=index[kept],
            target=target[kept],
            predicted=predicted[kept],
            predicted_probability=values[kept, 0] if classes else probabilities,
            target_probability=values[kept, 1] if classes else probabilities,
            loss=values[kept, -1],
            pairs=_count_pairs(target, predicted, classes),
            per_class=_count_classes(target, predicted, classes),
            calibration=_calibrate(probabilities, predicted == target) if classes else np.empty((0, 3)),
            mistakes=shown,
            confident=np.isin(shown, [mistake.index for mistake in self._confident]),
        )


def _judge(outputs: Tensor, targets: Tensor, losses: Tensor) -> Tensor:
    """Return predicted class, target, the probability of each, and the loss, (B, 5) float64."""
    classes = torch.stack([outputs.argmax(1), targets], 1)  # (B, 2)
    probabilities = outputs.double().softmax(1).gather(1, classes)  # (B, 2)
    return torch.cat([classes.double(), probabilities, losses[:, None]], 1)


def _columns(values: Tensor) -> Tensor:
    """Return the first numbers of each sample, (B, C)."""
    return values.reshape(len(values), -1)[:, :MAX_COLUMNS]


def _thumbnail(image: Tensor) -> bytes:
    """Return a small PNG of one image of a batch, (C, H, W)."""
    # Every so many pixels, averaged: what is larger than it is shown takes no room.
    pixels = image.float()[None]
    times = -(-max(pixels.shape[2:]) // _THUMBNAIL_PIXELS)
    if times > 1:
        pixels = torch.nn.functional.avg_pool2d(pixels, times, ceil_mode=True)
    return to_png(from_batch(pixels[0]))


def _count_pairs(target: Array, predicted: Array, classes: int) -> Array:
    """Return the cells of the confusion matrix that are not zero, (P, 3), the largest first."""
    if not classes:
        return np.empty((0, 3), np.int64)
    cells, counts = np.unique(target.astype(np.int64) * classes + predicted, return_counts=True)
    largest = np.argsort(-counts, kind="stable")[:MAX_PAIRS]
    return np.stack([*np.divmod(cells[largest], classes), counts[largest]], 1)


def _count_classes(target: Array, predicted: Array, classes: int) -> Array:
    """Return how often each class was the target, predicted, and both, (K, 3)."""
    if not 0 < classes <= MAX_CLASSES:
        return np.empty((0, 3), np.int64)
    both = target[target == predicted]
    return np.stack([np.bincount(each, minlength=classes) for each in (target, predicted, both)], 1)


def _calibrate(probabilities: Array, is_correct: Array) -> Array:
    """Return samples, sum of probabilities and correct ones in each bin, (bins, 3); NaN is in none."""
    known = ~np.isnan(probabilities)
    probabilities, is_correct = probabilities[known], is_correct[known]
    bins = np.minimum((probabilities * CALIBRATION_BINS).astype(int), CALIBRATION_BINS - 1)
    weights = (np.ones_like(probabilities), probabilities, is_correct)
    return np.stack([np.bincount(bins, each, CALIBRATION_BINS) for each in weights], 1)
