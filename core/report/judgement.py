"""How a model judges the test data: confusion, classes, calibration, mistakes, residuals.

Made of ``test_predictions.npz``, whose counts are of all samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tracking.predictions import Predictions
from .charts import reliability_chart, residual_chart

#: Classes of a matrix whose counts can be read, and of one that can be seen at all.
MAX_COUNTED = 20
MAX_DRAWN = 64
#: Rows of the table of classes: of more, those with the lowest F1.
MAX_ROWS = 40
MAX_CONFUSED = 10
#: Dots of a chart.
MAX_DOTS = 1500
_LEAST_TINT = 0.06
_STRONG = 0.6


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion matrix.

    Attributes:
        text: Its count, if that is shown.
        tint: Strength of its colour, 0 to 1.
        is_right: It is on the diagonal.
        title: What it says in full.
    """

    text: str
    tint: float
    is_right: bool
    title: str

    @property
    def is_strong(self) -> bool:
        """Tell whether its text needs the other colour to be read."""
        return self.tint > _STRONG


@dataclass(frozen=True, slots=True)
class ClassFigures:
    """Figures of one class, or of several together; None where there is nothing to divide by."""

    name: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True, slots=True)
class Matrix:
    """The confusion matrix: a row a class that was to be told, a column a class that was told."""

    names: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    is_counted: bool


@dataclass(frozen=True, slots=True)
class Calibration:
    """The reliability diagram, and what it comes to.

    Attributes:
        error: Expected calibration error.
        gap: Mean probability of the choice less the share that is right.
        svg: The diagram.
    """

    error: float
    gap: float
    svg: str

    @property
    def leaning(self) -> str:
        """To which side it errs, in words."""
        points = f"{100 * abs(self.gap):.1f} points"
        if points.startswith("0.0 "):
            return "On average it is as sure as it is right."
        return f"On average it is {points} {'surer' if self.gap > 0 else 'less sure'} than it is right."


@dataclass(frozen=True, slots=True)
class Mistake:
    """A sample that was misjudged.

    Attributes:
        number: Of its picture.
        index: Its place in what was read.
        target: What it is.
        predicted: What it was taken for.
        sure: The probability that it was given; None of a regression.
        loss: Its loss.
    """

    number: int
    index: int
    target: str
    predicted: str
    sure: float | None
    loss: float


def class_name(predictions: Predictions, number: int) -> str:
    """Return the name of a class, or its number."""
    return predictions.class_names[number] if predictions.class_names else str(number)


def accuracy(predictions: Predictions) -> float | None:
    """Return the share of all samples that was classified rightly; None where that was not counted."""
    return (
        float(predictions.per_class[:, 2].sum() / predictions.samples) if len(predictions.per_class) else None
    )


def confusion(predictions: Predictions) -> Matrix | None:
    """Return the confusion matrix; None of too many classes."""
    count = predictions.classes
    if not 0 < count <= MAX_DRAWN:
        return None
    table = np.zeros((count, count), np.int64)
    table[predictions.pairs[:, 0], predictions.pairs[:, 1]] = predictions.pairs[:, 2]
    names = [class_name(predictions, number) for number in range(count)]
    is_counted = count <= MAX_COUNTED
    return Matrix(names, [list(_cells(row, names, i, is_counted)) for i, row in enumerate(table)], is_counted)


def _cells(row: NDArray[np.int64], names: Sequence[str], target: int, is_counted: bool) -> Iterator[Cell]:  # noqa: FBT001 - of the matrix
    total = int(row.sum())
    for predicted, count in enumerate(row.tolist()):
        share = count / total if total else 0.0
        # The square root brings out the few mistakes that there are beside what is right.
        tint = max(share**0.5, _LEAST_TINT) if count else 0.0
        said = f"{names[target]} taken for {names[predicted]}: {count:,} of {total:,} ({share:.1%})"
        yield Cell(f"{count:,}" if is_counted and count else "", tint, predicted == target, said)


