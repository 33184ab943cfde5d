"""Losses, metrics, and whether model and data fit them."""

import math

import pytest
import torch
from engine_helpers import config, convnet, image_data, linear_regressor, mlp, regression_data
from torch import nn
from torch.nn import functional

from ringfence.engine.data import Data, Dataset, Normalise
from ringfence.engine.evaluate import evaluate
from ringfence.engine.losses import BCE, LOSSES, MSE, CrossEntropy, Focal, Huber, SmoothL1, apply_changes
from ringfence.engine.metrics import METRICS
from ringfence.engine.objective import Objective
from ringfence.engine.setup import Setup
from ringfence.engine.trial import try_out
from ringfence.hooks.errors import DataError, JobError
from ringfence.hooks.types import LossScale, LossTerm

CPU = torch.device("cpu")


def fit(model, data, objective):
    return try_out(Setup.of(model, data, config(loss=objective.loss, metric=objective.metric_name)))


@pytest.mark.parametrize("name", [name for name, cls in LOSSES.items() if cls.classes is not None])
def test_mean_of_the_samples_is_the_loss(name):
    loss = LOSSES[name]()
    outputs = torch.randn(6, 5)
    targets = torch.randint(0, 5, (6,)) if loss.classes else torch.rand(6, 5)
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

    weights = [0.5, 2.0, 1.0, 1.0, 3.0]
    assert CrossEntropy(class_weights=weights)(outputs, classes) == functional.cross_entropy(
        outputs, classes, torch.tensor(weights)
    )
    labels = (targets > 0).float()
    assert BCE(weights)(outputs, labels) == functional.binary_cross_entropy_with_logits(
        outputs, labels, pos_weight=torch.tensor(weights)
    )


@pytest.mark.parametrize("make", [CrossEntropy, Focal])
def test_soft_targets_weigh_the_classes(make):
    outputs = torch.randn(6, 5)
    hard = torch.randint(0, 5, (6,))
    soft = functional.one_hot(hard, 5).float()
    torch.testing.assert_close(make()(outputs, soft), make()(outputs, hard))
    torch.testing.assert_close(make().per_sample(outputs, soft), make().per_sample(outputs, hard))


def test_focal_loss_by_hand():
    outputs, targets = 3 * torch.randn(6, 5, dtype=torch.float64), torch.randint(0, 5, (6,))
    right = outputs.softmax(1)[torch.arange(6), targets]

    torch.testing.assert_close(Focal(0).per_sample(outputs, targets), -right.log())
    torch.testing.assert_close(Focal(1.5).per_sample(outputs, targets), -((1 - right) ** 1.5) * right.log())


@pytest.mark.parametrize("logit", [-1e4, -100.0, -1.0, 0.0, 1.0, 20.0, 100.0, 1e4])
def test_focal_loss_and_its_gradient_are_finite_however_sure_the_model_is(logit):
    outputs = torch.tensor([[logit, 0.0]], requires_grad=True)
    loss = Focal()(outputs, torch.tensor([0]))
    loss.backward()

    assert loss.isfinite()
    assert outputs.grad.isfinite().all()
    exact = torch.tensor([[logit, 0.0]], dtype=torch.float64)
    # The plain form is exact enough in float64 up to there.
    if abs(logit) <= 20:
        right = exact.softmax(1)[0, 0]
        assert loss.item() == pytest.approx(float(-((1 - right) ** 2) * right.log()), rel=1e-4)


@pytest.mark.parametrize("batch_size", [1, 7, 300])
def test_a_loss_with_class_weights_is_evaluated_as_one_mean_whatever_the_batches(batch_size):
    outputs, targets = torch.randn(20, 4), torch.randint(0, 4, (20,))
    loss = CrossEntropy(class_weights=[0.1, 5.0, 1.0, 2.0])

    found = evaluated("accuracy", outputs, targets, 4, loss, batch_size)["loss"]

    assert found == pytest.approx(loss(outputs.double(), targets).item(), rel=1e-6)


@pytest.mark.parametrize("shape", [(20,), (20, 3)])
def test_labels_are_judged_by_the_sign_of_their_logits(shape):
    """torchmetrics would take logits that all lie between 0 and 1 for probabilities."""
    outputs, targets = torch.rand(shape) - 0.3, (torch.rand(shape) > 0.5).float()
    said, is_there = outputs > 0, targets > 0.5
    hits = (said & is_there).sum().item()

    found = {
        name: evaluated(name, outputs, targets, None, BCE())[name]
        for name in ("binary_accuracy", "binary_f1")
    }

    assert found["binary_accuracy"] == pytest.approx((said == is_there).float().mean().item())
    assert found["binary_f1"] == pytest.approx(2 * hits / (said.sum() + is_there.sum()).item())


