"""Objects of a program in the place of what a job names."""

import json

import numpy as np
import pytest
import torch
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MulticlassAUROC

import ringfence
from ringfence.api.objects_in_job import take_objects
from ringfence.engine.data import Data, Dataset
from ringfence.engine.given_loss import given_loss
from ringfence.run import given_objects

from .conftest import TRUSTED
from .models_beside import net, samples

KEYS = {"steps": 6, "batch_size": 16, "threads": 1, "seed": 3, "plugins": TRUSTED["plugins"]}


def train(**keys):
    return ringfence.train(progress=False, **{**KEYS, **keys})


def pairs():
    inputs, targets = samples(80)
    return (inputs[:64], targets[:64]), (inputs[64:], targets[64:])


def a_net():
    torch.manual_seed(5)
    return net(2)


class Samples(torch.utils.data.Dataset):
    def __init__(self, part):
        self.inputs, self.targets = part

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, place):
        return self.inputs[place], int(self.targets[place])


def read(run):
    return json.loads((run.folder / "run.json").read_text())


def test_the_module_that_is_given_is_the_one_that_is_trained(tmp_path):
    model, before = a_net(), a_net().state_dict()
    model[1].eval()
    run = train(model=model, data=pairs(), out=tmp_path / "run")

    weights = ringfence.load(run.folder, "last", model=a_net()).network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert not torch.equal(model.state_dict()["1.weight"], before["1.weight"])
    assert (model.training, model[1].training) == (True, False)
    assert all(p.grad is None and p.untyped_storage().nbytes() == p.nbytes for p in model.parameters())


def test_the_run_says_what_it_cannot_do_and_cannot_be_resumed_without_the_object(tmp_path, capsys):
    whole = train(model=a_net(), data=pairs(), out=tmp_path / "whole", steps=9)
    ringfence.train(model=a_net(), data=pairs(), out=tmp_path / "run", **KEYS)

    (told,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("given as objects")]
    assert told.startswith(
        "given as objects, which no file can name: model <Sequential>, data <tuple>. To resume the run they "
        "are given again, ringfence.train(out=…, resume=True, model=…, data=…), and load(…, model=…)"
    )
    run = ringfence.open_run(tmp_path / "run")
    assert read(run)["objects"] == {"model": "<Sequential>", "data": "<tuple>"}
    with pytest.raises(
        ringfence.JobError, match=r"its model was an object of a Python program \(<Sequential>\)"
    ):
        ringfence.load(run.folder)
    with pytest.raises(ringfence.JobError, match="'<Sequential>' was an object of the Python program"):
        train(out=run.folder, resume=True, data=pairs(), steps=9)
    resumed = train(out=run.folder, resume=True, model=a_net(), data=pairs(), steps=9)
    assert resumed.weights_sha256 == whole.weights_sha256


@pytest.mark.parametrize(
    "make",
    [
        lambda train, test: (tuple(map(np.asarray, train)), tuple(map(np.asarray, test))),
        lambda train, test: [list(train), list(test)],
        lambda train, test: (Samples(train), Samples(test)),
        lambda train, test: Data(Dataset(*train, 2), Dataset(*test, 2)),
        lambda train, test: lambda: (train, test),
    ],
    ids=["numpy", "lists", "datasets", "Data", "function"],
)
def test_data_may_have_any_form_and_are_the_same(tmp_path, make):
    expected = train(model=a_net(), data=pairs(), out=tmp_path / "plain")

    found = train(model=a_net(), data=make(*pairs()), out=tmp_path / "other")

    assert found.weights_sha256 == expected.weights_sha256


@pytest.mark.parametrize("make", [lambda part: part, Samples], ids=["arrays", "dataset"])
def test_of_data_without_a_test_part_one_is_drawn(tmp_path, make):
    run = train(model=a_net(), data=make(pairs()[0]), out=tmp_path / "run", steps=1)

    (info,) = [
        line
        for line in map(json.loads, (run.folder / "metrics.jsonl").read_text().splitlines())
        if line["kind"] == "run"
    ]
    # Of 64 samples a fifth, of each class its share; what is held out of the others is for validation.
    assert (info["train_samples"] + info["validation_samples"], info["test_samples"]) == (51, 13)