def most_confused(predictions: Predictions) -> list[tuple[str, str, int, float]]:
    """Return the most frequent mistakes: what it is, what it was taken for, how often, and of how many."""
    wrong = predictions.pairs[predictions.pairs[:, 0] != predictions.pairs[:, 1]]
    wrong = wrong[np.argsort(-wrong[:, 2], kind="stable")][:MAX_CONFUSED]
    if not len(predictions.per_class):
        return []
    support = np.maximum(predictions.per_class[wrong[:, 0], 0], 1)
    return [
        (class_name(predictions, target), class_name(predictions, predicted), count, min(count / of, 1.0))
        for (target, predicted, count), of in zip(wrong.tolist(), support.tolist(), strict=True)
    ]


def class_figures(predictions: Predictions) -> tuple[list[ClassFigures], ClassFigures | None]:
    """Return the figures of each class, and their mean over the classes that occur; those of many not."""
    if not len(predictions.per_class):
        return [], None
    rows = [
        _figures(class_name(predictions, number), *counts)
        for number, counts in enumerate(predictions.per_class.tolist())
    ]
    # As torchmetrics' macro average: a class that was neither there nor told says nothing.
    occurring = [row for row in rows if row.f1 is not None]
    mean = ClassFigures(
        f"mean of {len(occurring)}",
        predictions.samples,
        *(_mean([getattr(row, name) or 0.0 for row in occurring]) for name in ("precision", "recall", "f1")),
    )
    if len(rows) > MAX_ROWS:
        rows = sorted(occurring, key=lambda row: row.f1 or 0.0)[:MAX_ROWS]
    return rows, mean


def _figures(name: str, support: int, told: int, both: int) -> ClassFigures:
    return ClassFigures(
        name, support, _ratio(both, told), _ratio(both, support), _ratio(2 * both, support + told)
    )


def _ratio(part: int, whole: int) -> float | None:
    return min(part / whole, 1.0) if whole else None


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def calibration(predictions: Predictions) -> Calibration | None:
    """Return the reliability diagram and the expected calibration error; None of a regression.

    Source: Naeini et al. 2015, and Guo et al. 2017, equation 3, arXiv:1706.04599, with 15 equal bins.
    """
    bins = predictions.calibration
    samples = bins[:, 0].sum() if len(bins) else 0.0
    if not samples:
        return None
    _, sure, right = bins.T
    return Calibration(
        error=float(np.abs(right - sure).sum() / samples),
        gap=float((sure - right).sum() / samples),
        svg=reliability_chart("calibration", "How often it is right over how sure it is", bins),
    )


def mistakes(predictions: Predictions, *, confident: bool) -> Iterator[Mistake]:
    """Yield the mistakes to show: the most confident ones, or the others, which have the largest loss."""
    places = {index: place for place, index in enumerate(predictions.index.tolist())}
    for number, (index, chosen) in enumerate(
        zip(predictions.mistakes.tolist(), predictions.confident.tolist(), strict=True)
    ):
        place = places.get(index)
        if place is None or chosen != confident:
            continue
        name = (lambda value: class_name(predictions, int(value))) if predictions.classes else _numbers
        sure = float(predictions.predicted_probability[place]) if predictions.classes else None
        target, predicted = name(predictions.target[place]), name(predictions.predicted[place])
        yield Mistake(number, index, target, predicted, sure, float(predictions.loss[place]))


def residuals(predictions: Predictions) -> str | None:
    """Return the chart of residuals over predictions, of all numbers of a sample together."""
    if predictions.classes:
        return None
    predicted = predictions.predicted.ravel()
    residual = predictions.target.ravel() - predicted
    every = -(-len(predicted) // MAX_DOTS)
    return residual_chart("residuals", "Residual over prediction", predicted[::every], residual[::every])


def residual_words(predictions: Predictions) -> str:
    """Return mean and spread of the residuals in a sentence."""
    with np.errstate(over="ignore", invalid="ignore"):
        residual = (predictions.target - predictions.predicted).ravel()
        mean, spread = residual.mean(), residual.std()
    return f"Mean {mean:.4g}, standard deviation {spread:.4g}."


def _numbers(row: NDArray[Any]) -> str:
    return ", ".join(f"{value:.4g}" for value in row.tolist())
