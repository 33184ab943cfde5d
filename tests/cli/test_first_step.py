"""A run that ends in its first step for good leaves nothing, and its message stands at the job's line."""

from pathlib import Path

import pytest

from .conftest import SMALL_JOB, TRUSTED_JOB

REFUSAL = "error: job.yaml:7:12: plugins[0].optim: plugin 'optim' says: "


EMPTY = "algorithm: adamw, groups: [{match: '*'}, {match: '*.bias', lr: 0.1}], lr: 1e-3"


@pytest.mark.parametrize("text", [SMALL_JOB, TRUSTED_JOB])
def test_a_group_without_a_parameter_is_told_at_the_jobs_line(ringfence, job, text):
    done = ringfence("train", job(text.replace("algorithm: adamw, lr: 1e-3", EMPTY)))
    assert done.status == 2
    assert done.err.startswith(f"{REFUSAL}group '*.bias' would be empty")
    assert "restarted" not in done.out + done.err
    assert not list(Path("runs").glob("*"))


def told(ringfence, job, options, *flags):
    done = ringfence("train", job(TRUSTED_JOB.replace("algorithm: adamw, lr: 1e-3", options)), *flags)
    assert done.status == 2
    assert "restarted" not in done.out + done.err
    assert not list(Path("runs").glob("*"))
    return done.err


def test_lbfgs_with_groups_is_told_and_leaves_an_empty_folder_empty(ringfence, job):
    Path("mine").mkdir()
    options = "algorithm: lbfgs, groups: [{'*.bias': {lr: 0.1}}]"
    message = told(ringfence, job, options, "--out", "mine")
    assert message.startswith(f"{REFUSAL}torch.optim.LBFGS: LBFGS doesn't support per-parameter options")
    assert {path.name for path in Path("mine").iterdir()} <= {".lock"}


def test_text_as_a_learning_rate_of_a_group_is_told(ringfence, job):
    message = told(ringfence, job, "algorithm: adamw, groups: [{'*.bias': {lr: fast}}]")
    assert "plugins[0].optim: plugin 'optim' says: group '*.bias' sets lr to 'fast'; expected" in message