def test_pictures_as_a_data_set_of_torchvision_has_them(tmp_path):
    class Pictures(Samples):
        def __getitem__(self, place):
            return np.full((6, 5, 3), place, np.uint8), place % 2

    run = train(
        model={"name": "mlp", "hidden": [4]},
        data=(Pictures(samples(20)), Pictures(samples(8))),
        out=tmp_path / "run",
        steps=1,
    )

    assert read(run)["start"]["data"]["shape"] == [3, 6, 5]


def test_a_function_that_can_be_imported_is_named_and_no_object(tmp_path):
    assert take_objects({"model": net, "data": {"name": samples, "count": 5}, "loss": "mse"}) == (
        {
            "model": f"{net.__module__}:net",
            "data": {"name": f"{net.__module__}:samples", "count": 5},
            "loss": "mse",
        },
        {},
    )
    assert take_objects({"model": lambda: None})[0] == {"model": "<lambda>"}
    assert take_objects({"loss": nn.functional.cross_entropy})[0] == {
        "loss": "torch.nn.functional:cross_entropy"
    }


def test_a_factory_is_given_what_it_asks_for_and_its_options(tmp_path):
    def own(num_classes, input_shape, width):
        assert (num_classes, input_shape) == (2, (16,))
        return net(num_classes, width)

    run = train(model={"name": own, "width": 5}, data=pairs(), out=tmp_path / "run")

    assert read(run)["objects"] == {"model": "<own>", "data": "<tuple>"}
    assert ringfence.load(run.folder, model=net(2, 5)).network[1].out_features == 5


def test_a_loss_and_a_metric_of_the_users_own(tmp_path):
    named = train(model=a_net(), data=pairs(), out=tmp_path / "named")
    given = train(
        model=a_net(),
        data=pairs(),
        loss=nn.CrossEntropyLoss(weight=torch.ones(2)),
        metric=MulticlassAccuracy(2, average="micro"),
        out=tmp_path / "given",
    )
    other = train(
        model=a_net(),
        data=pairs(),
        loss=lambda o, t: o.square().mean(),
        metric=MulticlassAUROC(2),
        out=tmp_path / "o",
    )

    assert given.weights_sha256 == named.weights_sha256 != other.weights_sha256
    assert given.record["final_metrics"]["MulticlassAccuracy"] == named.record["final_metrics"]["accuracy"]
    assert set(other.record["final_metrics"]) == {"loss", "MulticlassAUROC"}


def test_the_loss_of_each_sample_is_asked_for_one_by_one():
    outputs, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    loss = given_loss(nn.functional.cross_entropy, torch.device("cpu"))

    expected = nn.functional.cross_entropy(outputs, targets, reduction="none")
    assert torch.allclose(loss.per_sample(outputs, targets), expected)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"model": nn.ReLU()}, "the model has no parameter that requires a gradient"),
        ({"model": {"name": nn.Linear(16, 2), "width": 3}}, "option 'width' is unknown"),
        ({"model": 3}, "train(): model: expected a mapping (key: value), got 3"),
        ({"data": (1, 2)}, "train(): data: '<tuple>': returned tuple of 2 (int, int); expected Data"),
        ({"data": (torch.zeros(3, 16), torch.zeros(2))}, "inputs of shape (3, 16) and targets of shape (2,)"),
        ({"data": Samples((torch.zeros(0, 16), torch.zeros(0)))}, "the data are empty"),
        ({"data": Samples(([torch.zeros(3), torch.zeros(4)], [0, 1]))}, "sample 1 has float32 of shape (4,)"),
        ({"data": Samples(([torch.zeros(3)] * 3, [0]))}, "sample 1 raised IndexError"),
        ({"loss": lambda o, t: 3.0}, "the loss returned float; expected the mean over the batch"),
        ({"loss": lambda o, t: o}, "the loss returned a tensor of shape (16, 2); expected the mean"),
        ({"metric": nn.ReLU()}, "expected a metric of torchmetrics: it has no update()"),
    ],
)
def test_what_cannot_be_used_is_told_before_the_start(tmp_path, keys, told):
    with pytest.raises((ringfence.JobError, ringfence.DataError)) as raised:
        train(**{"model": a_net(), "data": pairs(), "out": tmp_path / "run", **keys})

    assert told in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_a_data_set_that_does_not_fit_into_memory_is_refused_before_it_is_read(monkeypatch, tmp_path):
    monkeypatch.setattr(given_objects, "_free_bytes", lambda: 1000)
    with pytest.raises(ringfence.DataError, match="and 0 MiB of memory are free"):
        train(model=a_net(), data=Samples(pairs()[0]), out=tmp_path / "run")
