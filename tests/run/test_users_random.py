"""Models and data of the user's own may draw from any global generator: one seed still gives one run."""

import random
import sys

import numpy as np
import pytest
import torch

from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

MODULE = """
import random

import numpy as np
import torch
from torch import nn


def noise(count=64):
    inputs = np.random.rand(count, 6).astype(np.float32)
    order = random.sample(range(count), count)
    targets = np.arange(count)[order] % 3
    return (inputs[:48], targets[:48]), (inputs[48:], targets[48:])


class Skips(nn.Module):
    def __init__(self, num_classes=3):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.first.weight.data = torch.tensor(np.random.randn(6, 6), dtype=torch.float32)
        self.last = nn.Linear(6, num_classes)
        nn.init.constant_(self.last.bias, random.random())

    def forward(self, inputs):
        skipped = self.training and np.random.rand() < 0.5
        return self.last(inputs if skipped else inputs + self.first(inputs).relu() * random.gauss(1, 0.1))
"""
JOB = """\
model: {name: "own_random_module:Skips"}
data: {name: "own_random_module:noise"}
steps: 9
batch_size: 16
threads: 1
seed: 3
checkpoint_every: 4
plugins:
  - optim: {algorithm: adamw, lr: 0.01}
    isolation: trusted
"""


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "own_random_module.py").write_text(MODULE)
    (tmp_path / "job.yaml").write_text(JOB)
    threads = torch.get_num_threads()
    yield tmp_path / "job.yaml"
    torch.set_num_threads(threads)
    sys.modules.pop("own_random_module", None)


def prepared(job, *sets):
    """Prepare the job where every generator stands elsewhere than before, as in another process."""
    torch.seed(), random.seed(), np.random.seed()  # noqa: NPY002
    return prepare(read_job(job, sets), job.parent)


def train(job, name, *sets, **more):
    return execute(prepared(job, *sets), job.parent / name, RunOptions(report=False, **more)).result


def test_two_runs_of_one_seed_end_with_the_same_weights(job):
    one, two = train(job, "one"), train(job, "two")
    assert one.weights_sha256 == two.weights_sha256
    assert train(job, "other", "seed=4").weights_sha256 != one.weights_sha256


def test_a_run_that_is_resumed_ends_with_the_weights_of_one_that_was_not(job):
    straight = train(job, "straight")
    assert train(job, "halved", "steps=5").steps == 5
    assert train(job, "halved", resume=True).weights_sha256 == straight.weights_sha256


def test_the_samples_are_the_same_whatever_the_seed(job):
    one, two = prepared(job).setup.data, prepared(job, "seed=4").setup.data
    assert torch.equal(one.test.inputs, two.test.inputs)
    assert torch.equal(one.train.targets, two.train.targets)
