"""Jobs with losses of their own options, from data to what a run tells."""

import json

import numpy as np
import pytest

import ringfence

from .conftest import TRUSTED
from .models_beside import Right, Scaled, smooth

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


BESIDE = smooth.__module__
OWN = {"name": f"{BESIDE}:smooth", "by": 0.2}
LABELLED = {"name": f"{BESIDE}:Right", "higher_is_better": True, "among": 2, "label": "right2"}


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A run with losses and metrics by import path, and of several kinds."""
    return ringfence.train(
        {
            **TRUSTED,
            "loss": [
                {**OWN, "weight": 0.5},
                {"name": "cross_entropy", "label_smoothing": 0.2, "weight": 0.5},
            ],
            "metric": "accuracy",
            "metrics": [
                {"name": "torchmetrics.classification:MulticlassCohenKappa", "weights": "quadratic"},
                "accuracy",
                {"name": "f1", "average": "micro", "label": "micro"},
                "top5_accuracy",
                LABELLED,
                "perplexity",
            ],
        },
        out=tmp_path_factory.mktemp("own") / "run",
        progress=False,
    )


def test_losses_and_metrics_are_told_wherever_a_run_tells_numbers(own, capsys):
    names = {
        "loss", "loss_smooth", "loss_cross_entropy", "accuracy", "MulticlassCohenKappa", "micro",
        "top5_accuracy", "right2", "perplexity",
    }  # fmt: skip
    final, tested = own.record["final_metrics"], own.record["test_metrics"]

    assert final.keys() == tested.keys() == own.metrics["validation"].keys() - {"time", "best"} == names
    assert final["loss"] == pytest.approx((final["loss_smooth"] + final["loss_cross_entropy"]) / 2)
    assert final["loss_smooth"] == pytest.approx(final["loss_cross_entropy"], rel=1e-5)
    assert final["micro"] == pytest.approx(final["accuracy"])
    measured = ringfence.evaluate(own.folder)
    for part, told in (("validation", final), ("test", tested)):
        assert {**measured[part], "samples": 0} == {**told, "samples": 0}
    assert final["right2"] / measured["validation"]["samples"] >= final["accuracy"]


def test_a_loss_by_import_path_gives_the_weights_of_the_builtin_that_it_is_like(tmp_path):
    builtin = train(tmp_path / "a", loss={"name": "cross_entropy", "label_smoothing": 0.2}, steps=4)
    named = train(tmp_path / "b", loss=OWN, metric="accuracy", steps=4)
    given = train(tmp_path / "c", loss={"name": smooth, "by": 0.2}, metric="accuracy", steps=4)
    made = train(tmp_path / "d", loss={"name": Scaled, "scale": 1.0}, steps=4)

    assert builtin.weights_sha256 == named.weights_sha256 == given.weights_sha256 != made.weights_sha256
    assert given.job.loss.options == {"by": 0.2}
    assert made.job.metric.name == "loss"
    assert made.record["best_metric"] == made.record["final_metrics"]["loss"]


def test_objects_may_stand_in_lists(tmp_path):
    kept = Right()
    kept.higher_is_better = True
    keys = {
        "loss": [{"name": lambda o, t: smooth(o, t, by=0.0), "weight": 2.0}, "focal"],
        "metrics": [kept, "accuracy"],
    }
    run = train(tmp_path, steps=2, **keys)

    assert json.loads((run.folder / "run.json").read_text())["objects"] == {
        "loss[0]": "<lambda>",
        "metrics[0]": "<Right>",
    }
    assert run.record["final_metrics"].keys() == {"loss", "loss_lambda", "loss_focal", "Right", "accuracy"}
    with pytest.raises(ringfence.JobError, match=r"the run's loss\[0\] was an object"):
        ringfence.evaluate(run.folder)
    again = ringfence.train(out=run.folder, resume=True, progress=False, **{**keys, "steps": 4})
    assert again.metrics["validation"]["loss"].steps[-1] == 4


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"loss": f"{BESIDE}:nothing"}, "loss: .* module .* has no 'nothing'"),
        ({"loss": {**OWN, "bye": 1}}, "loss: .* option 'bye' is unknown"),
        ({"loss": {"name": f"{BESIDE}:Scaled", "size": 1}}, "loss: .* option 'size' is unknown"),
        ({"loss": "nn.CrossEntropyLoss"}, "loss: 'nn.CrossEntropyLoss' is unknown; did you mean 'nn:Cross"),
        ({"loss": []}, "loss: expected a list of losses"),
        ({"loss": ["mse"] * 17}, "loss: has 17 losses; at most 16"),
        ({"loss": [{"name": "focal", "weight": 0}]}, r"loss\[0\].weight: expected a number above 0, got 0"),
        ({"loss": ["mse", {"name": "focl"}]}, r"loss\[1\]: 'focl' is unknown; did you mean 'focal'"),
        ({"loss": ["focal", 3]}, r"loss\[1\]: expected the name of a loss, or .*got 3"),
        ({"loss": ["focal", {"name": "sum", "terms": []}]}, r"loss\[1\]: several losses inside of several"),
        ({"loss": [{"name": "focal", "gama": 1}]}, r"loss\[0\].gama: unknown option; did you mean 'gamma'"),
        ({"loss": {"name": "focal", "output": 1.5}}, "loss.output: expected a key or a place of what"),
        ({"loss": [{"name": "focal", "output": "depth"}]}, "output 'depth': the model returned one tensor"),
        ({"loss": [{"name": "focal", "target": "depth"}]}, "target 'depth': the data have one tensor"),
        ({"loss": "torch.nn:MSELoss"}, "the loss could not be computed"),
        ({"loss": {"name": "torch.nn:CrossEntropyLoss", "reduction": "none"}}, r"a tensor of shape \(32,\)"),
        ({"loss": "ctc"}, "loss 'ctc' needs targets that are a dict"),
        ({"metric": "acuracy"}, "metric: 'acuracy' is unknown; did you mean 'accuracy'"),
        ({"metric": {"name": "f1", "avrage": "macro"}}, "metric.avrage: is unknown; did you mean 'average'"),
        ({"metrics": ["f1", {"name": "f1", "average": "no"}]}, r"metrics\[1\].average: expected 'macro'"),
        ({"metrics": "f1"}, r"metrics: expected a list, .*write 'metrics: \[…\]'"),
        ({"metrics": ["f1", {"name": "f1", "average": "micro"}]}, r"would be called 'f1', as .*label"),
        ({"metrics": [{"name": "f1", "label": "loss_x"}]}, r"metrics\[0\].label: expected a name of letters"),
        ({"metric": {"name": "loss", "output": "x"}}, "metric: is the loss itself, which takes no options"),
        ({"metrics": ["mse"]}, "metric: 'mse' does not fit data of classes; choose one of accuracy"),
        ({"metric": f"{BESIDE}:Right"}, "say it by the option higher_is_better"),
        ({"metric": {**LABELLED, "among": 99}}, "metric: 'right2' does not take the outputs .*index k"),
        ({"metric": {**LABELLED, "amnog": 2}}, "metric: .* option 'amnog' is unknown; did you mean 'among'"),
        ({"metric": "torchmetrics.regression:MeanSquaredError"}, "metric: 'MeanSquaredError' does not take"),
    ],
)  # fmt: skip
def test_losses_and_metrics_that_cannot_be_are_told_before_the_start(keys, told, tmp_path):
    with pytest.raises((ringfence.JobError, ringfence.DataError), match=told):
        train(tmp_path, **keys)
    assert not (tmp_path / "run").exists()


TWO = {
    "model": f"{BESIDE}:TwoHeads",
    "data": f"{BESIDE}:two_kinds",
    "loss": [
        {"name": "cross_entropy", "output": "labels", "target": "labels"},
        {"name": "mse", "output": "depth", "target": "depth", "weight": 0.5},
    ],
    "metrics": [
        {"name": "accuracy", "output": "labels", "target": "labels"},
        {"name": "r2", "output": "depth", "target": "depth"},
        {
            "name": "torchmetrics.classification:MulticlassF1Score",
            "num_classes": 3,
            "output": "labels",
            "target": "labels",
        },
    ],
    "plugins": [ADAM],
    "batch_size": 20,
}


def test_parts_of_outputs_and_targets_have_their_own_losses_and_metrics(tmp_path):
    run = train(tmp_path, **TWO, grad_accum_steps=2)
    final = run.record["final_metrics"]

    assert final.keys() == {"loss", "loss_cross_entropy", "loss_mse", "accuracy", "r2", "MulticlassF1Score"}
    assert final["loss"] == pytest.approx(final["loss_cross_entropy"] + 0.5 * final["loss_mse"])
    assert final["accuracy"] > 0.7
    assert final["r2"] > 0.3
    again = ringfence.evaluate(run.folder, checkpoint="last")["validation"]
    assert {**again, "samples": 0} == {**final, "samples": 0}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"loss": "mse", "metrics": []}, "loss 'mse' takes targets that are one tensor"),
        ({"metrics": ["accuracy"]}, "metric 'accuracy' takes targets that are one tensor|does not fit data"),
        ({"metrics": ["mse"]}, "the model returned .*labels.* a builtin loss or metric takes one tensor"),
        ({"metrics": [{"name": "mse", "target": "depth"}]}, "the model returned .* takes one tensor"),
        ({"metrics": [{"name": "mse", "output": "depth", "target": "dept"}]}, "target 'dept': the data"),
        ({"metrics": [{"name": "mse", "output": "labels", "target": "depth"}]}, "mse' compares"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_told_before_the_start(keys, told, tmp_path):
    with pytest.raises((ringfence.JobError, ringfence.DataError), match=told):
        train(tmp_path, **{**TWO, **keys})
