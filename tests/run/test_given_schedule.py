"""A schedule of the user's own, by import path: tried before the start, and the same run as a builtin one."""

import pytest

from ringfence.hooks.errors import JobError
from ringfence.job.job_file import read_job
from ringfence.run.execute import RunOptions, execute
from ringfence.run.prepare import prepare

MODULE = """
import math

def line(step, total, end=0.0):
    return 1.0 - (1.0 - end) * min(step / total, 1.0)

def negative(step, total):
    return 1 - 2 * step / total

def broken(step, total):
    return math.log(step)

ten = 10
"""
JOB = """\
model: {name: mlp, hidden: [8]}
data: {name: mnist10k, limit: 64}
steps: 6
batch_size: 16
threads: 1
schedule: SCHEDULE
plugins:
  - optim: {algorithm: adamw, lr: 0.01}
    isolation: trusted
"""


@pytest.fixture
def prepared(tmp_path):
    (tmp_path / "own_schedules.py").write_text(MODULE)

    def make(schedule):
        path = tmp_path / "job.yaml"
        path.write_text(JOB.replace("SCHEDULE", schedule))
        return prepare(read_job(path), tmp_path)

    return make


def test_a_function_of_the_users_gives_the_weights_of_the_builtin_schedule(prepared, tmp_path):
    spelled = {
        "own": "{name: 'own_schedules:line', end: 0.25}",
        "builtin": "{name: linear, final_factor: 0.25}",
        "other": "'own_schedules:line'",
    }
    found = {
        key: execute(prepared(text), tmp_path / key, RunOptions(report=False)).result.weights_sha256
        for key, text in spelled.items()
    }
    assert found["own"] == found["builtin"] != found["other"]


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("'own_schedules:lin'", "module 'own_schedules' has no 'lin'.*did you mean 'line'"),
        ("'own_schedule:line'", "module 'own_schedule' could not be imported.*did you mean 'own_schedules'"),
        ("'own_schedules:ten'", "'own_schedules:ten' is a int, not a function"),
        ("{name: 'own_schedules:line', edn: 1}", "option 'edn' is unknown; known: end"),
        (
            "'own_schedules:negative'",
            "returned -0.33.* at step 4 of 6; it must be a finite",
        ),
        (
            "'own_schedules:broken'",
            r"raised ValueError: math domain .*own_schedules.py:11, in broken",
        ),
        ("linaer", "'linaer' is unknown; did you mean 'linear'"),
        ("{name: multistep, milestones: [3, x]}", r"milestones\[1\]: .*'x'"),
        ("{name: plateau, threshold_mode: real}", "threshold_mode: expected 'rel' or 'abs'"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_told_before_anything_starts(prepared, schedule, told):
    with pytest.raises(JobError, match=r"job.yaml:6:\d+: schedule.*" + told):
        prepared(schedule)
