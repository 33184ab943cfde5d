"""A loss that the model itself returns: where it lies, what it is a mean over, and where there is none."""

import pytest
import torch
from engine_helpers import config, hooks_of, run, same_weights, sgd
from torch import nn
from torch.nn import functional

from ringfence.engine.data import Data, Dataset
from ringfence.engine.losses import CrossEntropy
from ringfence.engine.model_loss import ModelLoss
from ringfence.hooks.errors import DataError


class Tagger(nn.Module):
    """A class for each of six tokens, with the loss beside the logits, as in models of transformers."""

    def __init__(self, form="dict"):
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 4))
        self.form = form

    def forward(self, numbers, labels=None):
        logits = self.layers(numbers)
        if self.form == "plain":
            return logits
        loss = None if labels is None else functional.cross_entropy(logits.view(-1, 4), labels.view(-1))
        return {"dict": {"loss": loss, "logits": logits}, "tuple": (loss, logits), "none": (logits,)}[
            self.form
        ]


def tokens(count, seed):
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(0, 4, (count, 6), generator=generator)
    lengths = torch.randint(1, 7, (count,), generator=generator)
    inputs = {"numbers": torch.randn(count, 6, 3, generator=generator)}
    return Dataset(inputs, targets.where(torch.arange(6) < lengths[:, None], -100), 4)


def trained(form, loss):
    model, data = Tagger(form), Data(tokens(50, 0), tokens(20, 1))
    result = run(model, data, hooks_of(sgd()), config(loss=loss, grad_accum_steps=3, epochs=1))
    return model, result


@pytest.mark.parametrize("form", ["dict", "tuple"])
def test_it_gives_the_weights_and_the_numbers_of_the_same_loss_of_outputs(form):
    ours, result = trained(form, ModelLoss(mean_over="targets"))
    plain, expected = trained("plain", CrossEntropy(class_dim=-1))
    by_samples, _ = trained(form, ModelLoss())

    assert same_weights(ours, plain)
    assert not same_weights(ours, by_samples)
    assert result.final_metrics["loss"] == pytest.approx(expected.final_metrics["loss"], rel=1e-5)


def test_what_a_mean_is_over():
    targets = torch.tensor([[1, 2, -100], [0, -100, -100]])

    assert ModelLoss(mean_over="targets").weight(targets) == 3
    assert ModelLoss(mean_over="shifted").weight(targets) == 1
    assert ModelLoss(mean_over="shifted").weight({"mask": torch.zeros(2), "labels": targets}) == 1
    assert ModelLoss().is_by_sample(targets)
    assert ModelLoss(argument="y").arguments(targets) == {"y": targets}


@pytest.mark.parametrize(
    ("form", "loss", "told"),
    [
        ("none", ModelLoss(), "the model returned .*; loss 'model' takes the mean over a batch"),
        ("dict", ModelLoss(argument="y"), "the model failed .* unexpected keyword argument 'y'"),
    ],
)
def test_a_model_that_returns_no_loss_is_told_before_the_start(form, loss, told):
    with pytest.raises(DataError, match=told):
        trained(form, loss)


def test_a_plugin_that_learns_from_each_sample_is_told_that_it_cannot():
    with pytest.raises(DataError, match="a plugin of the run learns from those"):
        ModelLoss().per_sample({}, torch.zeros(2))
