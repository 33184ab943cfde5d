"""Jobs with losses of their own options, from data to what a run tells."""

import numpy as np
import pytest

import ringfence

from .conftest import TRUSTED

ADAM = {"optim": {"algorithm": "adam", "lr": 0.02}, "isolation": "trusted"}


def train(folder, **keys):
    return ringfence.train(progress=False, out=folder / "run", **{**TRUSTED, "steps": 60, **keys})


@pytest.fixture
def labels(tmp_path):
    """Numbers of which the first three say by their signs which labels there are."""
    numbers = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    np.savez(tmp_path / "labels.npz", inputs=numbers, targets=(numbers[:, :3] > 0).astype(np.float32))
    return {"name": "arrays", "path": str(tmp_path / "labels.npz")}


def test_samples_with_several_labels_are_learned_and_judged_by_their_labels(labels, tmp_path):
    run = train(tmp_path, model="mlp", data=labels, loss="bce", plugins=[ADAM])

    assert run.status == "completed"
    assert run.job.metric.name == "binary_accuracy"
    assert ringfence.evaluate(tmp_path / "run")["validation"]["binary_accuracy"] > 0.8


def test_targets_that_are_no_labels_are_refused_by_sample(labels, tmp_path):
    data = np.load(labels["path"])
    targets = data["targets"]
    targets[7, 1] = 2
    np.savez(labels["path"], inputs=data["inputs"], targets=targets)

    with pytest.raises(
        ringfence.DataError,
        match=r"loss: the (train|test) data: loss 'bce' needs targets from 0 to 1, and sample",
    ):
        train(tmp_path, model="mlp", data=labels, loss="bce", validation_fraction=0)


@pytest.mark.parametrize(
    "loss", [{"name": "focal", "gamma": 1.0}, {"name": "cross_entropy", "class_weights": [1.0] * 9 + [4.0]}]
)
def test_a_loss_for_rare_classes_trains_and_is_told_as_it_was_trained(loss, tmp_path):
    run = train(tmp_path, loss=loss, steps=4)

    assert run.status == "completed"
    assert ringfence.evaluate(tmp_path / "run")["test"]["loss"] == pytest.approx(
        run.metrics["test"]["loss"].values[-1], rel=1e-6
    )


def test_weights_for_other_classes_than_there_are_are_refused_with_the_key():
    with pytest.raises(ringfence.DataError, match=r"loss.*class_weights for 2 classes, and the data have 10"):
        ringfence.train(
            progress=False, **{**TRUSTED, "loss": {"name": "cross_entropy", "class_weights": [1, 2]}}
        )
