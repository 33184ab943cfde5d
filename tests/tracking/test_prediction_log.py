"""What a finished model makes of the test data, gathered and written."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ringfence import Batch
from ringfence.engine.losses import MSE, CrossEntropy
from ringfence.plugins.observer import RunInfo
from ringfence.tracking import prediction_log
from ringfence.tracking.prediction_log import SHOWN, PredictionLog
from ringfence.tracking.predictions import MISTAKES, TEST_PREDICTIONS, picture_of, read_predictions
from ringfence.tracking.untrusted_folder import Tree

from .test_strange_folders import train

NAMES = ("cat", "dog", "emu")


def info(test=0, validation=0):
    sizes = {"test_samples": test, "validation_samples": validation}
    return RunInfo(0, 4, 2, 64, parameters=9, device="cpu", metric="accuracy", higher_is_better=True, **sizes)


def keep(folder, inputs, targets, outputs, *, classes=3, loss=None, part="test", size=10, names=NAMES):
    log = PredictionLog(folder, names, (loss or CrossEntropy()).per_sample)
    log.started(info(**{part: len(inputs)}))
    assert log.wants_predictions()
    for places in torch.arange(len(inputs)).split(size):
        assert not (folder / TEST_PREDICTIONS).exists()
        log.predicted(part, Batch(inputs[places], targets[places], places, classes), outputs[places])
    return read_predictions(Tree(folder))


@pytest.fixture
def problem():
    """Make images, targets and logits of 3 classes, 67 samples: no whole number of batches."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.rand(67, 1, 4, 4, generator=generator)
    targets = torch.randint(3, (67,), generator=generator)
    outputs = torch.randn(67, 3, generator=generator) + torch.nn.functional.one_hot(targets, 3)
    return inputs, targets, outputs


def test_every_sample_is_kept_as_torch_works_it_out(tmp_path, problem):
    _, targets, outputs = problem

    found = keep(tmp_path, *problem)

    probabilities = outputs.softmax(1)
    assert (found.part, found.samples, found.classes, found.class_names) == ("test", 67, 3, NAMES)
    np.testing.assert_array_equal(found.index, np.arange(67))
    np.testing.assert_array_equal(found.target, targets)
    np.testing.assert_array_equal(found.predicted, outputs.argmax(1))
    np.testing.assert_allclose(found.predicted_probability, probabilities.amax(1), rtol=1e-6)
    np.testing.assert_allclose(found.target_probability, probabilities[torch.arange(67), targets], rtol=1e-6)
    losses = torch.nn.functional.cross_entropy(outputs, targets, reduction="none")
    np.testing.assert_allclose(found.loss, losses, rtol=1e-5)


