"""Losses, metrics, and whether model and data fit them."""

import pytest
import torch
from engine_helpers import convnet, image_data, linear_regressor, mlp, regression_data
from torch import nn
from torch.nn import functional

from ringfence.engine import (
    LOSSES,
    METRICS,
    MSE,
    CrossEntropy,
    Data,
    Dataset,
    Huber,
    Normalise,
    Objective,
    SmoothL1,
    apply_changes,
    check_fit,
    evaluate,
)
from ringfence.hooks.errors import DataError, JobError
from ringfence.hooks.types import LossScale, LossTerm

CPU = torch.device("cpu")


def fit(model, data, objective, samples=8):
    check_fit(model, data, objective, samples=samples, device=CPU)


@pytest.mark.parametrize("name", LOSSES)
def test_mean_of_the_samples_is_the_loss(name):
    loss = LOSSES[name]()
    outputs = torch.randn(6, 5)
    targets = torch.randint(0, 5, (6,)) if loss.classes else torch.randn(6, 5)
    assert loss.per_sample(outputs, targets).shape == (6,)
    torch.testing.assert_close(loss.per_sample(outputs, targets).mean(), loss(outputs, targets))


def test_losses_are_those_of_torch():
    outputs, targets = 3 * torch.randn(6, 5), torch.randn(6, 5)
    assert Huber(0.3)(outputs, targets) == functional.huber_loss(outputs, targets, delta=0.3)
    assert SmoothL1(0.3)(outputs, targets) == functional.smooth_l1_loss(outputs, targets, beta=0.3)
    assert LOSSES["l1"]()(outputs, targets) == functional.l1_loss(outputs, targets)
    classes = torch.randint(0, 5, (6,))
    assert CrossEntropy(0.1)(outputs, classes) == functional.cross_entropy(
        outputs, classes, label_smoothing=0.1
    )


def test_soft_targets_weigh_the_classes():
    outputs = torch.randn(6, 5)
    hard = torch.randint(0, 5, (6,))
    soft = functional.one_hot(hard, 5).float()
    torch.testing.assert_close(CrossEntropy()(outputs, soft), CrossEntropy()(outputs, hard))
    torch.testing.assert_close(
        CrossEntropy().per_sample(outputs, soft), CrossEntropy().per_sample(outputs, hard)
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: Huber(delta=0), "delta is 0"),
        (lambda: SmoothL1(beta=-1), "beta is -1"),
    ],
)
def test_loss_option_out_of_range_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_changes_to_the_loss_apply_in_order():
    outputs = torch.randn(3, 2, requires_grad=True)
    term = LossTerm(2.0, torch.full((3, 2), 7.0))
    loss = apply_changes([LossScale(3.0), term, LossScale(0.5)], outputs.sum(), outputs)
    assert loss.item() == pytest.approx(0.5 * (3 * outputs.sum().item() + 2))
    loss.backward()
    assert torch.equal(outputs.grad, torch.full((3, 2), 0.5 * (3 + 7)))


def test_no_change_is_no_operation():
    outputs = torch.randn(3, requires_grad=True)
    loss = outputs.sum()
    assert apply_changes([], loss, outputs) is loss


def measured(name, outputs, targets, num_classes):
    """Evaluate a model that returns ``outputs`` in order, in batches of 3."""

    class Table(nn.Module):
        def forward(self, inputs):
            return outputs[inputs[:, 0].long()]

    inputs = torch.arange(float(len(outputs)))[:, None]
    dataset = Dataset(inputs, targets, num_classes)
    loss = CrossEntropy() if num_classes else MSE()
    objective = Objective(loss, name)
    normalise = Normalise(Data(dataset, dataset), CPU)
    found = evaluate(Table(), dataset, objective, normalise, batch_size=3, device=CPU)
    assert found["loss"] == pytest.approx(loss(outputs, targets).item(), rel=1e-5)
    return found[name]


def test_class_metrics_by_hand():
    outputs, targets = torch.randn(20, 8), torch.randint(0, 8, (20,))
    predicted = outputs.argmax(1)
    assert measured("accuracy", outputs, targets, 8) == pytest.approx(
        (predicted == targets).float().mean().item()
    )
    top5 = (outputs.topk(5).indices == targets[:, None]).any(1).float().mean().item()
    assert measured("top5_accuracy", outputs, targets, 8) == pytest.approx(top5)
    scores = []
    for c in range(8):
        hits = ((predicted == c) & (targets == c)).sum().item()
        total = (predicted == c).sum().item() + (targets == c).sum().item()
        if total:
            scores.append(2 * hits / total)
    assert measured("f1", outputs, targets, 8) == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize("shape", [(20,), (20, 1), (20, 3), (20, 2, 2)])
