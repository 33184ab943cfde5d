"""Losses of the user's: functions and objects, what they count, and what they cannot be."""

import math

import pytest
import torch
from engine_helpers import config, convnet, hooks_of, image_data, plain_loop, run, same_weights, sgd
from torch import nn
from torch.nn import functional

from ringfence.engine.data import Data, Dataset, epoch_order
from ringfence.engine.given_loss import given_loss
from ringfence.engine.loss import Term
from ringfence.engine.loss_sum import LossSum
from ringfence.engine.measurement import exact_loss
from ringfence.hooks.errors import DataError, JobError

CPU = torch.device("cpu")
WEIGHTS = [0.25, 3.0, 1.0, 0.5]


class Weighed:
    """A mean over weights of classes, which says what it was divided by."""

    def __call__(self, outputs, targets):
        return functional.cross_entropy(outputs, targets, torch.tensor(WEIGHTS))

    def weight(self, targets):
        return torch.tensor(WEIGHTS, dtype=torch.float64)[targets].sum()


def silent(outputs, targets):
    return Weighed()(outputs, targets)


@pytest.mark.parametrize("make", [Weighed, lambda: nn.CrossEntropyLoss(torch.tensor(WEIGHTS))])
def test_means_of_a_loss_that_says_what_it_divides_by_are_averaged_by_that(make):
    data = image_data()
    ours, plain, by_samples = convnet(), convnet(), convnet()
    how = {"grad_accum_steps": 3, "epochs": 1}

    exact = run(ours, data, hooks_of(sgd()), config(**how, loss=given_loss(make(), CPU)))
    run(by_samples, data, hooks_of(sgd()), config(**how, loss=given_loss(silent, CPU)))

    plain_loop(
        plain,
        data,
        lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
        epochs=1,
        batch_size=8,
        accumulate=3,
        criterion=silent,
        weight=lambda targets: float(Weighed().weight(targets)),
    )
    assert same_weights(ours, plain)
    assert not same_weights(by_samples, plain)
    assert exact.final_metrics.keys() == {"loss", "accuracy"}


@pytest.mark.parametrize("bad", [-1, math.nan, math.inf, None, "many", torch.ones(2)])
def test_a_weight_that_is_no_number_is_refused(bad):
    loss = Weighed()
    loss.weight = lambda targets: bad

    with pytest.raises(DataError, match=r"weight\(targets\) of the loss returned .* at least 0"):
        given_loss(loss, CPU).weight(torch.tensor([0]))


def test_a_loss_with_parameters_that_nobody_would_train_is_refused():
    loss = nn.Sequential(nn.Linear(2, 1))

    with pytest.raises(JobError, match=r"parameters that nothing would train: 0.weight, 0.bias; make them"):
        given_loss(loss, CPU)
    assert given_loss(loss.requires_grad_(requires_grad=False), CPU)


def test_it_is_handed_what_the_model_returned():
    seen = []

    def loss(outputs, targets):
        seen.append((outputs, targets))
        return outputs["a"].sum()

    outputs, targets = {"a": torch.ones(2), "b": [torch.ones(3)]}, {"t": torch.zeros(1)}
    given_loss(loss, CPU)(outputs, targets)

    ((given, told),) = seen
    assert torch.equal(given["a"], outputs["a"])
    assert given["b"][0] is outputs["b"][0]
    assert told["t"] is targets["t"]


def of_tokens(outputs, targets):
    counted = targets >= 0
    losses = functional.cross_entropy(outputs, targets.where(counted, 0), reduction="none")
    return (losses * counted).sum() / counted.sum()


class OfTokens:
    """A mean over what counts, whose gradient is no number where nothing does."""

    def __call__(self, outputs, targets):
        return of_tokens(outputs, targets)

    def weight(self, targets):
        return (targets >= 0).sum()


@pytest.mark.parametrize("several", [False, True])
def test_a_batch_of_which_nothing_counts_leaves_the_gradients_of_the_others(several):
    """Of the first batch nothing counts: a mean over nothing is NaN, and so is its gradient."""
    inputs, targets = torch.randn(16, 3), torch.randint(0, 4, (16, 1))
    order = epoch_order(16, 7, 0)
    targets[order[:8]] = -100
    data = Data(Dataset(inputs, targets, 4), Dataset(inputs, targets, 4))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Unflatten(1, (4, 1)))
    loss = given_loss(OfTokens(), CPU)
    loss = LossSum((Term("", loss),)) if several else loss

    result = run(model, data, hooks_of(sgd()), config(loss=loss, grad_accum_steps=2, epochs=1))

    assert result.steps == 1
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert math.isfinite(result.final_metrics["loss"])
    bare = torch.zeros(8, 4, 1, requires_grad=True)
    (of_tokens(bare, targets[order[:8]]) * 0).backward()
    assert bare.grad.isnan().any(), "the control: such a batch has no gradient that is a number"


@pytest.mark.parametrize("made", [dict, list, tuple])
def test_what_is_exact_for_others_is_single_for_a_loss_with_weights_of_its_own(made):
    weights = torch.ones(2)
    seen = []

    def function(outputs, targets):
        values = outputs.values() if made is dict else outputs
        seen.extend((type(outputs), *(value.dtype for value in values)))
        return sum((value @ weights).mean() for value in values) - targets.mean()

    parts = [torch.rand(3, 2), torch.rand(3, 2)]
    outputs = made(zip("ab", parts, strict=True)) if made is dict else made(parts)
    loss = given_loss(function, CPU)
    assert exact_loss(loss, outputs, torch.rand(3)).shape == ()
    assert seen == [made, torch.float32, torch.float32]