@pytest.mark.parametrize(
    ("loss", "targets", "num_classes", "told"),
    [
        (CrossEntropy(class_weights=[1.0, 2.0]), [0, 2], 3, "class_weights for 2 classes, and the data"),
        (BCE(), [[0.0, 1.0], [0.5, 1.5]], None, "targets from 0 to 1, and sample 1, counted from 0, has 1.5"),
        (BCE([1.0, 1.0, 1.0]), [[0.0, 1.0]], None, "'bce' has pos_weight for 3 labels, and the data have 2"),
    ],
)  # fmt: skip
def test_targets_that_a_loss_cannot_take_are_told(loss, targets, num_classes, told):
    dataset = Dataset(torch.zeros(len(targets), 2), torch.tensor(targets), num_classes)

    with pytest.raises(DataError, match=told):
        Objective(loss, "accuracy" if num_classes else "binary_f1").check_data(dataset)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossEntropy(label_smoothing=1.0), "label_smoothing is 1.0"),
        (lambda: CrossEntropy(class_weights=[1.0, 0.0]), r"class_weights is \[1.0, 0.0\]"),
        (lambda: CrossEntropy(class_weights=[]), r"class_weights is \[\]"),
        (lambda: BCE(pos_weight=[math.inf]), r"pos_weight is \[inf\]"),
        (lambda: Focal(gamma=-1.0), "gamma is -1"),
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
    assert loss.item() == pytest.approx(0.5 * (3 * outputs.sum().item() + 2), abs=1e-6)
    loss.backward()
    assert torch.equal(outputs.grad, torch.full((3, 2), 0.5 * (3 + 7)))


def test_no_change_is_no_operation():
    outputs = torch.randn(3, requires_grad=True)
    loss = outputs.sum()
    assert apply_changes([], loss, outputs) is loss


def evaluated(name, outputs, targets, num_classes, loss=None, batch_size=3):
    """Evaluate a model that returns ``outputs`` in order."""

    class Table(nn.Module):
        def forward(self, inputs):
            return outputs[inputs[:, 0].long()]

    inputs = torch.arange(float(len(outputs)))[:, None]
    dataset = Dataset(inputs, targets, num_classes)
    objective = Objective(loss or (CrossEntropy() if num_classes else MSE()), name)
    normalise = Normalise(Data(dataset, dataset), CPU)
    return evaluate(Table(), dataset, objective, normalise, batch_size=batch_size, device=CPU)


def measured(name, outputs, targets, num_classes):
    found = evaluated(name, outputs, targets, num_classes)
    loss = CrossEntropy() if num_classes else MSE()
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


BATCH_SIZES = (1, 7, 300)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (1e3, 1), (1e4, 1), (3e5, 1), (0, 1e-6), (-3e5, 100)])
def test_figures_of_numbers_are_those_of_float64_wherever_the_targets_lie(offset, scale, columns, batch_size):
    generator = torch.Generator().manual_seed(0)
    targets = offset + scale * torch.randn(300, columns, generator=generator)
    outputs = targets + 0.3 * scale * torch.randn(300, columns, generator=generator)
    exact, spread = targets.double(), targets.double() - targets.double().mean(0)
    error = outputs.double() - exact
    r2 = (1 - error.square().sum(0) / spread.square().sum(0)).mean().item()
    expected = {"mse": error.square().mean().item(), "mae": error.abs().mean().item(), "r2": r2}
    for name, value in expected.items():
        for loss in (MSE(), LOSSES["l1"](), Huber(0.2 * scale), SmoothL1(0.2 * scale)):
            found = evaluated(name, outputs, targets, None, loss, batch_size)
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-6 if name == "r2" else 0)
            assert found["loss"] == pytest.approx(loss(outputs.double(), exact).item(), rel=1e-6)


