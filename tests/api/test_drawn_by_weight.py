"""Runs whose samples are drawn by weight."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset, WeightedRandomSampler

import ringfence
from ringfence.engine.data import Data, Dataset
from ringfence.hooks.types import derive_seed

SEED, BATCH, STEPS, RATE = 5, 8, 12, 0.1
INPUTS = torch.randn(44, 6, generator=torch.Generator().manual_seed(0))
CLASSES = torch.tensor([0] * 30 + [1] * 10 + [2] * 4)
JOB = {
    "batch_size": BATCH,
    "steps": STEPS,
    "seed": SEED,
    "threads": 1,
    "checkpoint_every": 4,
    "validation_fraction": 0,
    "progress": False,
    "plugins": [{"optim": {"algorithm": "sgd", "lr": RATE}, "isolation": "trusted"}],
}


def network():
    torch.manual_seed(1)
    return nn.Linear(6, 3)


def parts():
    return Data(Dataset(INPUTS, CLASSES, 3, ("a", "b", "c")), Dataset(INPUTS, CLASSES, 3, ("a", "b", "c")))


def rare(targets):
    return 1.0 + 5 * (targets == 2)


def train(folder, weights, **keys):
    return ringfence.train(out=folder, model=network, data=parts, sample_weights=weights, **{**JOB, **keys})


def weights_of(run):
    return json.loads((run.folder / "run.json").read_text())["weights_sha256"]


def in_plain_torch(weights=None, of_class=None):
    """Return the weights of a plain loop that draws by ``weights``, or has a loss that weighs the classes."""
    model, data = network(), TensorDataset(INPUTS, CLASSES)
    optimizer, done = torch.optim.SGD(model.parameters(), RATE), 0
    for epoch in range(STEPS):
        generator = torch.Generator().manual_seed(derive_seed(SEED, "order", epoch))
        sampler = None if weights is None else WeightedRandomSampler(weights, len(data), generator=generator)
        for inputs, targets in DataLoader(data, BATCH, sampler=sampler):
            if done == STEPS:
                return model.state_dict()
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs), targets, of_class).backward()
            optimizer.step()
            done += 1
    return None


def test_a_plain_loop_with_torchs_own_sampler_ends_with_the_same_weights(tmp_path):
    run = train(tmp_path / "run", "balanced")
    found = load_file(run.folder / "model.safetensors")
    shares = CLASSES.bincount().double().reciprocal()
    expected = in_plain_torch(shares[CLASSES])
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    # Drawn by weight, and not weighed: a loss that weighs the classes as well learns something else.
    wrong = in_plain_torch(shares[CLASSES], shares.float())
    assert not torch.equal(found["weight"], wrong["weight"])


@pytest.mark.parametrize("weights", ["balanced", {"c": 7}, rare, lambda targets: 1 + targets, rare(CLASSES)])
def test_resumed_in_the_middle_of_an_epoch_it_ends_with_the_same_weights(tmp_path, weights):
    whole = train(tmp_path / "whole", weights)
    train(tmp_path / "run", weights, steps=4)
    assert weights_of(train(tmp_path / "run", weights, resume=True)) == weights_of(whole)
    assert weights_of(train(tmp_path / "each", None)) != weights_of(whole)


def test_a_resumed_run_draws_as_it_began(tmp_path):
    train(tmp_path / "run", "balanced", steps=4)
    with pytest.raises(
        ringfence.CheckpointError, match=r"sample_weights: balanced in .*which samples are tr"
    ):
        train(tmp_path / "run", {"c": 7}, resume=True, accept=["sample_weights"])
    with pytest.raises(
        ringfence.CheckpointError, match="sample_weights: balanced in the checkpoint, not set"
    ):
        train(tmp_path / "run", None, resume=True)
    train(tmp_path / "given", rare(CLASSES), steps=4)
    with pytest.raises(
        ringfence.CheckpointError, match=r"data_contents.sample_weights: the data have changed"
    ):
        train(tmp_path / "given", rare(CLASSES) + 1, resume=True)
    with pytest.raises(
        ringfence.JobError, match=r"sample_weights: '<Tensor>' was an object .*sample_weights=…"
    ):
        ringfence.train(out=tmp_path / "given", model=network, data=parts, resume=True, progress=False)


def test_the_start_tells_by_what_is_drawn(tmp_path, capfd):
    run = train(tmp_path / "run", {"c": 7}, progress=True)
    assert "drawn by weight: c 7, the others 1; about 23 different ones an epoch" in capfd.readouterr().out
    facts = json.loads((run.folder / "run.json").read_text())["start"]["data"]
    assert (facts["drawn_by_weight"], facts["distinct"]) == ("c 7, the others 1", 23)
    assert (
        "drawn_by_weight"
        not in json.loads((train(tmp_path / "each", None).folder / "run.json").read_text())["start"]["data"]
    )


def test_nothing_else_is_drawn(tmp_path):
    run = train(tmp_path / "run", {"a": 0, "c": 0})
    found = load_file(run.folder / "model.safetensors")
    losses = functional.cross_entropy(INPUTS @ found["weight"].T + found["bias"], CLASSES, reduction="none")
    judged = run.metrics["test"]["loss"].values[-1]
    assert judged == pytest.approx(float(losses.mean()), rel=1e-5)
    assert judged != pytest.approx(float(losses[CLASSES == 1].mean()), rel=0.1)


def test_a_run_that_is_cut_down_takes_each_of_its_samples(tmp_path):
    for name, how in (("overfit", {"overfit": 12}), ("fast", {"fast_dev_run": True})):
        run = train(tmp_path / name, {"a": 0, "b": 0}, **how)
        told = (run.folder / "events.jsonl").read_text()
        assert "sample_weights" in told
        assert "drawn by weight" not in told
        # And what is wrong with them is told all the same.
        with pytest.raises(
            ringfence.DataError, match=r"sample_weights: names the class 'd', which is unknown"
        ):
            train(tmp_path / "none", {"d": 2}, **how)


@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (
            "balance",
            "sample_weights: 'balance' is unknown; expected balanced, a mapping of class to weight, or",
        ),
        ({"a": -1}, r"sample_weights.a: .*-1"),
        ({"a": "much"}, r"sample_weights.a: expected a number"),
        ({}, "sample_weights: "),
        (3, "sample_weights: expected text"),
    ],
)
def test_what_no_job_can_say_is_told_before_anything_is_read(weights, told):
    with pytest.raises(ringfence.JobError, match=told) as error:
        ringfence.train(model="mlp", data="arrays", sample_weights=weights, **{**JOB, "resume": False})
    assert str(error.value).count("sample_weights") == 1
