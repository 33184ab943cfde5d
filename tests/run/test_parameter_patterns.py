"""A pattern that names no parameter is told at its own line, before a plugin is started."""

from pathlib import Path

import pytest
from torch import nn

from ringfence.hooks.errors import JobError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.prepare import prepare

JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 40}
steps: 2
batch_size: 8
plugins:
  - optim:
      algorithm: sgd
      lr: 0.1
"""


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(784, 10)
        self.twin = self.first

    def forward(self, inputs):
        return self.twin(inputs.flatten(1))


def prepared(*lines, model=None, isolation="sandbox"):
    text = JOB + "".join(f"      {line}\n" for line in lines) + f"    isolation: {isolation}\n"
    text = text if model is None else text.replace(", hidden: [8]", "")
    return prepare(
        check_job(parse_yaml(text, "job.yaml")), Path(), given={} if model is None else {"model": model}
    )


@pytest.mark.parametrize("isolation", ["sandbox", "trusted"])
@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ["groups:", "  - {match: '*.bias', lr: 0.2}", "  - {match: '*.bais|*.weight', lr: 0.2}"],
            r"job.yaml:11:19: .*groups\[1\].match: '\*.bais' matches no parameter of .*mean '\*.bias'",
        ),
        (["groups: [{'*.wieght': {lr: 0.2}}]"], r"job.yaml:9:17: .*'\*.wieght' matches no parameter"),
        (["no_decay: ['*.bias', nope]"], r"job.yaml:9:28: .*no_decay\[1\]: 'nope' matches no parameter"),
    ],
)
def test_a_pattern_is_told_by_its_line_with_near_names(lines, told, isolation):
    with pytest.raises(JobError, match=told):
        prepared(*lines, isolation=isolation)


def test_what_matches_is_no_problem_and_what_has_no_form_is_left_to_the_plugin():
    assert prepared("groups: [{match: '*.bias|*.weight', lr: 0.2}]", "no_decay: auto")
    assert prepared("groups: [{lr: 1, momentum: 2}]")


def test_another_name_of_a_tied_parameter_is_told_the_first():
    with pytest.raises(JobError, match=r"'twin.\*' is another name of a tied parameter; write 'first"):
        prepared("groups: [{match: 'twin.*', lr: 0.2}]", model=Tied())


def test_frozen_parameters_are_no_match():
    text = JOB + "      groups: [{match: '*.bias', lr: 0.2}]\nfreeze: ['*.bias']\n"
    with pytest.raises(
        JobError, match=r"'\*.bias' matches no parameter that is trained; '\d.bias' is frozen"
    ):
        prepare(check_job(parse_yaml(text, "job.yaml")), Path())
