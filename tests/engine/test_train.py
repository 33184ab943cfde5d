"""The loop gives the weights of the plain PyTorch loop, and ends as it should."""

import math

import pytest
import torch
from engine_helpers import (
    LogsLosses,
    StopAt,
    TapeRecorder,
    Unused,
    adamw,
    asking,
    config,
    convnet,
    dropout_mlp,
    hooks_of,
    image_data,
    linear_regressor,
    mlp,
    plain_loop,
    plugin,
    regression_data,
    run,
    same_weights,
    sgd,
)
from torch import nn
from torch.nn import functional

from ringfence.engine.config import EarlyStopping
from ringfence.engine.losses import MSE, CrossEntropy
from ringfence.engine.schedules import Cosine
from ringfence.engine.weights import weights_sha256
from ringfence.hooks.errors import DataError, JobError

OPTIMIZERS = {
    "sgd": (sgd, lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9)),
    "adamw": (adamw, lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1)),
}


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("schedule", [None, Cosine(warmup_steps=2)])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make_model", [mlp, convnet, Unused])
def test_weights_are_those_of_the_plain_loop_bit_for_bit(make_model, optimizer, schedule, accumulate):
    data = image_data()  # 50 samples in batches of 8: the last batch and the last step are smaller
    ours, plain = make_model(), make_model()
    make_plugin, make_optimizer = OPTIMIZERS[optimizer]
    settings = config(grad_accum_steps=accumulate, **({} if schedule is None else {"schedule": schedule}))
    observer = TapeRecorder()
    result = run(ours, data, hooks_of(make_plugin()), settings, observer=observer)

    losses = plain_loop(
        plain,
        data,
        make_optimizer,
        epochs=3,
        batch_size=8,
        accumulate=accumulate,
        factor=(lambda step: 1.0) if schedule is None else lambda step: schedule.factor(step, result.steps),
    )
    assert same_weights(ours, plain)
    assert result.weights_sha256 == weights_sha256(plain)
    assert result.steps == len(losses) == 3 * math.ceil(7 / accumulate)
    recorded = [loss for kind, _, (loss, *_) in observer.tape if kind == "step"]
    assert recorded == pytest.approx(losses, rel=1e-6)


WEIGHTS = [0.25, 3.0, 1.0, 0.5]


def weighted(outputs, targets):
    return functional.cross_entropy(outputs, targets, torch.tensor(WEIGHTS))


def weight(targets):
    return float(torch.tensor(WEIGHTS, dtype=torch.float64)[targets].sum())


@pytest.mark.parametrize("accumulate", [1, 3])
def test_weights_with_classes_that_count_unequally_are_those_of_the_plain_loop(accumulate):
    """The mean is over the weights of all classes of a step, whatever batches they are in."""
    data = image_data()
    ours, plain, wrong = convnet(), convnet(), convnet()
    settings = config(grad_accum_steps=accumulate, loss=CrossEntropy(class_weights=WEIGHTS))
    run(ours, data, hooks_of(sgd()), settings)

    how = {"epochs": 3, "batch_size": 8, "accumulate": accumulate, "criterion": weighted}
    plain_loop(plain, data, OPTIMIZERS["sgd"][1], **how, weight=weight)
    plain_loop(wrong, data, OPTIMIZERS["sgd"][1], **how)
    assert same_weights(ours, plain)
    assert same_weights(ours, wrong) == (accumulate == 1)


def test_regression_weights_are_those_of_the_plain_loop():
    data = regression_data()
    ours, plain = linear_regressor(), linear_regressor()
    result = run(ours, data, hooks_of(sgd()), config(loss=MSE(), metric="r2"))
    plain_loop(plain, data, OPTIMIZERS["sgd"][1], epochs=3, batch_size=8)
    assert same_weights(ours, plain)
    assert result.final_metrics["r2"] > 0


def test_evaluating_more_often_changes_no_weight():
    seldom, often = convnet(), convnet()
    run(seldom, image_data(), hooks_of(sgd()), config())
    run(often, image_data(), hooks_of(sgd()), config(eval_every=1, snapshot_every=2))
    assert same_weights(seldom, often)


def test_seed_decides_the_weights():
    first, second, other = dropout_mlp(), dropout_mlp(), dropout_mlp()
    run(first, image_data(), hooks_of(sgd()), config(seed=1))
    torch.rand(5)
    run(second, image_data(), hooks_of(sgd()), config(seed=1))
    run(other, image_data(), hooks_of(sgd()), config(seed=2))
    assert same_weights(first, second)
    assert not same_weights(first, other)


def test_steps_end_the_run_in_the_middle_of_an_epoch():
    observer = TapeRecorder()
    result = run(mlp(), image_data(), hooks_of(sgd()), config(steps=10), observer=observer)
    assert (result.status, result.steps, result.epochs) == ("completed", 10, 1)
    assert [step for kind, step, _ in observer.tape if kind == "evaluated"] == [7, 10]
    assert result.final_metrics == observer.tape[-1][2][1]


