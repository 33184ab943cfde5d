"""Parts of a model that take turns: a GAN, against the loop with two optimizers that everybody writes."""

import pytest
import torch
from engine_helpers import (
    FAULTS,
    StopAt,
    TapeRecorder,
    TorchOptim,
    asking,
    config,
    hooks_of,
    image_data,
    plugin,
)
from torch import nn
from torch.nn import functional

from ringfence.engine.alternation import Alternation, Turn
from ringfence.engine.given_loss import given_loss
from ringfence.engine.setup import Setup
from ringfence.engine.train import train
from ringfence.hooks.types import derive_seed

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS, SEED, HOST = 12, 7, torch.device("cpu")


class Gan(nn.Module):
    """Judges what it is given and what it makes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.generator = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 64))
        self.discriminator = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 1))

    def forward(self, inputs):
        made = self.generator(torch.randn(len(inputs), 5))
        return {"real": self.discriminator(inputs.flatten(1)), "made": self.discriminator(made)}


def judge(outputs, targets):
    real, made = outputs["real"], outputs["made"]
    return functional.softplus(-real).mean() + functional.softplus(made).mean()


def fool(outputs, targets):
    return functional.softplus(-outputs["made"]).mean()


def names(model, part):
    return frozenset(name for name, _ in model.named_parameters() if name.startswith(part))


def turns_of(model, steps=2):
    return (
        Turn(names(model, "discriminator"), given_loss(judge, HOST), steps),
        Turn(names(model, "generator"), given_loss(fool, HOST)),
    )


def by_hand(steps=2):
    """Two optimizers, the usual loop."""
    model, data = Gan().train(), image_data()
    parts = {part: list(getattr(model, part).parameters()) for part in ("discriminator", "generator")}
    optimizers = {part: torch.optim.Adam(p, lr=0.01) for part, p in parts.items()}
    torch.manual_seed(derive_seed(SEED, "run"))
    done = 0
    while done < STEPS:
        epoch = done // 7
        generator = torch.Generator().manual_seed(derive_seed(SEED, "order", epoch))
        for indices in torch.randperm(50, generator=generator).split(8):
            if done == STEPS:
                break
            part, loss = ("generator", fool) if done % (steps + 1) == steps else ("discriminator", judge)
            inputs = (data.train.inputs[indices].float() / 255 - data.mean[0]) / data.std[0]
            for each in parts:
                optimizers[each].zero_grad()
            loss(model(inputs), None).backward()
            optimizers[part].step()
            done += 1
    return model


def trained(steps=2, settings=None, **more):
    """The same in one run, with one optimizer."""
    model = Gan()
    turns = turns_of(model, steps)
    base = {"steps": STEPS, "loss": given_loss(fool, HOST), "metric": "loss", "eval_every": 100}
    setup = Setup.of(model, image_data(), config(**base, turns=turns, **(settings or {})))
    hooks = hooks_of(plugin(TorchOptim, "optim", algorithm="Adam", lr=0.01))
    try:
        return model, train(setup, hooks, **more)
    finally:
        hooks.close()


def same(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("steps", [1, 2])
def test_weights_are_those_of_two_optimizers_by_turns_bit_for_bit(steps):
    model, _ = trained(steps)
    assert same(model, by_hand(steps))
    assert not same(model, by_hand(3 - steps))
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_run_that_is_stopped_or_rolled_back_takes_the_same_turns(tmp_path):
    _, expected = trained()
    FAULTS.append(("optim", "backward", 8))
    _, again = trained(settings={"snapshot_every": 4})
    assert again.weights_sha256 == expected.weights_sha256
    stop = StopAt(5)
    _, first = trained(observer=stop, stop=asking(stop.stop), checkpoints=tmp_path)
    assert first.steps == 5
    _, resumed = trained(observer=TapeRecorder(), checkpoints=tmp_path, resume=True)
    assert resumed.weights_sha256 == expected.weights_sha256


def test_turns_follow_from_the_step():
    model = Gan()
    turns = turns_of(model)
    alternation = Alternation(turns, model)
    for step, turn in ((0, 0), (1, 0), (2, 1), (3, 0), (5, 1), (4, 0)):
        assert alternation.begin(step) is turns[turn].loss
        found = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert found == turns[turn].parameters