def test_number_metrics_by_hand(shape):
    targets = torch.randn(shape)
    outputs = targets + 0.3 * torch.randn(shape)
    error = outputs - targets
    assert measured("mse", outputs, targets, None) == pytest.approx(error.square().mean().item(), rel=1e-5)
    assert measured("mae", outputs, targets, None) == pytest.approx(error.abs().mean().item(), rel=1e-5)
    columns, spread = error.reshape(20, -1), (targets - targets.mean(0)).reshape(20, -1)
    r2 = (1 - columns.square().sum(0) / spread.square().sum(0)).mean().item()
    assert measured("r2", outputs, targets, None) == pytest.approx(r2, rel=1e-4)


def test_soft_test_targets_count_as_their_largest_class():
    outputs, targets = torch.randn(10, 4), torch.rand(10, 4).softmax(1)
    expected = (outputs.argmax(1) == targets.argmax(1)).float().mean().item()
    assert measured("accuracy", outputs, targets, 4) == pytest.approx(expected)


def test_direction_of_metrics():
    assert {name for name, metric in METRICS.items() if not metric.higher_is_better} == {"mse", "mae"}
    assert METRICS["mse"].better(0.1, 0.2)
    assert not METRICS["accuracy"].better(0.1, 0.2)
    assert not METRICS["accuracy"].better(0.21, 0.2, 0.05)
    assert METRICS["accuracy"].better(0.0, None)
    assert not METRICS["mse"].better(float("nan"), None)
    assert not METRICS["mse"].better(float("nan"), 0.2)


@pytest.mark.parametrize("dry_or_evaluate", ["dry", "evaluate"])
def test_looking_at_the_model_disturbs_nothing(dry_or_evaluate):
    model, data, objective = convnet(), image_data(), Objective(CrossEntropy(), "accuracy")
    model[3].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    if dry_or_evaluate == "dry":
        fit(model, data, objective)
    else:
        evaluate(model, data.test, objective, Normalise(data, CPU), batch_size=7, device=CPU)
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes


def frozen():
    model = mlp()
    model.requires_grad_(requires_grad=False)
    return model


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = mlp()

    def forward(self, inputs):
        return self.layer(inputs), None


@pytest.mark.parametrize(
    ("make_model", "make_data", "loss", "metric", "message"),
    [
        (
            mlp,
            image_data,
            MSE(),
            "accuracy",
            "loss 'mse' does not fit data of classes; choose one of cross_entropy",
        ),
        (mlp, image_data, CrossEntropy(), "r2", "metric 'r2' does not fit data of classes; .* accuracy, f1"),
        (
            linear_regressor,
            regression_data,
            CrossEntropy(),
            "mse",
            "does not fit data of a regression; .* huber, l1",
        ),
        (mlp, image_data, CrossEntropy(), "top5_accuracy", "needs at least 6 classes; the data have 4"),
        (mlp, lambda: image_data(classes=5), CrossEntropy(), "accuracy", r"shape \(8, 4\) .* needs \(8, 5\)"),
        (lambda: nn.Linear(6, 1), regression_data, MSE(), "mse", r"shape \(8, 1\) .* needs \(8, 2\)"),
        (
            lambda: nn.Linear(7, 2),
            regression_data,
            MSE(),
            "mse",
            r"inputs of shape \(8, 6\): RuntimeError: .*shape",
        ),
        (frozen, image_data, CrossEntropy(), "accuracy", "nothing to train"),
        (Pair, image_data, CrossEntropy(), "accuracy", "the model returned tuple; expected one tensor"),
    ],
)
def test_what_does_not_fit_is_told_before_training(make_model, make_data, loss, metric, message):
    with pytest.raises(DataError, match=message):
        fit(make_model(), make_data(), Objective(loss, metric))


def test_unknown_metric_is_told_with_those_there_are():
    with pytest.raises(JobError, match="no metric 'acc'; choose one of accuracy, f1"):
        Objective(CrossEntropy(), "acc")


class Picky(nn.Module):
    """Raises what it is told to."""

    def __init__(self, error):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.error = error

    def forward(self, inputs):
        raise self.error


@pytest.mark.parametrize(
    "error",
    [
        AssertionError("want 3 channels"),
        AttributeError("no such layer"),
        IndexError("out of range"),
        KeyError("size"),
        TypeError("missing argument"),
        ZeroDivisionError("division by zero"),
    ],
)
def test_whatever_the_users_model_raises_names_model_and_shape(error):
    with pytest.raises(DataError) as caught:
        fit(Picky(error), image_data(), Objective(CrossEntropy(), "accuracy"))
    shape = tuple(image_data().train.inputs[:8].shape)
    assert f"inputs of shape {shape}: {type(error).__name__}: {error}" in str(caught.value)
    assert "Picky does not take this shape" in str(caught.value)
    assert caught.value.__cause__ is error
