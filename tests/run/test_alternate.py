"""A job whose model has parts that take turns: one seed, one result; and what is wrong with one."""

import pytest

from ringfence.hooks.errors import RingfenceError
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

MODULE = """
import torch
from torch import nn
from torch.nn import functional


class Gan(nn.Module):
    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 784))
        self.discriminator = nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 1))

    def forward(self, inputs):
        made = self.generator(torch.randn(len(inputs), 4))
        return {"real": self.discriminator(inputs.flatten(1)), "made": self.discriminator(made)}


def judge(outputs, targets):
    return functional.softplus(-outputs["real"]).mean() + functional.softplus(outputs["made"]).mean()


def fool(outputs, targets):
    return functional.softplus(-outputs["made"]).mean()


def rows(outputs, targets):
    return outputs["made"]
"""
JOB = """\
model: "gan_by_turns:Gan"
data: {name: mnist10k, limit: 64}
steps: STEPS
batch_size: 16
threads: 1
metric: loss
loss: "gan_by_turns:fool"
alternate:
  - {match: "discriminator.*", loss: "gan_by_turns:judge", steps: 2}
  - {match: "generator.*", loss: "gan_by_turns:fool"}
plugins:
  - optim:
      algorithm: adam
      lr: 1e-3
      groups: [{match: "discriminator.*", lr: 4e-3}]
    isolation: trusted
"""


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "gan_by_turns.py").write_text(MODULE)

    def make(*changes, steps=7, **more):
        text = JOB.replace("STEPS", str(steps))
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        path = tmp_path / "job.yaml"
        path.write_text(text)
        return prepare(read_job(path), tmp_path, **more)

    return make


def sha_of(prepared, folder, **options):
    return execute(prepared, folder, RunOptions(report=False, **options)).result.weights_sha256


@pytest.mark.room
def test_one_seed_gives_one_gan_in_a_sandbox_too_and_when_it_is_made_longer(prepared, tmp_path):
    expected = sha_of(prepared(), tmp_path / "trusted")
    assert sha_of(prepared(("isolation: trusted", "isolation: sandbox")), tmp_path / "sandbox") == expected
    sha_of(prepared(steps=4), tmp_path / "longer")
    assert sha_of(prepared(resume=tmp_path / "longer"), tmp_path / "longer", resume=True) == expected
    assert sha_of(prepared(("steps: 2}", "steps: 1}")), tmp_path / "other") != expected


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            ('"discriminator.*", loss', '"discriminater.*", loss'),
            r"9:13: alternate\[0\].match: .* no param",
        ),
        (
            ('"generator.*", loss', '"generator.0.*", loss'),
            "alternate: no turn trains 'generator.2.weight'",
        ),
        (("gan_by_turns:judge", "gan_by_turns:juge"), r"9:.*: alternate\[0\].loss: .*did you mean 'judge'"),
        (
            ("gan_by_turns:judge", "gan_by_turns:rows"),
            r"alternate: the loss returned a tensor of .*\(16, 1\)",
        ),
        (("steps: 2}", "steps: 0}"), r"alternate\[0\].steps"),
    ],
)
def test_what_is_wrong_with_a_turn_is_told_before_the_start(prepared, change, told):
    with pytest.raises(RingfenceError, match=told):
        prepared(change)
