"""How a model judges the test data, as the page shows it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.classification import (
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassPrecision,
    MulticlassRecall,
)

from ringfence import Batch
from ringfence.engine.losses import MSE, CrossEntropy
from ringfence.plugins.observer import RunInfo
from ringfence.report import judgement
from ringfence.report.page import write_report
from ringfence.tracking.prediction_log import PredictionLog
from ringfence.tracking.predictions import TEST_PREDICTIONS, read_predictions, write_predictions
from ringfence.tracking.untrusted_folder import Tree

from .test_page import EVIL, Page


def judge(folder, targets, outputs, *, classes, names=(), inputs=None):
    folder.mkdir(exist_ok=True)
    log = PredictionLog(folder, names, (MSE() if classes is None else CrossEntropy()).per_sample)
    log.started(
        RunInfo(0, 1, 1, 1, len(targets), 1, "cpu", "accuracy", higher_is_better=True, validation_samples=0)
    )
    inputs = torch.rand(len(targets), 1, 5, 5) if inputs is None else inputs
    log.predicted("test", Batch(inputs, targets, torch.arange(len(targets)), classes), outputs)
    return read_predictions(Tree(folder))


@pytest.fixture
def problem():
    """Make 500 targets and logits of 6 classes, of which one is never there and one never told."""
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(5, (500,), generator=generator)
    outputs = torch.randn(500, 6, generator=generator) + 2 * torch.nn.functional.one_hot(targets, 6)
    outputs[:, 4] -= 50
    return targets, outputs


def test_figures_are_those_of_torchmetrics(tmp_path, problem):
    targets, outputs = problem
    found = judge(tmp_path, targets, outputs, classes=6, names=("a", "b", "c", "d", "e", "f"))

    rows, mean = judgement.class_figures(found)
    for name, metric in (
        ("precision", MulticlassPrecision(6, average=None)),
        ("recall", MulticlassRecall(6, average=None)),
        ("f1", MulticlassF1Score(6, average=None)),
    ):
        # torchmetrics has 0 where there is nothing to divide by.
        ours = [getattr(row, name) or 0.0 for row in rows]
        np.testing.assert_allclose(ours, metric(outputs, targets), atol=1e-6)
    macro = MulticlassF1Score(6, average="macro")(outputs, targets)
    assert mean is not None
    assert mean.f1 == pytest.approx(float(macro), abs=1e-6)
    assert rows[4].precision is None  # never told
    assert judgement.accuracy(found) == pytest.approx(float((outputs.argmax(1) == targets).float().mean()))

    matrix = judgement.confusion(found)
    assert matrix is not None
    shown = [[int(cell.text or 0) for cell in row] for row in matrix.rows]
    np.testing.assert_array_equal(shown, MulticlassConfusionMatrix(6)(outputs, targets))
    assert matrix.rows[0][1].title.startswith("a taken for b: ")


def test_calibration_error_is_that_of_torchmetrics(tmp_path, problem):
    targets, outputs = problem
    found = judgement.calibration(judge(tmp_path, targets, outputs, classes=6))

    probabilities = outputs.softmax(1)
    expected = MulticlassCalibrationError(6, n_bins=15, norm="l1")(probabilities, targets)
    assert found is not None
    assert found.error == pytest.approx(float(expected), abs=1e-5)
    right = (outputs.argmax(1) == targets).float().mean()
    assert found.gap == pytest.approx(float(probabilities.amax(1).mean() - right), abs=1e-5)
    sure = judgement.calibration(judge(tmp_path, targets, outputs * 9, classes=6))
    assert sure is not None
    assert "points surer than it is right" in sure.leaning
    assert found.error < sure.error


def test_the_most_frequent_mistakes_come_first(tmp_path):
    targets = torch.tensor([0] * 10 + [1] * 4)
    outputs = torch.nn.functional.one_hot(torch.tensor([0] * 7 + [2] * 3 + [0, 1, 1, 1]), 3).float()

    found = judgement.most_confused(judge(tmp_path, targets, outputs, classes=3, names=("x", "y", "z")))

    assert found == [("x", "z", 3, 0.3), ("y", "x", 1, 0.25)]


@pytest.mark.parametrize("classes", [30, 100])
def test_of_many_classes_the_worst_are_told(tmp_path, classes):
    targets = torch.arange(classes).repeat(3)
    predicted = targets.clone()
    predicted[-1] = 0
    found = judge(tmp_path, targets, torch.nn.functional.one_hot(predicted, classes).float(), classes=classes)

    rows, _ = judgement.class_figures(found)
    assert len(rows) == min(classes, judgement.MAX_ROWS)
    matrix = judgement.confusion(found)
    assert (matrix is None) == (classes > judgement.MAX_DRAWN)
    if matrix is None:
        assert {rows[0].name, rows[1].name} == {"99", "0"}
    else:
        assert not matrix.is_counted


# on the page


def page(folder):
    return Page(write_report(folder).read_text(encoding="utf-8"))


def test_page_shows_matrix_classes_calibration_and_mistakes_with_pictures(tmp_path, problem):
    targets, outputs = problem
    judge(tmp_path, targets, outputs, classes=6, names=("ant", "bee", "cat", "dog", "emu", f"fox{EVIL}"))

    found = page(tmp_path)
    labels = [svg["aria-label"] for svg in found.all("svg")]
    assert labels == ["How often it is right over how sure it is"]
    for words in (
        "On the test data",
        "Expected calibration error",
        "Most often confused",
        "Most confident mistakes",
        "Largest losses",
        "mean of 6",
        f"fox{EVIL}",
    ):
        assert words in found.text
    pictures = [image["alt"] for image in found.all("img")]
    assert len(pictures) >= 12
    assert all(" taken for " in alt for alt in pictures)
    assert not found.all("script")
    cells = [cell for cell in found.all("td") if " taken for " in cell.get("title", "")]
    assert len(cells) == 36


def test_page_shows_residuals_of_a_regression(tmp_path):
    targets = torch.linspace(-3, 3, 4000)
    judge(tmp_path, targets, targets + 0.5, classes=None, inputs=torch.rand(4000, 2))

    found = page(tmp_path)
    assert [svg["aria-label"] for svg in found.all("svg")] == ["Residual over prediction"]
    assert "Mean -0.5, standard deviation" in found.text
    assert not found.all("img")
    assert len((tmp_path / "report.html").read_text()) < 1_000_000


@pytest.mark.parametrize(
    "odd",
    [
        {"loss": np.full(4, np.nan, np.float32)},
        {"predicted_probability": np.full(4, np.nan, np.float32)},
        {"predicted_probability": np.full(4, -7e30, np.float32)},
        {"mistakes": np.array([99, -1]), "confident": np.array([True, False])},
        {"calibration": np.full((15, 3), 2.0**53)},
        {"calibration": np.zeros((15, 3))},
        {"per_class": np.array([[0, 2**53, 2**53], [2, 1, 2**53]])},
        {"per_class": np.zeros((2, 3), int)},
        {"pairs": np.array([[0, 1, 2**53], [0, 1, 5]])},
        {"pairs": np.empty((0, 3), int)},
        {"class_names": (EVIL, "\ud800\x1b[31m")},
    ],
    ids="-".join,
)
def test_any_numbers_of_a_strangers_give_a_page(tmp_path, odd):
    whole = judge(
        tmp_path, torch.tensor([0, 1, 1, 0]), torch.eye(2).repeat(2, 1), classes=2, names=("a", "b")
    )
    write_predictions(Tree(tmp_path), replace(whole, **odd))

    found = page(tmp_path)

    assert "On the test data" in found.text
    assert not found.all("script")


@pytest.mark.parametrize("value", [math.nan, math.inf, 1.7e308, -1.7e308])
def test_any_numbers_of_a_regression_give_a_page(tmp_path, value):
    whole = judge(tmp_path, torch.zeros(4), torch.ones(4), classes=None, inputs=torch.rand(4, 2))
    write_predictions(Tree(tmp_path), replace(whole, predicted=np.full((4, 1), value), target=-whole.target))

    assert "Residuals" in page(tmp_path).text


def test_a_picture_of_a_mistake_leads_nowhere_else_and_is_small(tmp_path, problem):
    targets, outputs = problem
    judge(tmp_path / "run", targets, outputs, classes=6)
    secret = tmp_path / "secret.png"
    secret.write_bytes((tmp_path / "run/mistakes/00.png").read_bytes())
    (tmp_path / "run/mistakes/00.png").unlink()
    (tmp_path / "run/mistakes/00.png").symlink_to(secret)
    with (tmp_path / "run/mistakes/01.png").open("ab") as file:
        file.truncate(1 << 30)

    found = page(tmp_path / "run")

    count = len(list((tmp_path / "run/mistakes").iterdir()))
    assert len(found.all("img")) == count - 2
    assert "mistakes/00.png is a symbolic link" in found.text
    assert "mistakes/01.png has more than" in found.text


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / TEST_PREDICTIONS).write_bytes(b"PK\x03\x04 nothing")

    assert "test_predictions.npz is damaged: it is no whole archive" in page(tmp_path).text