def test_recorder_hears_each_step_with_loss_and_samples():
    observer = TapeRecorder()
    run(mlp(), image_data(), hooks_of(sgd()), config(epochs=1, grad_accum_steps=2), observer=observer)
    steps = [(step, samples) for kind, step, (_, samples, *_) in observer.tape if kind == "step"]
    assert steps == [(0, 16), (1, 16), (2, 16), (3, 2)]
    (sample,) = observer.samples
    assert sample.shape == (8, 1, 8, 8)
    assert 0 <= sample.min() <= sample.max() <= 1


def test_early_stopping_ends_the_run_after_patience():
    # A learning rate of 0 never improves: the first evaluation sets the mark, two more use up the patience.
    settings = config(epochs=20, early_stopping=EarlyStopping(patience=2, min_delta=0.001))
    observer = TapeRecorder()
    still = plugin(type(sgd()._instance), "optim", algorithm="SGD", lr=0.0)
    result = run(mlp(), image_data(), hooks_of(still), settings, observer=observer)
    assert (result.status, result.epochs) == ("stopped_early", 3)
    assert "accuracy has not improved" in observer.events[-1]


class FallsApart(nn.Module):
    """Gives no number that is one in evaluation, from the second evaluation on."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = mlp()
        self.evaluations = 0

    def eval(self):
        self.evaluations += 1
        return super().eval()

    def forward(self, inputs):
        outputs = self.layer(inputs)
        return outputs if self.training or self.evaluations < 2 else outputs * math.nan


def test_an_evaluation_without_numbers_is_never_the_best_and_no_gain():
    settings = config(epochs=20, early_stopping=EarlyStopping(patience=2))
    observer = TapeRecorder()
    result = run(FallsApart(), image_data(), hooks_of(sgd()), settings, observer=observer)
    assert (result.status, result.epochs, result.best_step) == ("stopped_early", 3, 7)
    assert 0 <= result.best_metric <= 1
    assert math.isnan(result.final_metrics["accuracy"])
    told = [event for event in observer.events if "not finite" in event]
    assert [event.partition(" the model")[0] for event in told] == ["at step 14", "at step 21"]
    assert "accuracy is NaN, which is no improvement and never the best" in told[0]


def test_best_metric_is_the_best_evaluation():
    observer = TapeRecorder()
    result = run(mlp(), image_data(), hooks_of(sgd()), config(epochs=6), observer=observer)
    evaluations = [(step, told) for kind, step, told in observer.tape if kind == "evaluated"]
    values = [told[1]["accuracy"] for _, told in evaluations]
    assert result.best_metric == max(values)
    assert result.best_step == evaluations[values.index(max(values))][0]
    assert [told[2] for _, told in evaluations] == [
        value > max(values[:i], default=-1) for i, value in enumerate(values)
    ]


def test_stop_checkpoints_and_ends_as_interrupted(tmp_path):
    observer = StopAt(4)
    result = run(
        mlp(), image_data(), hooks_of(sgd()), config(),
        observer=observer, checkpoints=tmp_path / "checkpoints", stop=asking(observer.stop),
    )  # fmt: skip
    assert (result.status, result.steps) == ("interrupted", 4)
    assert result.checkpoint == tmp_path / "checkpoints" / "step-00000004"
    assert result.final_metrics == {}


def test_optimizer_is_told_the_mean_loss_of_the_step():
    told = []

    class Keep:
        def reported(self, plugin, step, scalars, report):
            told.append(scalars["loss"])

        def event(self, message):
            raise AssertionError(message)

    observer = TapeRecorder()
    hooks = hooks_of(plugin(LogsLosses), observer=Keep())
    run(mlp(), image_data(), hooks, config(epochs=1, grad_accum_steps=3), observer=observer)
    assert told == [loss for kind, _, (loss, *_) in observer.tape if kind == "step"]


def test_batch_too_small_for_batch_norm_is_told_before_training():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.BatchNorm1d(4))
    with pytest.raises(DataError, match="a batch_size that leaves no batch of one sample"):
        run(model, image_data(train=17), hooks_of(sgd()), config())


def test_warmup_longer_than_the_run_is_refused():
    with pytest.raises(JobError, match="warmup_steps is 100, but the run has 21 steps"):
        run(mlp(), image_data(), hooks_of(sgd()), config(schedule=Cosine(warmup_steps=100)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": None}, "exactly one of epochs and steps"),
        ({"epochs": 1, "steps": 1}, "exactly one of epochs and steps"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"keep_checkpoints": 0}, "keep_checkpoints is 0"),
        ({"metric": "speed"}, "no metric 'speed'"),
        ({"device": "abacus"}, "expected auto, cpu, cuda"),
        ({"device": "cuda:99"}, "CUDA devices here"),
    ],
)
def test_configuration_out_of_range_is_a_job_error(changes, message):
    with pytest.raises(JobError, match=message):
        run(mlp(), image_data(), hooks_of(sgd()), config(**changes))