@pytest.mark.parametrize("batch_size", BATCH_SIZES)
@pytest.mark.parametrize("certainty", [1, 14])
def test_figures_of_classes_are_those_of_float64_however_small_the_loss(certainty, batch_size):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 8, (300,), generator=generator)
    outputs = torch.randn(300, 8, generator=generator) + certainty * functional.one_hot(targets, 8)
    hits = outputs.argmax(1) == targets
    top5 = (outputs.topk(5).indices == targets[:, None]).any(1)
    for name, right in (("accuracy", hits), ("top5_accuracy", top5)):
        found = evaluated(name, outputs, targets, 8, batch_size=batch_size)
        assert found[name] == pytest.approx(right.double().mean().item(), rel=1e-6)
        exact = functional.cross_entropy(outputs.double(), targets).item()
        assert found["loss"] == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("target", [0.0, 0.1, 3e5])
def test_r2_of_targets_without_spread_is_one_if_all_is_right(target):
    targets = torch.full((20, 1), target)
    assert evaluated("r2", targets, targets, None)["r2"] == 1
    assert evaluated("r2", targets + 1, targets, None)["r2"] == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(("name", "classes"), [("accuracy", 4), ("f1", 4), ("mse", None), ("r2", None)])
def test_metric_of_outputs_that_are_not_finite_is_nan(name, classes, bad):
    outputs = torch.randn(10, 4)
    targets = torch.randint(0, 4, (10,)) if classes else torch.randn(10, 4)
    assert math.isfinite(evaluated(name, outputs, targets, classes)[name])
    outputs[4] = bad
    assert math.isnan(evaluated(name, outputs, targets, classes)[name])


def test_a_class_may_be_ruled_out():
    outputs, targets = torch.randn(10, 4), torch.randint(0, 3, (10,))
    outputs[:, 3] = -math.inf
    found = evaluated("accuracy", outputs, targets, 4)
    assert math.isfinite(found["loss"])
    assert found["accuracy"] == pytest.approx((outputs.argmax(1) == targets).double().mean().item())


def test_soft_test_targets_count_as_their_largest_class():
    outputs, targets = torch.randn(10, 4), torch.rand(10, 4).softmax(1)
    expected = (outputs.argmax(1) == targets.argmax(1)).float().mean().item()
    assert measured("accuracy", outputs, targets, 4) == pytest.approx(expected)


def test_direction_of_metrics():
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"loss", "mae", "mse", "perplexity"}
    assert METRICS["mse"].better(0.1, 0.2)
    assert not METRICS["accuracy"].better(0.1, 0.2)
    assert not METRICS["accuracy"].better(0.21, 0.2, 0.05)
    assert METRICS["accuracy"].better(0.0, None)
    assert not METRICS["mse"].better(float("nan"), None)
    assert not METRICS["mse"].better(float("nan"), 0.2)


@pytest.mark.parametrize("dry_or_evaluate", ["dry", "evaluate"])
def test_looking_at_the_model_disturbs_nothing(dry_or_evaluate):
    model, data, objective = convnet(), image_data(), Objective(CrossEntropy(), "accuracy")
    setup = Setup.of(model, data, config())
    model[3].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    if dry_or_evaluate == "dry":
        try_out(setup)
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
        return {"one": self.layer(inputs), "other": self.layer(inputs)}


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
        (
            mlp,
            image_data,
            CrossEntropy(),
            "r2",
            "metric 'r2' does not fit data of classes; .* accuracy, auroc, dice",
        ),
        (
            linear_regressor,
            regression_data,
            CrossEntropy(),
            "mse",
            "does not fit data of a regression; .* huber, info_nce, l1",
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
        (
            Pair,
            image_data,
            CrossEntropy(),
            "accuracy",
            "returned a dict of one float32 .*, other .* takes one tensor",
        ),
    ],
)
def test_what_does_not_fit_is_told_before_training(make_model, make_data, loss, metric, message):
    with pytest.raises(DataError, match=message):
        fit(make_model(), make_data(), Objective(loss, metric))


def test_unknown_metric_is_told_with_those_there_are():
    with pytest.raises(JobError, match="no metric 'acc'; choose one of accuracy, auroc"):
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
def test_whatever_the_users_model_raises_names_line_and_shape(error):
    with pytest.raises(DataError) as caught:
        fit(Picky(error), image_data(), Objective(CrossEntropy(), "accuracy"))
    shape = tuple(image_data().train.inputs[:8].shape)
    assert f"inputs of shape {shape}: {type(error).__name__}: {error}" in str(caught.value)
    line = Picky.forward.__code__.co_firstlineno + 1
    assert str(caught.value).endswith(f"; at {__file__}:{line}, in Picky.forward: raise self.error")
    assert "shape:" not in str(caught.value), "advice about shapes, for a bug that is none of shapes"
    assert caught.value.__cause__ is error
