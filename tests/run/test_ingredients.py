"""What a job names of its model is found, or told by key and line before anything starts."""

import pytest

from ringfence.hooks.errors import JobError
from ringfence.job.job_file import check_job
from ringfence.job.yaml_document import parse_yaml
from ringfence.run.ingredients import build

JOB = """\
model: {name: mlp, hidden: [8]}
data: mnist10k
steps: 2
batch_size: 32
plugins: [{optim: {lr: 0.1}}]
"""


def setup_of(*lines, tmp_path):
    return build(check_job(parse_yaml(JOB + "\n".join(lines), "job.yaml")), tmp_path)


def test_patterns_freeze_what_they_name(tmp_path):
    names = {name for name, p in setup_of(tmp_path=tmp_path).model.named_parameters() if p.requires_grad}
    first = min(names).partition(".")[0]
    setup = setup_of("freeze:", f"  - '{first}.*'", tmp_path=tmp_path)
    assert setup.frozen
    assert setup.frozen == {name for name in names if name.startswith(first)}
    left = {name for name, p in setup.model.named_parameters() if p.requires_grad}
    assert left == names - setup.frozen


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (["freeze: ['hiden.*']"], r"job.yaml:6:10: freeze\[0\]: 'hiden.\*' matches no parameter"),
        (
            ["freeze:", "  - '*.weight'", "  - nope"],
            r"job.yaml:8:5: freeze\[1\]: 'nope' matches no .*known: ",
        ),
        (["freeze: ['*']"], r"job.yaml:6:9: freeze: leaves no parameter to train"),
        (["freeze: hidden"], r"job.yaml:6:9: freeze: expected a list, .*write 'freeze: \[…\]'"),
    ],
)
def test_a_pattern_that_freezes_nothing_or_all_is_refused_at_its_line(tmp_path, lines, told):
    with pytest.raises(JobError, match=told):
        setup_of(*lines, tmp_path=tmp_path)