def test_counts_are_of_all_samples_also_where_few_are_kept(tmp_path, problem, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_SAMPLES", 40)
    inputs, targets, outputs = problem

    found = keep(tmp_path, inputs, targets, outputs)

    matrix = np.zeros((3, 3), int)
    np.add.at(matrix, (targets.numpy(), outputs.argmax(1).numpy()), 1)
    assert len(found.index) <= 40 < found.samples
    assert set(found.mistakes) <= set(found.index)
    assert {(t, p): n for t, p, n in found.pairs.tolist()} == {
        (t, p): n for (t, p), n in np.ndenumerate(matrix) if n
    }
    np.testing.assert_array_equal(
        found.per_class, np.stack([matrix.sum(1), matrix.sum(0), matrix.diagonal()], 1)
    )
    sure = outputs.softmax(1).amax(1)
    np.testing.assert_allclose(found.calibration.sum(0), [67, sure.sum(), matrix.trace()], rtol=1e-5)
    in_last = (sure >= 14 / 15).sum()
    assert found.calibration[-1, 0] == in_last


def test_the_mistakes_are_the_most_confident_and_the_worst_with_their_pictures(tmp_path, problem):
    inputs, targets, outputs = problem

    found = keep(tmp_path, *problem)

    wrong = (outputs.argmax(1) != targets).nonzero()[:, 0]
    sure, losses = (
        outputs.softmax(1).amax(1),
        torch.nn.functional.cross_entropy(outputs, targets, reduction="none"),
    )
    by_confidence = wrong[sure[wrong].argsort(descending=True)][:SHOWN].tolist()
    by_loss = wrong[losses[wrong].argsort(descending=True)][:SHOWN].tolist()
    assert len(wrong) > SHOWN
    assert found.mistakes[found.confident].tolist() == by_confidence
    assert set(found.mistakes.tolist()) == {*by_confidence, *by_loss}
    for number, index in enumerate(found.mistakes):
        picture = Image.open(io.BytesIO((tmp_path / picture_of(number)).read_bytes()))
        np.testing.assert_array_equal(np.array(picture), (inputs[index, 0] * 255).round())


def test_pictures_are_small_whatever_the_size_of_the_images(tmp_path):
    keep(tmp_path, torch.rand(4, 3, 900, 500), torch.zeros(4).long(), -torch.eye(4)[:, :3])

    pngs = [path.read_bytes() for path in (tmp_path / MISTAKES).iterdir()]
    sizes = [Image.open(io.BytesIO(png)).size for png in pngs]
    assert sizes
    assert all(max(size) <= 112 for size in sizes)


def test_soft_targets_count_as_their_largest_class(tmp_path, problem):
    inputs, targets, outputs = problem
    soft = torch.nn.functional.one_hot(targets, 3) * 0.8 + 0.2 / 3

    found = keep(tmp_path, inputs, soft, outputs)

    np.testing.assert_array_equal(found.target, targets)
    losses = torch.nn.functional.cross_entropy(outputs, soft, reduction="none")
    np.testing.assert_allclose(found.loss, losses, rtol=1e-5)


@pytest.mark.parametrize("shape", [(30,), (30, 1), (30, 20)])
def test_numbers_are_kept_for_a_regression(tmp_path, shape):
    targets = torch.arange(float(torch.Size(shape).numel())).reshape(shape) + 3e5
    outputs = targets + torch.linspace(-1, 1, 30).reshape(30, *[1] * (len(shape) - 1))

    found = keep(
        tmp_path, torch.rand(30, 4), targets, outputs, classes=None, loss=MSE(), part="validation", names=()
    )

    columns = targets.reshape(30, -1)[:, :8].double().numpy()
    assert (found.part, found.classes, found.class_names) == ("validation", 0, ())
    np.testing.assert_array_equal(found.target, columns)
    np.testing.assert_allclose(found.predicted - found.target, (outputs - targets).reshape(30, -1)[:, :8])
    assert set(found.mistakes) >= {0, 29}
    assert not list((tmp_path / MISTAKES).iterdir())


def test_outputs_that_are_not_finite_do_no_harm(tmp_path, problem):
    inputs, targets, outputs = problem
    outputs = outputs.clone()
    outputs[3], outputs[5, 0] = torch.nan, -torch.inf

    found = keep(tmp_path, inputs, targets, outputs)

    assert np.isnan(found.predicted_probability[3])
    assert found.calibration[:, 0].sum() == 66
    assert 3 not in found.mistakes


def test_a_run_that_goes_on_loses_what_its_earlier_end_left(tmp_path, problem):
    keep(tmp_path, *problem)
    assert (tmp_path / MISTAKES).is_dir()

    PredictionLog(tmp_path, NAMES, CrossEntropy().per_sample).started(info(test=67))

    assert list(tmp_path.iterdir()) == []


def test_many_classes_are_counted_within_bounds(tmp_path, monkeypatch):
    monkeypatch.setattr(prediction_log, "MAX_PAIRS", 10)
    targets = torch.arange(300)
    outputs = torch.nn.functional.one_hot((targets + (targets < 290)) % 300, 300).float()

    found = keep(tmp_path, torch.rand(300, 2), targets, outputs, classes=300, names=())

    assert found.pairs.shape == (10, 3)
    assert found.per_class[:, 2].sum() == 10


def test_a_run_leaves_predictions_that_come_to_its_own_figures(tmp_path):
    folder = tmp_path / "run"
    train(folder)

    found = read_predictions(Tree(folder))
    told = json.loads((folder / "run.json").read_text())
    figures = told["test_metrics"]
    assert found.per_class[:, 2].sum() / found.samples == pytest.approx(figures["accuracy"])
    assert found.loss.mean() == pytest.approx(figures["loss"], rel=1e-6)
    assert found.class_names == tuple("0123456789")
    assert list((folder / MISTAKES).iterdir())
