"""Metrics of the user's: what they are made with and given, and what is told of those that fail."""

import pytest
import torch
import torchmetrics
from torchmetrics.classification import BinaryF1Score, MulticlassF1Score, MultilabelF1Score
from torchmetrics.image import StructuralSimilarityIndexMeasure
from torchmetrics.regression import MeanSquaredError, PearsonCorrCoef

from ringfence.engine.losses import CrossEntropy
from ringfence.engine.metrics import TargetForm
from ringfence.engine.objective import Objective
from ringfence.engine.own_metric import facts_of, metric_of_class, metric_of_object
from ringfence.hooks.errors import DataError, JobError


def measured(metric, outputs, targets):
    state = metric.build(TargetForm())
    for begin in range(0, len(outputs), 4):
        metric.update(state, outputs[begin : begin + 4], targets[begin : begin + 4])
    return metric.value(state)


@pytest.mark.parametrize("make", [MulticlassF1Score, torchmetrics.F1Score])
def test_what_a_constructor_asks_for_is_filled_in_from_the_data(make):
    outputs, targets = torch.randn(10, 3), torch.randint(0, 3, (10,))

    metric = metric_of_class(make, {"average": "macro"}, TargetForm(3), "f1")

    expected = MulticlassF1Score(3, average="macro")(outputs, targets).item()
    assert measured(metric, outputs, targets) == pytest.approx(expected)
    assert metric.higher_is_better


def test_what_the_job_says_is_not_filled_in():
    metric = metric_of_class(torchmetrics.Accuracy, {"num_classes": 7}, TargetForm(3), "a")
    assert metric.build(TargetForm(3)).num_classes == 7


def test_positions_that_do_not_count_are_left_out():
    form = TargetForm(3, at_positions=True)
    outputs, targets = torch.randn(6, 3, 4), torch.randint(0, 3, (6, 4))
    targets[:, 2:] = -100

    metric = metric_of_class(MulticlassF1Score, {}, form, "f1")

    expected = MulticlassF1Score(3)(outputs[..., :2], targets[:, :2]).item()
    assert measured(metric, outputs, targets) == pytest.approx(expected)


@pytest.mark.parametrize(("make", "columns"), [(BinaryF1Score, 1), (MultilabelF1Score, 3)])
def test_labels_are_whole_numbers_to_torchmetrics(make, columns):
    outputs, labels = 3 * torch.randn(12, columns), (torch.rand(12, columns) > 0.5).float()

    metric = metric_of_class(make, {}, TargetForm(columns=columns), "f1")

    expected = make(**({"num_labels": columns} if columns > 1 else {}))(outputs, labels.long()).item()
    assert measured(metric, outputs, labels) == pytest.approx(expected)


def test_numbers_are_summed_in_float64():
    targets = 1e4 + torch.randn(64, 1)
    outputs = targets + 0.1 * torch.randn(64, 1)
    exact = (outputs.double() - targets.double()).square().mean().item()

    for metric in (
        metric_of_class(MeanSquaredError, {}, TargetForm(), "mse"),
        metric_of_object(MeanSquaredError(), TargetForm(), "mse"),
    ):
        assert measured(metric, outputs, targets) == pytest.approx(exact, rel=1e-9)
    pearson = metric_of_class(PearsonCorrCoef, {}, TargetForm(), "p", higher_is_better=True)
    table = torch.stack([outputs.double().flatten(), targets.double().flatten()])
    assert measured(pearson, outputs, targets) == pytest.approx(table.corrcoef()[0, 1].item(), rel=1e-6)


def test_images_stay_images():
    outputs, targets = torch.rand(8, 1, 16, 16), torch.rand(8, 1, 16, 16)
    metric = metric_of_class(StructuralSimilarityIndexMeasure, {"data_range": 1.0}, TargetForm(), "ssim")

    expected = StructuralSimilarityIndexMeasure(data_range=1.0)(outputs, targets).item()
    assert measured(metric, outputs, targets) == pytest.approx(expected, rel=1e-4)


class Several:
    """Counts its batches, and knows no direction."""

    def __init__(self, fault=None):
        self.reset()
        self.fault = fault

    def reset(self):
        self.count = 0

    def update(self, outputs, targets):
        if self.fault is not None:
            raise self.fault
        self.count += 1

    def compute(self):
        return {"batches": self.count, "none": None}


def test_one_of_several_numbers_is_chosen_by_its_key():
    metric = metric_of_class(Several, {}, TargetForm(), "s", higher_is_better=False, key="batches")
    assert measured(metric, torch.zeros(9, 2), torch.zeros(9, 2)) == 3


@pytest.mark.parametrize(
    ("options", "how", "told"),
    [
        ({}, {}, "neither True nor False; say it by the option higher_is_better"),
        ({"unknown": 1}, {}, "raised TypeError: .*unknown.*"),
    ],
)
def test_a_metric_that_cannot_be_made_is_told(options, how, told):
    with pytest.raises(JobError, match=told):
        metric_of_class(Several, options, TargetForm(), "s", **how)


@pytest.mark.parametrize(
    ("make", "options", "key", "told"),
    [
        (Several, {}, None, "returned several numbers; say which .* key: batches, none"),
        (Several, {}, "none", "returned a NoneType; a metric is one number"),
        (
            Several,
            {"fault": KeyError("x")},
            "batches",
            "does not take .* KeyError: 'x'; at .*test_own",
        ),
        (
            MulticlassF1Score,
            {"average": "none", "num_classes": 3},
            None,
            r"a tensor of shape \(3,\); a metric is",
        ),
        (MulticlassF1Score, {"num_classes": 5}, None, "does not take the outputs of the model"),
    ],
)
def test_a_metric_that_takes_no_outputs_or_gives_no_number_is_told(make, options, key, told):
    metric = metric_of_class(make, options, TargetForm(3), "m", higher_is_better=True, key=key)
    with pytest.raises(DataError, match=f"metric 'm' .*{told}"):
        measured(metric, torch.randn(4, 3), torch.tensor([0, 1, 2, 0]))


def test_classes_that_come_last_are_moved_to_where_metrics_look_for_them():
    metric = metric_of_class(MulticlassF1Score, {}, TargetForm(3, at_positions=True), "f1")
    objective = Objective(CrossEntropy(class_dim=-1), "f1", {"f1": metric})

    given, _ = objective.judged_by(metric, torch.zeros(2, 7, 3), torch.zeros(2, 7))

    assert given.shape == (2, 3, 7)


def test_what_is_known_of_the_targets():
    assert facts_of(TargetForm()) == {"task": "binary"}
    assert facts_of(TargetForm(columns=3)) == {"task": "multilabel", "num_labels": 3}
    assert facts_of(TargetForm(5)) == {"task": "multiclass", "num_classes": 5}
