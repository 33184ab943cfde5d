"""What is told before the first step is true of the data, the model and the plan."""

import json

import torch
from torch import nn

from ringfence.engine.config import TrainConfig
from ringfence.engine.data import Data, Dataset
from ringfence.engine.losses import LOSSES
from ringfence.engine.trial import try_together
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run import start_facts
from ringfence.run.start_facts import start_facts as facts_of

JOB = check_job(parse_yaml("model: mlp\ndata: mnist10k\nsteps: 7\nplugins: [optim]\n", "job")).job


def facts(data, model=None, frozen=(), **settings):
    outputs = data.train.num_classes or data.train.targets.shape[1]
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(data.train.inputs[0].numel(), outputs))
    config = TrainConfig(**{"batch_size": 4, "steps": 7, "device": "cpu"} | settings)
    return facts_of(JOB, ["flip", "optim"], try_together(model, data, config, frozen), None)


def classes(targets, **more):
    targets = torch.tensor(targets)
    inputs = torch.arange(2 * len(targets), dtype=torch.uint8).view(-1, 1, 1, 2)
    return Dataset(inputs, targets, 3, **more)


def test_parts_tell_their_samples_class_by_class():
    names = ("ant", "bee", "cat")
    told = facts(Data(classes([0, 0, 2, 0, 0], class_names=names), classes([1, 1], class_names=names)))
    assert told["data"] == {
        "name": "mnist10k",
        "shape": [1, 1, 2],
        "dtype": "uint8",
        "range": [0, 9],
        "normalised": False,
        "classes": 3,
        "class_names": list(names),
        "parts": {
            "train": {"samples": 5, "a_class": [0, 4], "empty_classes": 1, "counts": [4, 0, 1]},
            "test": {"samples": 2, "a_class": [0, 2], "empty_classes": 2, "counts": [0, 2, 0]},
        },
    }


def test_numbers_have_no_classes_and_many_classes_no_list(monkeypatch):
    part = Dataset(torch.linspace(-1, 3, 10).view(5, 2), torch.zeros(5, 1), None)
    told = facts(Data(part, part), loss=LOSSES["mse"](), metric="mse")["data"]
    assert (told["range"], told["classes"], told["parts"]["train"]) == ([-1, 3], None, {"samples": 5})
    monkeypatch.setattr(start_facts, "MAX_CLASSES", 2)
    monkeypatch.setattr(start_facts, "MAX_LOOKED_AT_BYTES", 3)
    told = facts(Data(classes([0, 1, 2, 2]), classes([0])))["data"]
    assert told["range"] is None
    assert told["parts"]["train"] == {"samples": 4, "a_class": [1, 2], "empty_classes": 0}


def test_the_model_tells_what_is_trained_and_what_it_weighs():
    data = Data(classes([0, 1, 2, 2]), classes([0]))
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    told = facts(data, model, frozen={"1.weight", "1.bias"})["model"]
    assert (told["parameters"], told["trained"]) == (15 + 10 + 18, 10 + 18)
    assert told["bytes"] == 4 * (15 + 10 + 18) + 4 * 10 + 8
    assert [(row["name"], row["output"], row["parameters"]) for row in told["layers"]][1] == ("1", (5,), 15)


def test_the_plan_counts_the_end_too():
    data = Data(classes([0, 1, 2, 2, 1, 1]), classes([0]))
    plan = facts(data, eval_every=3, checkpoint_every=7)["plan"]
    assert (plan["steps"], plan["steps_per_epoch"], plan["epochs"]) == (7, 2, 3.5)
    assert (plan["evaluations"], plan["checkpoints"], plan["plugins"]) == (3, 1, ["flip", "optim"])


def test_it_is_json():
    told = facts(Data(classes([0, 1, 2]), classes([0])))
    assert json.loads(json.dumps(told))["plan"]["steps"] == 7
